//! Servers on many ports with one thread, which tell each client what they saw of it.

use std::io::{IoSlice, IoSliceMut, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::sockopt::{IpTransparent, Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6V6Only, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recvmsg, sendmsg, setsockopt,
    socket,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::super::namespace::Namespace;
use super::super::traffic::{Who, listener, original_destination};

const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// Servers of one name and owner; they stop when this is dropped.
pub(crate) struct Listeners {
    /// The thread stops when the other end of its socket is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

enum Socket {
    Tcp(TcpListener, u16),
    Udp(UdpSocket, u16),
    Stop,
}

impl Listeners {
    /// Servers on these ports, on all addresses of both families. With `transparent` they also get what was sent to
    /// addresses that are not the namespace's.
    pub(crate) fn start(name: &'static str, namespace: &Namespace, who: Who, transparent: bool, tcp: &[u16], udp: &[u16]) -> Listeners {
        let (ours, stop) = UnixStream::pair().unwrap();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let mut sockets = namespace.inside_as(who.0, who.1, || {
            let mut sockets = Vec::new();
            for any in ANY {
                sockets.extend(tcp.iter().map(|&port| Socket::Tcp(listener(SocketAddr::new(any, port), transparent), port)));
                sockets.extend(udp.iter().map(|&port| Socket::Udp(datagrams(SocketAddr::new(any, port), transparent), port)));
            }
            sockets
        });
        sockets.push(Socket::Stop);
        for (socket, index) in sockets.iter().zip(0..) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index);
            match socket {
                Socket::Tcp(socket, _) => epoll.add(socket, event),
                Socket::Udp(socket, _) => epoll.add(socket, event),
                Socket::Stop => epoll.add(&stop, event),
            }
            .unwrap();
        }
        let thread = std::thread::spawn(move || {
            let _stop = stop;
            // Accepted connections belong to whoever accepts them.
            setfsgid(Gid::from_raw(who.1));
            setfsuid(Uid::from_raw(who.0));
            serve(name, &epoll, &sockets);
        });
        Listeners { stop: Some(ours), thread: Some(thread) }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(name: &str, epoll: &Epoll, sockets: &[Socket]) {
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let Ok(count) = epoll.wait(&mut events, EpollTimeout::NONE) else { continue };
        for event in &events[..count] {
            match &sockets[usize::try_from(event.data()).unwrap()] {
                Socket::Tcp(listener, port) => {
                    while let Ok((mut stream, peer)) = listener.accept() {
                        let local = stream.local_addr().unwrap();
                        let wanted = original_destination(&stream, local);
                        // The client may be gone already.
                        let _ = stream.write_all(seen(name, *port, local, wanted, peer.ip()).as_bytes());
                    }
                }
                Socket::Udp(socket, port) => while answer_datagram(name, socket, *port).is_some() {},
                Socket::Stop => return,
            }
        }
    }
}

/// What a client is told. Its port is left out: it is another one each time.
fn seen(name: &str, port: u16, local: SocketAddr, wanted: Option<SocketAddr>, peer: IpAddr) -> String {
    let wanted = wanted.map_or_else(String::new, |address| format!(" instead of {address}"));
    format!("{name} on {port} at {local}{wanted}, from {peer}")
}

/// A socket that says which address a datagram was sent to.
fn datagrams(address: SocketAddr, transparent: bool) -> UdpSocket {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap();
    setsockopt(&fd, ReuseAddr, &true).unwrap();
    if address.is_ipv4() {
        setsockopt(&fd, Ipv4PacketInfo, &true).unwrap();
    } else {
        setsockopt(&fd, Ipv6V6Only, &true).unwrap();
        setsockopt(&fd, Ipv6RecvPacketInfo, &true).unwrap();
    }
    if transparent {
        setsockopt(&fd, IpTransparent, &true).unwrap();
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    UdpSocket::from(fd)
}

/// Answers one datagram, from the address that it was sent to. Nothing if there is none.
fn answer_datagram(name: &str, socket: &UdpSocket, port: u16) -> Option<()> {
    let mut question = [0; 64];
    let mut vector = [IoSliceMut::new(&mut question)];
    let mut space = nix::cmsg_space!(in6_pktinfo);
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut vector, Some(&mut space), MsgFlags::empty()).ok()?;
    let client = message.address.unwrap();
    let local = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into()),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    })?;
    let peer: IpAddr = match (client.as_sockaddr_in(), client.as_sockaddr_in6()) {
        (Some(address), _) => address.ip().into(),
        (_, Some(address)) => address.ip().into(),
        _ => return Some(()),
    };
    let text = seen(name, port, SocketAddr::new(local, port), None, peer);
    let (v4, v6);
    let from = match local {
        IpAddr::V4(address) => {
            let address = in_addr { s_addr: address.to_bits().to_be() };
            v4 = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            ControlMessage::Ipv4PacketInfo(&v4)
        }
        IpAddr::V6(address) => {
            v6 = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: address.octets() }, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&v6)
        }
    };
    // A client that cannot be reached has no answer, which is one too.
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(text.as_bytes())], &[from], MsgFlags::empty(), Some(&client));
    Some(())
}
