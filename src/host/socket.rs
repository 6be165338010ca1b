//! Sockets for probes: connections that go no further than the first hop, and that are gone at once when they are
//! closed, so that a port is free again for whom it is meant.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::socket::sockopt::{Ip6tOriginalDst, OriginalDst, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, getsockopt, listen, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The hop limit of everything that is sent: enough for what stays in the pod, and for no host beyond the first.
const HOPS: c_int = 1;

/// Sets a socket option whose value is `value`, one number or two.
#[expect(clippy::cast_possible_truncation, reason = "the length is 4 or 8")]
fn set(fd: &impl AsFd, level: c_int, name: c_int, value: &[c_int]) -> Result<(), Errno> {
    // SAFETY: the kernel reads as many bytes as `value` has.
    let done = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), size_of_val(value) as u32) };
    Errno::result(done).map(drop)
}

/// An unconnected socket, not blocking where `flags` say so.
fn open(kind: SockType, is_ipv4: bool, flags: SockFlag) -> Result<OwnedFd, Errno> {
    let (family, level, name) = match is_ipv4 {
        true => (AddressFamily::Inet, libc::IPPROTO_IP, libc::IP_TTL),
        false => (AddressFamily::Inet6, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    };
    let fd = socket(family, kind, flags | SockFlag::SOCK_CLOEXEC, None)?;
    set(&fd, level, name, &[HOPS])?;
    Ok(fd)
}

/// Makes closing end the connection by a reset. Nothing of it lingers in TIME_WAIT, where it would hold the port.
#[doc(alias = "SO_LINGER")]
fn reset_on_close(fd: &impl AsFd) -> Result<(), Errno> {
    // struct linger: on, for 0 seconds.
    set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0])
}

/// Listens on `address`, with `shared` beside whoever else listens there and is willing to share too.
pub(super) fn listen_on(address: SocketAddr, shared: bool) -> Result<TcpListener, Errno> {
    let fd = open(SockType::Stream, address.is_ipv4(), SockFlag::SOCK_NONBLOCK)?;
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &[1])?;
    if shared {
        set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, &[1])?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(TcpListener::from(fd))
}

/// The next connection, if there is one.
pub(super) fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().ok()?;
    // Without it, it would only take longer to be gone.
    let _ = reset_on_close(&stream);
    Some((stream, peer))
}

/// How far a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// To its end.
    Full,
    /// Its first packet is sent, and no answer heard. A server has a connection in the making then, of which its program
    /// does not hear.
    First,
}

/// Makes a socket deaf: it hears packets only that have as many hops left as nobody sends them with.
#[doc(alias("IP_MINTTL", "IPV6_MINHOPCOUNT"))]
fn deafen(fd: &impl AsFd, is_ipv4: bool) -> Result<(), Errno> {
    let (level, name) = if is_ipv4 { (libc::IPPROTO_IP, libc::IP_MINTTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT) };
    set(fd, level, name, &[255])
}

/// Connects within `timeout`; does not wait where only the first packet is sent.
pub(super) fn dial(from: Option<IpAddr>, to: SocketAddr, handshake: Handshake, timeout: Duration) -> Result<TcpStream, Errno> {
    let flags = if handshake == Handshake::First { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let fd = open(SockType::Stream, to.is_ipv4(), flags)?;
    reset_on_close(&fd)?;
    if handshake == Handshake::First {
        deafen(&fd, to.is_ipv4())?;
    }
    // It limits connect too. 0 would mean for ever.
    let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX).max(1);
    setsockopt(&fd, SendTimeout, &TimeVal::milliseconds(millis))?;
    if let Some(from) = from {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    }
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Err(Errno::EINPROGRESS) if handshake == Handshake::First => Ok(TcpStream::from(fd)),
        Err(Errno::EINPROGRESS) => Err(Errno::ETIMEDOUT),
        result => result.map(|()| TcpStream::from(fd)),
    }
}

/// How long a UDP socket waits for something to receive.
const RECEIVING: i64 = 20;

/// A UDP socket that is nowhere yet.
pub(super) fn udp(is_ipv4: bool) -> Result<OwnedFd, Errno> {
    let fd = open(SockType::Datagram, is_ipv4, SockFlag::empty())?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(RECEIVING))?;
    Ok(fd)
}

/// A UDP socket that talks with `to` alone and hears of errors on the way. Nothing is sent: without a route it fails.
pub(super) fn connected_udp(to: SocketAddr) -> Result<UdpSocket, Errno> {
    connected(udp(to.is_ipv4())?, to)
}

#[doc(alias("IP_RECVERR", "IPV6_RECVERR"))]
fn connected(fd: OwnedFd, to: SocketAddr) -> Result<UdpSocket, Errno> {
    let (level, name) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set(&fd, level, name, &[1])?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(UdpSocket::from(fd))
}

/// The same, so that no other host's program gets what is sent. With IPv4 it goes from 127.0.0.1 by `lo` and is lost there
/// unless a rule redirects it. IPv6 knows no such way; it has no checksum there, so that every host discards it but for a socket that
/// [takes it](take_unchecked).
#[doc(alias("SO_BINDTODEVICE", "UDP_NO_CHECK6_TX"))]
pub(super) fn confined_udp(to: SocketAddr) -> Result<UdpSocket, Errno> {
    let fd = udp(to.is_ipv4())?;
    match to {
        SocketAddr::V4(_) => {
            set(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &[c_int::from_ne_bytes(*b"lo\0\0")])?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
        }
        SocketAddr::V6(_) => set(&fd, libc::SOL_UDP, NO_CHECK6_TX, &[1])?,
    }
    connected(fd, to)
}

