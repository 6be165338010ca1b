//! Real connections: servers that tell what they saw, and clients that are somebody.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ip6tOriginalDst, IpTransparent, Ipv6V6Only, OriginalDst, ReuseAddr};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt, socket};

use super::namespace::Namespace;

/// How long a client waits for a connection or an answer that should come.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A user and a group.
pub(crate) type Who = (u32, u32);

/// An application's user.
pub(crate) const APP: Who = (1000, 1000);
/// Istio's proxy.
pub(crate) const ISTIO_PROXY: Who = (1337, 1337);
/// Linkerd's proxy.
pub(crate) const LINKERD_PROXY: Who = (2102, 2102);

/// What a server saw of a connection, as it told the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The port that the server listens on, whatever the client asked for.
    pub(crate) port: u16,
    /// The server's end of the connection.
    pub(crate) local: SocketAddr,
    /// Where the client wanted to go, if the filter changed that.
    pub(crate) original: Option<SocketAddr>,
    /// The client as the server sees it.
    pub(crate) peer: SocketAddr,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let original = self.original.map_or_else(|| "-".to_owned(), |address| address.to_string());
        write!(f, "{} {} {original} {}", self.port, self.local, self.peer)
    }
}

impl Seen {
    fn parse(text: &str) -> Seen {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [port, local, original, peer] = words[..] else { panic!("not an answer: {text:?}") };
        Seen {
            port: port.parse().unwrap(),
            local: local.parse().unwrap(),
            original: (original != "-").then(|| original.parse().unwrap()),
            peer: peer.parse().unwrap(),
        }
    }
}

/// Servers in one namespace; they stop when this is dropped.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// TCP servers on these ports, on all addresses of both families.
    pub(crate) fn tcp(namespace: &Namespace, ports: &[u16]) -> Servers {
        Servers::start(namespace, (0, 0), ports, false)
    }

    /// The same with `IP_TRANSPARENT`, so that they are given connections to other addresses too.
    pub(crate) fn transparent(namespace: &Namespace, who: Who, ports: &[u16]) -> Servers {
        Servers::start(namespace, who, ports, true)
    }

    fn start(namespace: &Namespace, (uid, gid): Who, ports: &[u16], transparent: bool) -> Servers {
        let mut servers = Servers { stop: Arc::default(), threads: Vec::new() };
        for &port in ports {
            for any in every_address() {
                let listener = namespace.inside_as(uid, gid, || listener(SocketAddr::new(any, port), transparent));
                servers.serve(move || accept(&listener, port));
            }
        }
        servers
    }

    /// UDP servers at these addresses, whose sockets belong to `who`.
    pub(crate) fn udp(namespace: &Namespace, (uid, gid): Who, addresses: &[SocketAddr]) -> Servers {
        let mut servers = Servers { stop: Arc::default(), threads: Vec::new() };
        for &address in addresses {
            let server = namespace.inside_as(uid, gid, || UdpSocket::bind(address)).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            servers.serve(move || {
                let mut question = [0; 64];
                if let Ok((_, peer)) = server.recv_from(&mut question) {
                    let seen = Seen { port: address.port(), local: address, original: None, peer };
                    server.send_to(seen.to_string().as_bytes(), peer).unwrap();
                }
            });
        }
        servers
    }

    fn serve(&mut self, mut once: impl FnMut() + Send + 'static) {
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                once();
            }
        }));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What stands for all addresses of a family, for the families that this kernel has.
fn every_address() -> impl Iterator<Item = IpAddr> {
    let v6 = Path::new("/proc/net/if_inet6").exists().then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED)].into_iter().chain(v6)
}

/// Listens on an address; with `transparent` for connections to any address that are sent to its port.
pub(crate) fn listener(address: SocketAddr, transparent: bool) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, ReuseAddr, &true).unwrap();
    if address.is_ipv6() {
        setsockopt(&fd, Ipv6V6Only, &true).unwrap();
    }
    if transparent {
        setsockopt(&fd, IpTransparent, &true).unwrap();
    }
    let storage = SockaddrStorage::from(address);
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &storage).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    listen(&fd, Backlog::new(1024).unwrap()).unwrap();
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &TcpListener, port: u16) {
    match listener.accept() {
        Ok((mut stream, peer)) => {
            let local = stream.local_addr().unwrap();
            let seen = Seen { port, local, original: original_destination(&stream, local), peer };
            // The client may be gone already.
            let _ = stream.write_all(seen.to_string().as_bytes());
        }
        Err(_) => std::thread::sleep(Duration::from_millis(1)),
    }
}

/// Where the connection was going before the filter sent it here, or nothing if it was going here.
pub(crate) fn original_destination(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let original: SocketAddr = if local.is_ipv4() {
        let raw = getsockopt(stream, OriginalDst).ok()?;
        SocketAddrV4::new(u32::from_be(raw.sin_addr.s_addr).into(), u16::from_be(raw.sin_port)).into()
    } else {
        let raw = getsockopt(stream, Ip6tOriginalDst).ok()?;
        SocketAddrV6::new(raw.sin6_addr.s6_addr.into(), u16::from_be(raw.sin6_port), 0, 0).into()
    };
    // Connection tracking remembers every destination, changed or not.
    (original != local).then_some(original)
}

impl Namespace {
    /// Binds a TCP port without SO_REUSEADDR, which would overlook a connection in TIME_WAIT. That would be there for a
    /// minute; a process that another test is just starting may have a copy of a socket of ours for a moment.
    #[track_caller]
    pub(crate) fn bind_at_once(&self, address: SocketAddr) {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let give_up = Instant::now() + PATIENCE;
        let bound = || {
            let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(address))
        };
        while let Err(errno) = self.inside(bound) {
            assert!(Instant::now() < give_up, "{address} cannot be bound: {errno}");
        }
    }

    /// Connects over TCP as `who` and returns what the server at the other end saw.
    pub(crate) fn connect(&self, (uid, gid): Who, to: SocketAddr) -> Result<Seen, ErrorKind> {
        self.inside_as(uid, gid, || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.kind())?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map_err(|error| error.kind())?;
            Ok(Seen::parse(&answer))
        })
    }

    /// Asks over UDP as `who`. Only an answer from the address that was asked counts.
    pub(crate) fn ask(&self, (uid, gid): Who, to: SocketAddr) -> Result<Seen, ErrorKind> {
        self.inside_as(uid, gid, || {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(to).map_err(|error| error.kind())?;
            socket.send(b"?").map_err(|error| error.kind())?;
            let mut answer = [0; 256];
            let length = socket.recv(&mut answer).map_err(|error| error.kind())?;
            Ok(Seen::parse(std::str::from_utf8(&answer[..length]).unwrap()))
        })
    }
}

/// `address:port` from text.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}
