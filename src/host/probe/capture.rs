//! An application's connection, which the rules have to send to the proxy.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{LOOK, Trouble, Why};
use crate::host::connections::connections;
use crate::host::socket::{self, Handshake};
use crate::ruleset::Family;
use crate::ruleset::walk::loopback;

/// The probe: a connection that the rules should redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The address to connect from; else the one that the kernel chooses.
    pub from: Option<IpAddr>,
    /// Where an application would connect to.
    pub to: SocketAddr,
    /// The proxy's port, where it has to arrive.
    pub port: u16,
    /// Whether the kernel may be asked what the destination was.
    pub ask_original: bool,
    /// Whether somebody may have the address: no other host's program may hear of the connection then.
    pub confined: bool,
    /// How long it may take.
    pub timeout: Duration,
}

/// How the connection arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// With the right original destination.
    Original,
    /// The original destination was not asked for.
    Unasked,
    /// At a port on which this user listens, who alone could ask for it.
    At {
        /// The listener's user.
        uid: u32,
    },
}

/// How long the reason is looked for why nothing arrived.
const REASON: Duration = Duration::from_secs(1);

impl Capture {
    /// Listens where the proxy will, connects, and waits for the connection. Where somebody listens already, the kernel is
    /// asked instead where the connection is, and that somebody does not hear of it.
    pub fn run(&self) -> Result<Arrival, Trouble> {
        let family = if self.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let at = SocketAddr::new(loopback(family), self.port);
        self.arrive(at).map_err(|why| Trouble { to: self.to, at, timeout: self.timeout, why })
    }

    /// Does so; `here` is where the connection has to arrive.
    fn arrive(&self, here: SocketAddr) -> Result<Arrival, Why> {
        let deadline = Instant::now() + self.timeout;
        // A socket for datagrams finds the way and sends nothing.
        socket::connected_udp(self.to).map_err(Why::NoRoute)?;
        let listening = socket::listen_on(here, false);
        let others = connections(&|one| one.listens && one.local.port() == self.port).unwrap_or_default();
        let hears = others.iter().find(|one| one.hears(here.ip()));
        let listener = match (listening, hears) {
            (Ok(listener), _) => {
                let deaf = others.iter().find(|one| !one.hears(here.ip()) && one.local.is_ipv4() == here.is_ipv4());
                if let Some(other) = deaf {
                    return Err(Why::NotOnLoopback { on: other.local, uid: other.uid });
                }
                Some(listener)
            }
            (Err(_), Some(_)) => None,
            (Err(Errno::EADDRINUSE), None) => return Err(Why::Taken),
            (Err(errno), None) => return Err(Why::Listen(errno)),
        };
        let mut handshake = if listener.is_some() && !self.confined { Handshake::Full } else { Handshake::First };
        let mut client = self.dial(handshake, self.timeout)?;
        let mut own = client.local_addr().map_err(|_| Why::Lost)?;
        loop {
            if let Some(stream) = listener.as_ref().and_then(|listener| accept_from(listener, own)) {
                return self.original(&stream);
            }
            let arrived = connections(&|one| one.remote == own && !one.listens).unwrap_or_default();
            match arrived.first().map(|one| one.local.port()) {
                Some(port) if port != self.port => return Err(Why::Astray(port)),
                Some(_) if listener.is_none() => return Ok(Arrival::At { uid: hears.map_or(0, |one| one.uid) }),
                // A whole one will arrive here too.
                Some(_) if handshake == Handshake::First => {
                    handshake = Handshake::Full;
                    client = self.dial(handshake, self.timeout)?;
                    own = client.local_addr().map_err(|_| Why::Lost)?;
                }
                _ => {}
            }
            if Instant::now() >= deadline {
                // Nobody hears of a whole connection either then, and it tells what becomes of it.
                let is_deaf = handshake == Handshake::First && !self.confined;
                return Err(if is_deaf { self.dial(Handshake::Full, REASON).err().unwrap_or(Why::Lost) } else { Why::Lost });
            }
            sleep(LOOK);
        }
    }

    fn dial(&self, handshake: Handshake, timeout: Duration) -> Result<TcpStream, Why> {
        socket::dial(self.from, self.to, handshake, timeout).map_err(|errno| match errno {
            Errno::ETIMEDOUT => Why::Lost,
            errno => Why::Failed(errno),
        })
    }

    fn original(&self, stream: &TcpStream) -> Result<Arrival, Why> {
        if !self.ask_original {
            return Ok(Arrival::Unasked);
        }
        match socket::original_destination(stream, self.to.is_ipv4()) {
            Ok(original) if original == self.to => Ok(Arrival::Original),
            Ok(original) => Err(Why::Original(original)),
            Err(errno) => Err(Why::NoOriginal(errno)),
        }
    }
}

/// The connection from `peer`; others that came meanwhile are reset.
fn accept_from(listener: &TcpListener, peer: SocketAddr) -> Option<TcpStream> {
    std::iter::from_fn(|| socket::accept(listener)).find(|(_, from)| *from == peer).map(|(stream, _)| stream)
}