/// The options of UDP over IPv6 to send, and to take, what has no checksum.
const NO_CHECK6_TX: c_int = 101;
const NO_CHECK6_RX: c_int = 102;

/// Lets an IPv6 socket take what has no checksum.
#[doc(alias = "UDP_NO_CHECK6_RX")]
pub(super) fn take_unchecked(fd: &impl AsFd) -> Result<(), Errno> {
    set(fd, libc::SOL_UDP, NO_CHECK6_RX, &[1])
}

/// Whether what is sent to an IPv4 address goes there without a gateway. Nothing is sent.
#[doc(alias = "SO_DONTROUTE")]
pub(super) fn is_on_link(to: SocketAddr) -> bool {
    let direct = || {
        let fd = udp(to.is_ipv4())?;
        set(&fd, libc::SOL_SOCKET, libc::SO_DONTROUTE, &[1])?;
        connected(fd, to)
    };
    to.is_ipv4() && direct().is_ok()
}

/// Waits up to `timeout` for whoever else in the network namespace has taken `name`; it is given back on drop.
pub(super) fn take_turn(name: &[u8], timeout: Duration) -> Option<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let address = UnixAddr::new_abstract(name).ok()?;
    let deadline = Instant::now() + timeout;
    while bind(fd.as_raw_fd(), &address) == Err(Errno::EADDRINUSE) && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
    Some(fd)
}

/// Where the connection was going before the packet filter changed its destination.
#[doc(alias("SO_ORIGINAL_DST", "IP6T_SO_ORIGINAL_DST"))]
pub(super) fn original_destination(stream: &TcpStream, is_ipv4: bool) -> Result<SocketAddr, Errno> {
    Ok(if is_ipv4 {
        let raw = getsockopt(stream, OriginalDst)?;
        SocketAddrV4::new(u32::from_be(raw.sin_addr.s_addr).into(), u16::from_be(raw.sin_port)).into()
    } else {
        let raw = getsockopt(stream, Ip6tOriginalDst)?;
        SocketAddrV6::new(raw.sin6_addr.s6_addr.into(), u16::from_be(raw.sin6_port), 0, 0).into()
    })
}

/// The name of a device by its number. The C library's function for it would bring much along.
#[doc(alias = "SIOCGIFNAME")]
pub(super) fn device_name(index: u32) -> Result<String, Errno> {
    let fd = udp(true).or_else(|_| udp(false))?;
    let mut request =
        libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_ifindex: index.cast_signed() } };
    // SAFETY: the kernel reads and writes one struct ifreq, for which there is room.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFNAME as _, &raw mut request) })?;
    Ok(request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| char::from(byte.cast_unsigned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::connections::connections;
    use crate::host::testing::in_new_namespace;

    const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_port_is_free_at_once_after_a_connection() {
        in_new_namespace("socket port", |_| {
            for _ in 0..3 {
                let listener = listen_on(HERE, false).unwrap();
                let client = dial(None, HERE, Handshake::Full, PATIENCE).unwrap();
                let (stream, peer) = accept(&listener).unwrap();
                assert_eq!(peer, client.local_addr().unwrap());
                drop((listener, stream, client));
                // Without SO_REUSEADDR, which would overlook a connection in TIME_WAIT.
                let fd = open(SockType::Stream, true, SockFlag::empty()).unwrap();
                bind(fd.as_raw_fd(), &SockaddrStorage::from(HERE)).unwrap();
            }
        });
    }

    #[test]
    fn a_server_never_hears_of_a_first_packet_alone() {
        in_new_namespace("socket handshake", |_| {
            for here in [HERE, "[::1]:15001".parse().unwrap()] {
                let server = listen_on(here, false).unwrap();
                let first = dial(None, here, Handshake::First, PATIENCE).unwrap();
                let second = dial(None, here, Handshake::Full, PATIENCE).unwrap();
                assert_eq!(accept(&server).unwrap().1, second.local_addr().unwrap());
                assert!(accept(&server).is_none());
                let own = first.local_addr().unwrap();
                assert_eq!(connections(&|one| one.remote == own && one.local == here).unwrap().len(), 1);
            }
        });
    }

    #[test]
    fn devices_have_names() {
        in_new_namespace("socket device", |socket| {
            let lo = crate::kernel::route::loopback_index(socket).unwrap();
            assert_eq!(device_name(lo).unwrap(), "lo");
            assert_eq!(device_name(9999).unwrap_err(), Errno::ENODEV);
        });
    }

    #[test]
    fn only_the_willing_share_a_port() {
        in_new_namespace("socket shared", |_| {
            let _first = listen_on(HERE, true).unwrap();
            let _second = listen_on(HERE, true).unwrap();
            assert_eq!(listen_on(HERE, false).unwrap_err(), Errno::EADDRINUSE);
        });
    }

    #[test]
    fn without_a_route_a_socket_does_not_connect() {
        in_new_namespace("socket route", |_| {
            for (to, errno) in [("192.0.2.1:53", Errno::ENETUNREACH), ("[2001:db8::1]:53", Errno::ENETUNREACH)] {
                let to = to.parse().unwrap();
                assert_eq!(connected_udp(to).unwrap_err(), errno);
                assert_eq!(dial(None, to, Handshake::Full, PATIENCE).unwrap_err(), errno);
            }
        });
    }
}
