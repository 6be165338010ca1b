//! Live probes: traffic that shows whether rules do what they are there for.
//!
//! They need no privilege and stay in the pod. What would leave it because the rules are wrong gets as far as the first
//! hop. Connections end by a reset, so that nothing of a probe is left on the proxy's ports.

mod capture;
mod passthrough;
mod resolver;
mod trouble;
mod validator;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use self::capture::{Arrival, Capture};
pub use self::passthrough::{Passthrough, PassthroughError};
pub use self::resolver::{Answer, AnsweringSockets, Resolver};
pub use self::trouble::Trouble;
pub use self::validator::{Invalid, Validator};
use crate::ruleset::Family;

/// How long to wait before looking again for what is nearly always there at once.
const LOOK: Duration = Duration::from_millis(1);

/// Where redirected traffic of the pod's own comes out.
fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}
