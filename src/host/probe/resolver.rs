//! A DNS query over UDP, which the rules have to send to the proxy's resolver, and its answer, which has to come back
//! from the server that was asked.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, bind};
use nix::unistd::{Uid, setfsuid};

use super::{Trouble, Why};
use crate::host::socket;
use crate::ruleset::Family;
use crate::ruleset::walk::loopback;

/// The probe: a query that the rules should redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The server that an application would ask.
    pub server: SocketAddr,
    /// The port of the proxy's resolver, where the query has to arrive.
    pub port: u16,
    /// Whether somebody may have the server's address: no other host's program may get the query then.
    pub confined: bool,
    /// How long it may take.
    pub timeout: Duration,
}

/// How far query and answer got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The query arrived, and an answer came back from the server's address.
    CameBack,
    /// The query arrived. An answer would have to be sent by the proxy's user.
    NotSent,
    /// Whoever holds the resolver's port answered, from the server's address.
    Given,
}

/// Sockets of the proxy's user, who alone can send answers that the rules translate back.
#[derive(Debug)]
pub struct AnsweringSockets {
    uid: u32,
    of: [Option<OwnedFd>; 2],
}

impl AnsweringSockets {
    /// Sockets that belong to the user `uid`, if this thread may make such (`CAP_SETUID`).
    pub fn of_user(uid: u32) -> Option<AnsweringSockets> {
        let before = setfsuid(Uid::from_raw(uid));
        // An id that nobody has changes nothing; what is told is the one that holds.
        let holds = setfsuid(Uid::from_raw(u32::MAX)).as_raw() == uid;
        let of = Family::ALL.map(|family| socket::udp(loopback(family).is_ipv4()).ok().filter(|_| holds));
        setfsuid(before);
        holds.then_some(AnsweringSockets { uid, of })
    }

    /// Whose they are.
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

/// The flag of an answer in the third byte of a DNS message.
const ANSWER: u8 = 0x80;

impl Resolver {
    /// Listens where the resolver will, asks, and answers. Where somebody holds the port, the answer is left to them: the
    /// query asks for nothing, so that a resolver can only say so and asks nobody else.
    pub fn run(&self, sockets: Option<&mut AnsweringSockets>) -> Result<Answer, Trouble> {
        let family = if self.server.is_ipv4() { Family::V4 } else { Family::V6 };
        let at = SocketAddr::new(loopback(family), self.port);
        let own = sockets.and_then(|sockets| sockets.of[usize::from(family == Family::V6)].take());
        self.converse(at, own).map_err(|why| Trouble { to: self.server, at, timeout: self.timeout, why })
    }

    /// Does so; `own` is a socket that may answer.
    fn converse(&self, at: SocketAddr, own: Option<OwnedFd>) -> Result<Answer, Why> {
        let mut client = socket::connected_udp(self.server).map_err(Why::NoRoute)?;
        if self.confined {
            client = socket::confined_udp(self.server).map_err(Why::NotConfined)?;
        }
        let may_answer = own.is_some();
        let listener = match bound(own, at) {
            Ok(listener) => Some(listener),
            // Its holder would not get what has no checksum.
            Err(errno @ Errno::EADDRINUSE) if self.confined && at.is_ipv6() => return Err(Why::NotConfined(errno)),
            Err(Errno::EADDRINUSE) => None,
            Err(errno) => return Err(Why::Listen(errno)),
        };
        // A header alone, with an id of its own.
        let [high, low, ..] = RandomState::new().hash_one(self.port).to_ne_bytes();
        let query = [high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        match talk(&client, listener.as_ref(), may_answer, query, Instant::now() + self.timeout) {
            Ok(Talk::Ended(answer)) => Ok(answer),
            Ok(Talk::Unheard) => Err(Why::Lost),
            Ok(Talk::Unanswered) if listener.is_some() => Err(Why::NoAnswer),
            Ok(Talk::Unanswered) => Err(Why::Silent),
            Err(error) => Err(Why::Failed(Errno::from_raw(error.raw_os_error().unwrap_or_default()))),
        }
    }
}

/// How far a conversation got.
enum Talk {
    Ended(Answer),
    /// The query was not heard.
    Unheard,
    /// No answer came.
    Unanswered,
}

/// Asks by `client` what `listener` has to hear and to answer. Both stop receiving every now and then.
fn talk(client: &UdpSocket, listener: Option<&UdpSocket>, may_answer: bool, query: [u8; 12], deadline: Instant) -> io::Result<Talk> {
    let mut buffer = [0; 512];
    client.send(&query)?;
    if let Some(listener) = listener {
        let own = client.local_addr()?;
        loop {
            match listener.recv_from(&mut buffer) {
                Ok((length, from)) if from == own && buffer[..length] == query => break,
                _ if Instant::now() >= deadline => return Ok(Talk::Unheard),
                _ => {}
            }
            if let Some(error) = client.take_error()? {
                return Err(error);
            }
        }
        if !may_answer {
            return Ok(Talk::Ended(Answer::NotSent));
        }
        let mut answer = query;
        answer[2] = ANSWER;
        listener.send_to(&answer, own)?;
    }
    loop {
        match client.recv(&mut buffer) {
            Ok(length) if length >= query.len() && buffer[..2] == query[..2] && buffer[2] & ANSWER != 0 => {
                return Ok(Talk::Ended(if listener.is_some() { Answer::CameBack } else { Answer::Given }));
            }
            Err(error) if !is_timeout(&error) => return Err(error),
            _ if Instant::now() >= deadline => return Ok(Talk::Unanswered),
            _ => {}
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EAGAIN | Errno::EINTR))
}

/// `own`, or else a new socket, at `address`.
fn bound(own: Option<OwnedFd>, address: SocketAddr) -> Result<UdpSocket, Errno> {
    let fd = own.map_or_else(|| socket::udp(address.is_ipv4()), Ok)?;
    if address.is_ipv6() {
        socket::take_unchecked(&fd)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(fd))
}
