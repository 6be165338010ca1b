//! What linkerd2-proxy-init was told, typed and checked, under the original's names.

use ipnet::IpNet;

use crate::mesh::flag::{BadValue, Given, Origin, Setting};
use crate::mesh::log::{Format, Level, linkerd_level};
use crate::mesh::{Error, IptablesMode, value};
use crate::ruleset::PortRange;

/// A source whose connections are not captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its prefix.
    pub net: IpNet,
    /// As it was written: the rule's comment repeats it.
    pub text: String,
}

/// What linkerd2-proxy-init was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Port of the proxy's listener for incoming connections.
    pub incoming_proxy_port: u16,
    /// Port of the proxy's listener for outgoing connections.
    pub outgoing_proxy_port: u16,
    /// User id of the proxy; never 0, which the original takes for none.
    pub proxy_uid: Option<u32>,
    /// Group id of the proxy; never 0, which the original takes for none.
    pub proxy_gid: Option<u32>,
    /// Incoming ports that are captured; all when empty.
    pub ports_to_redirect: Vec<u16>,
    /// Incoming ports that are not.
    pub inbound_ports_to_ignore: Vec<PortRange>,
    /// Outgoing ports that are not captured.
    pub outbound_ports_to_ignore: Vec<PortRange>,
    /// Sources whose incoming connections are not captured.
    pub subnets_to_ignore: Vec<Subnet>,
    /// Print what would be installed and change nothing.
    pub simulate: bool,
    /// Path of the network namespace to work in.
    pub netns: Option<String>,
    /// Wait for the iptables lock: accepted, since it is always done.
    pub use_wait_flag: bool,
    /// Seconds for `nf_conntrack_tcp_timeout_close_wait`, when it is to be changed.
    pub timeout_close_wait_secs: Option<u32>,
    /// The form of log lines.
    pub log_format: Format,
    /// How much is logged.
    pub log_level: Level,
    /// The iptables program that was asked for.
    pub iptables_mode: Option<IptablesMode>,
    /// Whether IPv6 is captured too.
    pub ipv6: bool,
    /// What is odd about the options though they are accepted, one sentence each.
    pub warnings: Vec<String>,
}

impl Options {
    /// The options that `given` holds. What the original checks is checked in its order.
    pub fn new(given: &Given<'_>) -> Result<Options, Error> {
        let iptables_mode = iptables_mode(given)?;
        let incoming_proxy_port = proxy_port(given, "incoming-proxy-port")?;
        let outgoing_proxy_port = proxy_port(given, "outgoing-proxy-port")?;
        let subnets_to_ignore = given.get("subnets-to-ignore").read_list(subnet)?;
        let switch = |long| given.get(long).switch();
        let ports = |long| given.get(long).read_list(value::dashed_ports);
        let mut warnings = Vec::new();
        Ok(Options {
            incoming_proxy_port,
            outgoing_proxy_port,
            proxy_uid: owner(&given.get("proxy-uid"), "user", &mut warnings)?,
            proxy_gid: owner(&given.get("proxy-gid"), "group", &mut warnings)?,
            ports_to_redirect: given.get("ports-to-redirect").read_list(value::port)?,
            inbound_ports_to_ignore: ports("inbound-ports-to-ignore")?,
            outbound_ports_to_ignore: ports("outbound-ports-to-ignore")?,
            subnets_to_ignore,
            simulate: switch("simulate")?,
            netns: Some(given.get("netns").text).filter(|path| !path.is_empty()),
            use_wait_flag: switch("use-wait-flag")?,
            timeout_close_wait_secs: given.get("timeout-close-wait-secs").read(seconds)?,
            log_format: if given.get("log-format").text == "json" { Format::Json } else { Format::Plain },
            log_level: given.get("log-level").read(linkerd_level)?,
            iptables_mode,
            ipv6: switch("ipv6")?,
            warnings,
        })
    }
}

