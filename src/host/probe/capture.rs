//! An application's connection, which the rules have to send to the proxy.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{LOOK, Trouble};
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

impl Capture {
    /// Listens where the proxy will, connects, and waits for the connection. Where somebody listens already, the kernel is
    /// asked instead where the connection is, and that somebody does not hear of it.
    pub fn run(&self) -> Result<Arrival, Trouble> {
        let deadline = Instant::now() + self.timeout;
        let here = self.here();
        // A socket for datagrams finds the way and sends nothing.
        socket::connected_udp(self.to).map_err(|errno| Trouble::NoRoute { to: self.to, errno })?;
        let (listener, taken) = match socket::listen_on(here, false) {
            Ok(listener) => (Some(listener), None),
            Err(errno) => (None, Some(errno)),
        };
        let others = connections(&|one| one.listens && one.local.port() == self.port).unwrap_or_default();
        let uid = others.iter().find(|one| one.hears(here.ip())).map(|one| one.uid);
        match (taken, uid) {
            (None, _) => {
                let deaf = others.iter().find(|one| !one.hears(here.ip()) && one.local.is_ipv4() == here.is_ipv4());
                if let Some(other) = deaf {
                    return Err(Trouble::NotOnLoopback { on: other.local, uid: other.uid, at: here });
                }
            }
            (Some(Errno::EADDRINUSE), None) => return Err(Trouble::Taken { at: here }),
            (Some(errno), None) => return Err(Trouble::Listen { at: here, errno }),
            (Some(_), Some(_)) => {}
        }
        let handshake = if listener.is_some() { Handshake::Full } else { Handshake::Unfinished };
        let client = socket::dial(self.from, self.to, handshake, self.timeout).map_err(|errno| match errno {
            Errno::ETIMEDOUT => self.lost(),
            errno => Trouble::Failed { to: self.to, at: here, errno },
        })?;
        let own = client.local_addr().map_err(|_| self.lost())?;
        loop {
            if let Some(stream) = listener.as_ref().and_then(|listener| accept_from(listener, own)) {
                return self.original(&stream);
            }
            match connections(&|one| one.remote == own && !one.listens).unwrap_or_default().first().map(|one| one.local.port()) {
                Some(port) if port != self.port => return Err(Trouble::Astray { to: self.to, at: here, port }),
                Some(_) if listener.is_none() => return Ok(Arrival::At { uid: uid.unwrap_or_default() }),
                _ => {}
            }
            if Instant::now() >= deadline {
                return Err(self.lost());
            }
            sleep(LOOK);
        }
    }

    /// Where the connection has to arrive.
    fn here(&self) -> SocketAddr {
        SocketAddr::new(loopback(if self.to.is_ipv4() { Family::V4 } else { Family::V6 }), self.port)
    }

    fn lost(&self) -> Trouble {
        Trouble::Lost { to: self.to, at: self.here(), after: self.timeout }
    }

    fn original(&self, stream: &TcpStream) -> Result<Arrival, Trouble> {
        let (to, at) = (self.to, self.here());
        if !self.ask_original {
            return Ok(Arrival::Unasked);
        }
        match socket::original_destination(stream, to.is_ipv4()) {
            Ok(original) if original == to => Ok(Arrival::Original),
            Ok(original) => Err(Trouble::Original { to, at, original }),
            Err(errno) => Err(Trouble::NoOriginal { to, at, errno }),
        }
    }
}

/// The connection from `peer`; others that came meanwhile are reset.
fn accept_from(listener: &TcpListener, peer: SocketAddr) -> Option<TcpStream> {
    std::iter::from_fn(|| socket::accept(listener)).find(|(_, from)| *from == peer).map(|(stream, _)| stream)
}
