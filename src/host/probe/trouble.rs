//! What a probe ran into.

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

/// Why traffic did not arrive where it should, or could not be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The pod cannot send there.
    #[error("there is no route to {to} ({errno})")]
    NoRoute {
        /// The destination.
        to: SocketAddr,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The proxy's port is bound, and nobody listens on it.
    #[error("{at} is taken by a program that does not listen there")]
    Taken {
        /// Where redirected traffic would arrive.
        at: SocketAddr,
    },
    /// The proxy's port cannot be listened on.
    #[error("cannot listen on {at}: {errno}")]
    Listen {
        /// Where redirected traffic would arrive.
        at: SocketAddr,
        /// The kernel's reason.
        errno: Errno,
    },
    /// Somebody listens on the right port of the wrong address.
    #[error("the program of user {uid} that listens on {on} does not get connections that are redirected, which arrive at {at}")]
    NotOnLoopback {
        /// The listener's address.
        on: SocketAddr,
        /// The listener's user.
        uid: u32,
        /// Where redirected traffic arrives.
        at: SocketAddr,
    },
    /// There was an answer, but none from the port.
    #[error("what was sent to {to} did not arrive at {at}: {errno}")]
    Failed {
        /// The destination.
        to: SocketAddr,
        /// Where it should have arrived.
        at: SocketAddr,
        /// What became of it.
        errno: Errno,
    },
    /// There was no answer.
    #[error("nothing sent to {to} arrived at {at} within {after:?}")]
    Lost {
        /// The destination.
        to: SocketAddr,
        /// Where it should have arrived.
        at: SocketAddr,
        /// How long it was waited for.
        after: Duration,
    },
    /// It arrived somewhere else.
    #[error("a connection to {to} arrived at port {port} instead of {at}")]
    Astray {
        /// The destination.
        to: SocketAddr,
        /// Where it should have arrived.
        at: SocketAddr,
        /// The port that it arrived at.
        port: u16,
    },
    /// The kernel remembers another destination.
    #[error("a connection to {to} arrived at {at}, but the proxy would be told that it was meant for {original}")]
    Original {
        /// The destination.
        to: SocketAddr,
        /// Where it arrived.
        at: SocketAddr,
        /// What the kernel says.
        original: SocketAddr,
    },
    /// The kernel does not say what the destination was.
    #[error("a connection to {to} arrived at {at}, but the kernel does not tell what it was meant for: {errno}")]
    NoOriginal {
        /// The destination.
        to: SocketAddr,
        /// Where it arrived.
        at: SocketAddr,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A question was heard, its answer not.
    #[error("a query to {to} arrived at {at}, but no answer came back from {to} within {after:?}")]
    NoAnswer {
        /// The server that was asked.
        to: SocketAddr,
        /// Where the query arrived.
        at: SocketAddr,
        /// How long the answer was waited for.
        after: Duration,
    },
    /// Somebody else was to hear and answer a question.
    #[error("the program that holds {at} did not answer a query to {to} within {after:?}")]
    Silent {
        /// The server that was asked.
        to: SocketAddr,
        /// Where the query should have arrived.
        at: SocketAddr,
        /// How long the answer was waited for.
        after: Duration,
    },
}

impl Trouble {
    /// Whether nothing was tried, so that nothing is known of the rules.
    pub fn is_untried(&self) -> bool {
        matches!(self, Trouble::NoRoute { .. })
    }

    /// What to do about it, or what it means: a sentence without full stop, to be put after the message.
    pub fn hint(&self) -> &'static str {
        match self {
            Trouble::NoRoute { .. } => {
                "give the pod a default route, or name a destination with --connect-addr that it can reach and that is captured"
            }
            Trouble::Listen { errno: Errno::EACCES, .. } => "ports below 1024 need NET_BIND_SERVICE",
            Trouble::Taken { .. } | Trouble::Listen { .. } => "no proxy could listen there either: find out what holds the port",
            Trouble::NotOnLoopback { .. } => "let it listen on loopback too, or on all addresses",
            Trouble::Failed { errno: Errno::ECONNREFUSED, .. } => {
                "nobody listens where it came out: it was redirected to another port, or not at all"
            }
            Trouble::Failed { errno: Errno::EHOSTUNREACH, .. } => "it left the pod for the first hop: no rule caught it",
            Trouble::Failed { errno: Errno::EPERM | Errno::EACCES, .. } => "a rule of the packet filter drops or rejects it",
            Trouble::Failed { .. } | Trouble::Astray { .. } => "look for other rules with `mesh-init dump live`",
            Trouble::Lost { .. } => {
                "it was dropped, or it left the pod as no rule caught it; if only the kernel is slow, allow more with --probe-timeout"
            }
            Trouble::Original { .. } | Trouble::NoOriginal { .. } => {
                "the proxy could not send it on: the rules translate it more than once, \
                 or connection tracking does not see it"
            }
            Trouble::Silent { .. } => "it may be no DNS server, or the query did not reach it",
            Trouble::NoAnswer { .. } => "the translation is not undone: look at the connection tracking zones in the raw table",
        }
    }
}
