//! Live probes: traffic that shows whether rules do what they are there for.
//!
//! They need no privilege and stay in the pod. What would leave it because the rules are wrong gets as far as the first
//! hop, and no program there hears of it. Connections end by a reset, so that nothing of a probe is left on the proxy's ports.

mod capture;
mod passthrough;
mod resolver;
mod trouble;
mod validator;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use self::capture::{Arrival, Capture};
pub use self::passthrough::{Passthrough, PassthroughError};
pub use self::resolver::{Answer, AnsweringSockets, Resolver};
pub use self::trouble::{Trouble, Why};
pub use self::validator::{Invalid, Validator};
use super::socket;
use crate::ruleset::Family;
use crate::ruleset::routing::PASSTHROUGH_V6;

/// How long to wait before looking again for what is nearly always there at once.
const LOOK: Duration = Duration::from_millis(1);

/// The address through which Istio's proxy passes connections on inside the pod.
pub fn passthrough(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(127, 0, 0, 6).into(),
        Family::V6 => PASSTHROUGH_V6.into(),
    }
}

/// The address from which something that is sent to `to` would come, if there is a way. Nothing is sent.
pub fn source_towards(to: IpAddr) -> Option<IpAddr> {
    let socket = socket::connected_udp(SocketAddr::new(to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether what is sent to `to` goes to whoever has that address, without a gateway between. Nothing is sent. This is
/// known of IPv4 alone.
pub fn is_on_link(to: IpAddr) -> bool {
    socket::is_on_link(SocketAddr::new(to, 9))
}

/// One probe's turn in the network namespace: two would be in each other's way on the proxy's ports.
#[derive(Debug)]
pub struct Turn {
    _name: Option<OwnedFd>,
}

impl Turn {
    /// Waits for it, and goes on without after `timeout`.
    pub fn take(timeout: Duration) -> Turn {
        Turn { _name: socket::take_turn(b"mesh-init probe", timeout) }
    }
}

/// The name of the device with that number.
pub fn device_name(index: u32) -> Option<String> {
    socket::device_name(index).ok()
}
