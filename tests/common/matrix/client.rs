//! Asking questions, many at a time, so that the ones without an answer are waited for together.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{IpTransparent, Ipv4RecvErr, Ipv6RecvErr, Mark, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, recv, sendto, setsockopt, socket,
};

use super::question::{Means, Question};

/// How many are asked at the same time.
const AT_ONCE: usize = 64;
/// What the answer is if nothing came.
pub(crate) const SILENCE: &str = "no answer";

/// The answers to questions of one user, who is the caller. One that was not given within `patience` counts as none.
pub(crate) fn ask(questions: &[Question], patience: Duration) -> Vec<String> {
    questions.chunks(AT_ONCE).flat_map(|chunk| ask_together(chunk, patience)).collect()
}

enum Asked {
    Tcp(TcpStream),
    Udp(UdpSocket),
    Stray(OwnedFd),
}

fn ask_together(questions: &[Question], patience: Duration) -> Vec<String> {
    let asked: Vec<Result<Asked, Errno>> = questions.iter().map(start).collect();
    let mut deadline = Instant::now() + patience;
    let mut answers = Vec::new();
    for (question, asked) in questions.iter().zip(asked) {
        let answer = asked.map_or_else(|error| Err(error.into()), |asked| finish(question, asked, deadline));
        if answer.is_ok() {
            // The others may be late for the same reason, a busy machine.
            deadline = deadline.max(Instant::now() + patience / 3);
        }
        answers.push(answer.unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => SILENCE.to_owned(),
            kind => format!("{kind:?}"),
        }));
    }
    answers
}

fn start(question: &Question) -> Result<Asked, Errno> {
    let family = if question.to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match question.means {
        Means::Tcp => (SockType::Stream, None),
        Means::Udp => (SockType::Datagram, None),
        Means::Stray => (SockType::Raw, Some(SockProtocol::Tcp)),
    };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    let to = SockaddrStorage::from(question.to);
    let any: IpAddr = if question.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    if question.source.is_some() && (question.is_from_outside() || question.mark.is_some()) {
        // The world is at home everywhere, but that is not written in the table that `bind` looks at. In the pod it is the
        // proxy that speaks in another's name.
        setsockopt(&fd, IpTransparent, &true)?;
    }
    if question.means != Means::Stray {
        setsockopt(&fd, ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(question.source.unwrap_or(any), question.source_port)))?;
    }
    if let Some(mark) = question.mark {
        setsockopt(&fd, Mark, &mark)?;
    }
    match question.means {
        Means::Tcp => match connect(fd.as_raw_fd(), &to) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Asked::Tcp(TcpStream::from(fd))),
            Err(error) => Err(error),
        },
        Means::Udp => {
            // Not connected, to hear answers from elsewhere too; that errors are told all the same has to be asked for.
            if question.to.is_ipv4() { setsockopt(&fd, Ipv4RecvErr, &true) } else { setsockopt(&fd, Ipv6RecvErr, &true) }?;
            sendto(fd.as_raw_fd(), b"?", &to, MsgFlags::empty())?;
            Ok(Asked::Udp(UdpSocket::from(fd)))
        }
        Means::Stray => {
            let segment = segment_without_flags(question.source_port, question.to)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
            sendto(fd.as_raw_fd(), &segment, &SockaddrStorage::from(SocketAddr::new(question.to.ip(), 0)), MsgFlags::empty())?;
            Ok(Asked::Stray(fd))
        }
    }
}

fn finish(question: &Question, asked: Asked, deadline: Instant) -> std::io::Result<String> {
    let left = || Some(deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    match asked {
        Asked::Tcp(mut stream) => {
            // A read waits for the connection, too.
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(left())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        }
        Asked::Udp(socket) => {
            socket.set_nonblocking(false)?;
            socket.set_read_timeout(left())?;
            let mut answer = [0; 256];
            let (length, from) = socket.recv_from(&mut answer)?;
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            // The real client would not take this one.
            Ok(if from == question.to { answer } else { format!("{answer}, answered by {from}") })
        }
        Asked::Stray(fd) => loop {
            let mut packet = [0; 128];
            let Ok(length) = recv(fd.as_raw_fd(), &mut packet, MsgFlags::empty()) else {
                if Instant::now() >= deadline {
                    return Err(ErrorKind::TimedOut.into());
                }
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            // For IPv4 the packet's own header comes first.
            let header = if question.to.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
            let ports = [question.to.port().to_be_bytes(), question.source_port.to_be_bytes()].concat();
            if packet[..length].get(header..header + 4) == Some(&ports[..]) {
                return Ok(format!("TCP flags {:#04x}", packet[header + 13]));
            }
        },
    }
}

/// A TCP header without any flag: no connection begins so, and connection tracking finds it invalid.
fn segment_without_flags(port: u16, to: SocketAddr) -> std::io::Result<[u8; 20]> {
    let probe = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    probe.connect(to)?;
    let mut header = [0; 20];
    header[..2].copy_from_slice(&port.to_be_bytes());
    header[2..4].copy_from_slice(&to.port().to_be_bytes());
    header[12] = 5 << 4;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Protocol 6 and the length, as both families' pseudo headers have them.
    let summed = [octets(probe.local_addr()?.ip()), octets(to.ip()), vec![0, 6, 0, 20], header.to_vec()].concat();
    let sum: u32 = summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    header[16..18].copy_from_slice(&(!folded).to_be_bytes()[2..]);
    Ok(header)
}
