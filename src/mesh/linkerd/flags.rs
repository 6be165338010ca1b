//! The flags of linkerd2-proxy-init. It reads no environment.

use crate::mesh::flag::{Flag, Kind};

const fn flag(long: &'static str, short: Option<char>, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { long, short, kind, env: &[], default, help }
}

/// Every flag of linkerd2-proxy-init with its default.
pub const FLAGS: &[Flag] = &[
    flag("incoming-proxy-port", Some('p'), Kind::Value, "-1", "Port of the proxy's listener for incoming connections; required"),
    flag("outgoing-proxy-port", Some('o'), Kind::Value, "-1", "Port of the proxy's listener for outgoing connections; required"),
    flag("proxy-uid", Some('u'), Kind::Value, "-1", "User id of the proxy, whose own traffic passes"),
    flag("proxy-gid", Some('g'), Kind::Value, "-1", "Group id of the proxy, whose own traffic passes"),
    flag("ports-to-redirect", Some('r'), Kind::List, "", "Incoming ports to capture; default: all"),
    flag("inbound-ports-to-ignore", None, Kind::List, "", "Incoming ports or ranges (low-high) not to capture"),
    flag("outbound-ports-to-ignore", None, Kind::List, "", "Outgoing ports or ranges (low-high) not to capture"),
    flag("subnets-to-ignore", None, Kind::List, "", "Sources, as CIDRs, whose incoming connections are not captured"),
    flag("simulate", None, Kind::Switch, "false", "Print what would be installed and change nothing"),
    flag("netns", None, Kind::Value, "", "Path of the network namespace to work in"),
    flag("use-wait-flag", Some('w'), Kind::Switch, "false", "Wait for the iptables lock; always so, whatever is said"),
    flag(
        "timeout-close-wait-secs",
        None,
        Kind::Value,
        "0",
        "Seconds for which connection tracking keeps a half closed connection; 0 leaves the kernel's setting",
    ),
    flag("log-format", None, Kind::Value, "plain", "Form of log lines: plain or json"),
    flag("log-level", None, Kind::Value, "info", "How much is logged: panic, fatal, error, warn, info, debug or trace"),
    flag("iptables-mode", None, Kind::Value, "", "The packet filter to use: legacy, nft or plain"),
    flag("ipv6", None, Kind::Switch, "true", "Capture IPv6 too"),
    flag("firewall-bin-path", None, Kind::Value, "", "Older form of --iptables-mode: iptables-legacy, iptables-nft or iptables"),
    flag("firewall-save-bin-path", None, Kind::Value, "", "Accepted and of no effect"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_flags_are_there_and_none_reads_the_environment() {
        assert_eq!(FLAGS.len(), 18);
        assert!(FLAGS.iter().all(|flag| flag.env.is_empty()));
        let shorts: String = FLAGS.iter().filter_map(|flag| flag.short).collect();
        assert_eq!(shorts, "pougrw");
    }
}