/// `--iptables-mode`, or what its older form says.
fn iptables_mode(given: &Given<'_>) -> Result<Option<IptablesMode>, BadValue> {
    let mode = given.get("iptables-mode").read(|text| match text {
        "" => Ok(None),
        "legacy" => Ok(Some(IptablesMode::Legacy)),
        "nft" => Ok(Some(IptablesMode::Nft)),
        "plain" => Ok(Some(IptablesMode::Plain)),
        _ => Err(r#"is refused: --iptables-mode valid values are only "legacy", "nft" and "plain""#.to_owned()),
    })?;
    if mode.is_some() {
        return Ok(mode);
    }
    given.get("firewall-bin-path").read(|text| match text {
        "" => Ok(None),
        "iptables-legacy" => Ok(Some(IptablesMode::Legacy)),
        "iptables-nft" => Ok(Some(IptablesMode::Nft)),
        "iptables" => Ok(Some(IptablesMode::Plain)),
        _ => Err(r#"is refused: --firewall-bin-path valid values are only "iptables-legacy", "iptables-nft" and "iptables""#.to_owned()),
    })
}

fn proxy_port(given: &Given<'_>, flag: &'static str) -> Result<u16, Error> {
    let setting = given.get(flag);
    if setting.origin == Origin::Default {
        return Err(Error::MissingPort { flag });
    }
    Ok(setting
        .read(|text| value::go_port(text).map_err(|_| format!("is refused: --{flag} must be a valid TCP port number (1 to 65535)")))?)
}

fn subnet(text: &str) -> Result<Subnet, String> {
    match value::parse_cidr(text) {
        Some(net) => Ok(Subnet { net, text: text.to_owned() }),
        None => Err(format!("is refused: {text} is not a valid CIDR address (an address and a prefix length, as 10.0.0.0/8 or fd00::/8)")),
    }
}

/// The proxy's user or group. -1 is the original's way to say none.
fn owner(setting: &Setting, what: &str, warnings: &mut Vec<String>) -> Result<Option<u32>, BadValue> {
    let id = setting.read(|text| match value::go_integer(text) {
        Some(-1) => Ok(None),
        Some(id @ 0..=0xffff_fffe) => Ok(Some(id as u32)),
        _ => Err(format!("is not a {what} id (0 to 4294967294, or -1 for none)")),
    })?;
    if id == Some(0) {
        warnings.push(format!("{}: 0 excludes nothing: the traffic of {what} 0 is captured like any other's", setting.origin));
    }
    Ok(id.filter(|id| *id != 0))
}

fn seconds(text: &str) -> Result<Option<u32>, String> {
    match value::go_integer(text).map(i32::try_from) {
        Some(Ok(0)) => Ok(None),
        Some(Ok(seconds @ 1..)) => Ok(Some(seconds.unsigned_abs())),
        _ => Err("is not a number of seconds (1 to 2147483647, or 0 to leave the kernel's setting)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::linkerd::FLAGS;
    use crate::mesh::testing;

    const PORTS: &[&str] = &["-p", "4143", "-o", "4140"];

    fn options(arguments: &[&str]) -> Options {
        testing::with(FLAGS, &[PORTS, arguments].concat(), Options::new).unwrap()
    }

    fn error(arguments: &[&str]) -> String {
        testing::with(FLAGS, arguments, Options::new).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let options = options(&[]);
        assert_eq!((options.incoming_proxy_port, options.outgoing_proxy_port), (4143, 4140));
        assert_eq!((options.proxy_uid, options.proxy_gid, options.timeout_close_wait_secs), (None, None, None));
        assert_eq!((options.iptables_mode, options.log_format, options.log_level), (None, Format::Plain, Level::Info));
        assert!(options.ipv6 && !options.simulate && !options.use_wait_flag && options.netns.is_none() && options.warnings.is_empty());
    }

    #[test]
    fn what_is_said_reaches_its_field() {
        let said = ["--ipv6=false", "--simulate", "-w", "--netns", "/n", "--timeout-close-wait-secs", "3600", "--log-format", "json"];
        let options =
            options(&[&said[..], &["--log-level", "Warning", "-u", "-1", "-g", "0x10", "--firewall-save-bin-path", "any"]].concat());
        assert!(!options.ipv6 && options.simulate && options.use_wait_flag);
        assert_eq!((options.netns.as_deref(), options.timeout_close_wait_secs), (Some("/n"), Some(3600)));
        assert_eq!((options.log_format, options.log_level), (Format::Json, Level::Warn));
        assert_eq!((options.proxy_uid, options.proxy_gid), (None, Some(16)));
    }

    #[test]
    fn the_mode_wins_over_the_older_path() {
        let mode = |arguments: &[&str]| options(arguments).iptables_mode;
        assert_eq!(mode(&["--firewall-bin-path", "iptables-nft"]), Some(IptablesMode::Nft));
        assert_eq!(mode(&["--firewall-bin-path", "iptables-legacy"]), Some(IptablesMode::Legacy));
        assert_eq!(mode(&["--iptables-mode", "plain", "--firewall-bin-path", "iptables-nft"]), Some(IptablesMode::Plain));
        assert!(error(&["--iptables-mode", "zzz"]).ends_with(r#"--iptables-mode valid values are only "legacy", "nft" and "plain""#));
        assert!(error(&["--firewall-bin-path", "/sbin/iptables"]).starts_with("--firewall-bin-path: \"/sbin/iptables\" is refused"));
    }

    #[test]
    fn both_ports_are_required_and_checked_in_order() {
        assert_eq!(error(&[]), "--incoming-proxy-port must be a valid TCP port number (1 to 65535), and it was not given");
        assert_eq!(error(&["-p", "1"]), "--outgoing-proxy-port must be a valid TCP port number (1 to 65535), and it was not given");
        for value in ["0", "-1", "65536", "http", ""] {
            let expected =
                format!("--outgoing-proxy-port: {value:?} is refused: --outgoing-proxy-port must be a valid TCP port number (1 to 65535)");
            assert_eq!(error(&["-p", "1", "-o", value, "--subnets-to-ignore", "x"]), expected);
        }
    }

    #[test]
    fn bad_values_are_named_with_their_flag() {
        let cases = [
            ("subnets-to-ignore", "10.0.0.0", "is refused: 10.0.0.0 is not a valid CIDR address"),
            ("inbound-ports-to-ignore", "abc", "is not a port or a range of ports"),
            ("outbound-ports-to-ignore", "23-22", "is not a port or a range of ports"),
            ("ports-to-redirect", "80-90", "is not a port (1 to 65535)"),
            ("proxy-uid", "linkerd", "is not a user id (0 to 4294967294, or -1 for none)"),
            ("proxy-gid", "-2", "is not a group id"),
            ("proxy-uid", "4294967295", "is not a user id"),
            ("timeout-close-wait-secs", "-1", "is not a number of seconds"),
            ("log-level", "loud", "is not a log level"),
            ("ipv6", "", "is neither true nor false"),
        ];
        for (flag, value, start) in cases {
            let message = error(&[PORTS, &[format!("--{flag}={value}").as_str()]].concat());
            assert!(message.starts_with(&format!("--{flag}: {value:?} {start}")), "{message}");
        }
    }
}
