//! What a probe ran into.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

/// Traffic that did not arrive where it should, or could not be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Where it was sent.
    pub to: SocketAddr,
    /// Where it should have arrived.
    pub at: SocketAddr,
    /// How long it was waited for.
    pub timeout: Duration,
    /// Why.
    pub why: Why,
}

/// Why traffic did not arrive where it should, or could not be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The pod cannot send there.
    NoRoute(Errno),
    /// Some host could get it if the rules were wrong.
    NotConfined(Errno),
    /// The proxy's port is bound, and nobody listens on it.
    Taken,
    /// The proxy's port cannot be listened on.
    Listen(Errno),
    /// Somebody listens on the right port of the wrong address.
    NotOnLoopback {
        /// The listener's address.
        on: SocketAddr,
        /// The listener's user.
        uid: u32,
    },
    /// There was an answer, but none from the port.
    Failed(Errno),
    /// There was no answer.
    Lost,
    /// It arrived at this port.
    Astray(u16),
    /// The kernel remembers another destination.
    Original(SocketAddr),
    /// The kernel does not say what the destination was.
    NoOriginal(Errno),
    /// A question was heard, its answer not.
    NoAnswer,
    /// Somebody else was to hear and answer a question, and did not.
    Silent,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { to, at, timeout, why } = self;
        match why {
            Why::NoRoute(errno) => write!(f, "there is no route to {to} ({errno})"),
            Why::NotConfined(errno) => write!(f, "should the rules fail, a query to {to} could reach a real resolver ({errno})"),
            Why::Taken => write!(f, "{at} is taken by a program that does not listen there"),
            Why::Listen(errno) => write!(f, "cannot listen on {at}: {errno}"),
            Why::NotOnLoopback { on, uid } => {
                write!(
                    f,
                    "the program of user {uid} that listens on {on} does not get connections that are redirected, which arrive at {at}"
                )
            }
            Why::Failed(errno) => write!(f, "what was sent to {to} did not arrive at {at}: {errno}"),
            Why::Lost => write!(f, "nothing sent to {to} arrived at {at} within {timeout:?}"),
            Why::Astray(port) => write!(f, "a connection to {to} arrived at port {port} instead of {at}"),
            Why::Original(original) => {
                write!(f, "a connection to {to} arrived at {at}, but the proxy would be told that it was meant for {original}")
            }
            Why::NoOriginal(errno) => {
                write!(f, "a connection to {to} arrived at {at}, but the kernel does not tell what it was meant for: {errno}")
            }
            Why::NoAnswer => write!(f, "a query to {to} arrived at {at}, but no answer came back from {to} within {timeout:?}"),
            Why::Silent => write!(f, "the program that holds {at} did not answer a query to {to} within {timeout:?}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl Trouble {
    /// What to do about it, or what it means: a sentence without full stop, to be put after the message.
    pub fn hint(&self) -> &'static str {
        match self.why {
            Why::NoRoute(_) => {
                "give the pod a default route, or name a destination with --connect-addr that it can reach and that is captured"
            }
            Why::NotConfined(Errno::EADDRINUSE) => "it can be tried while the proxy does not run",
            Why::NotConfined(_) => "before Linux 5.7 it takes NET_RAW to send it by lo",
            Why::Listen(Errno::EACCES) => "ports below 1024 need NET_BIND_SERVICE",
            Why::Taken | Why::Listen(_) => "no proxy could listen there either: find out what holds the port",
            Why::NotOnLoopback { .. } => "let it listen on loopback too, or on all addresses",
            Why::Failed(Errno::ECONNREFUSED) => "nobody listens where it came out: it was redirected to another port, or not at all",
            Why::Failed(Errno::EHOSTUNREACH) => "it left the pod for the first hop: no rule caught it",
            Why::Failed(Errno::EPERM | Errno::EACCES) => "a rule of the packet filter drops or rejects it",
            Why::Failed(_) | Why::Astray(_) => "look for other rules with `mesh-init dump live`",
            Why::Lost => {
                "it was dropped, or it left the pod as no rule caught it; if only the kernel is slow, allow more with --probe-timeout"
            }
            Why::Original(_) | Why::NoOriginal(_) => {
                "the proxy could not send it on: the rules translate it more than once, or connection tracking does not see it"
            }
            Why::Silent => "it may be no DNS server, or the query did not reach it",
            Why::NoAnswer => "the translation is not undone: look at the connection tracking zones in the raw table",
        }
    }
}
