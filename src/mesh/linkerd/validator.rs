//! The options of linkerd2-network-validator.

use std::net::SocketAddr;
use std::time::Duration;

use crate::mesh::duration::duration;
use crate::mesh::flag::{BadValue, Flag, Given, Kind};
use crate::mesh::log::{Format, Level, format, tracing_level};
use crate::mesh::value::socket_address;

const fn flag(long: &'static str, env: &'static [&'static str], default: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, kind: Kind::Value, env, default, help }
}

/// Every flag of linkerd2-network-validator with its environment variables and defaults.
pub const FLAGS: &[Flag] = &[
    flag("log-level", &["LINKERD_NETWORK_VALIDATOR_LOG_LEVEL"], "info", "How much is logged: level, or a list of target=level"),
    flag("log-format", &["LINKERD_NETWORK_VALIDATOR_LOG_FORMAT"], "plain", "Form of log lines: plain or json"),
    flag("timeout", &[], "10s", "How long it may take: a number with ms, s, m, h or d"),
    flag("listen-addr", &[], "0.0.0.0:4140", "Where to listen: on the proxy's port for outgoing connections"),
    flag("connect-addr", &[], "192.0.2.2:1404", "Where to connect to: an address at which nobody is"),
];

/// What linkerd2-network-validator was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How much is logged.
    pub log_level: Level,
    /// In which form.
    pub log_format: Format,
    /// How long it may take.
    pub timeout: Duration,
    /// Where to listen.
    pub listen_addr: SocketAddr,
    /// Where to connect to.
    pub connect_addr: SocketAddr,
}

impl Options {
    /// The options that `given` holds.
    pub fn new(given: &Given<'_>) -> Result<Options, BadValue> {
        Ok(Options {
            log_level: given.get("log-level").read(|text| tracing_level(text, "linkerd_network_validator"))?,
            log_format: given.get("log-format").read(format)?,
            timeout: given.get("timeout").read(timeout)?,
            listen_addr: given.get("listen-addr").read(socket_address)?,
            connect_addr: given.get("connect-addr").read(socket_address)?,
        })
    }
}

/// One number and one unit, days among them; no other form of [`duration`].
fn timeout(text: &str) -> Result<Duration, String> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = &text[..text.len() - unit.len()];
    let read = match unit {
        "" if number.parse() == Ok(0) => return Ok(Duration::ZERO),
        "ms" | "s" | "m" | "h" => duration(text).ok(),
        "d" => number.parse().ok().and_then(|days: u64| duration(&format!("{}h", days.checked_mul(24)?)).ok()),
        _ => None,
    };
    read.ok_or_else(|| "is not a time (allowed is a number with ms, s, m, h or d, as 10s)".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::testing;

    fn options(arguments: &[&str]) -> Result<Options, String> {
        testing::with(FLAGS, arguments, Options::new).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let expected = Options {
            log_level: Level::Info,
            log_format: Format::Plain,
            timeout: Duration::from_secs(10),
            listen_addr: "0.0.0.0:4140".parse().unwrap(),
            connect_addr: "192.0.2.2:1404".parse().unwrap(),
        };
        assert_eq!(options(&[]), Ok(expected));
    }

    #[test]
    fn what_an_injected_pod_says_is_taken() {
        let said = [
            "--log-format",
            "plain",
            "--log-level",
            "debug",
            "--connect-addr",
            "[fd00::1]:20001",
            "--listen-addr",
            "[::]:4140",
            "--timeout",
            "500ms",
        ];
        let options = options(&said).unwrap();
        assert_eq!((options.log_level, options.timeout), (Level::Debug, Duration::from_millis(500)));
        assert_eq!((options.connect_addr, options.listen_addr), ("[fd00::1]:20001".parse().unwrap(), "[::]:4140".parse().unwrap()));
    }

    #[test]
    fn variables_count_and_the_command_line_wins() {
        let level = |arguments: &[&str]| options(arguments).unwrap().log_level;
        assert_eq!(level(&["LINKERD_NETWORK_VALIDATOR_LOG_LEVEL=warn"]), Level::Warn);
        assert_eq!(level(&["LINKERD_NETWORK_VALIDATOR_LOG_LEVEL=warn", "--log-level", "error"]), Level::Error);
        assert_eq!(options(&["LINKERD_NETWORK_VALIDATOR_LOG_FORMAT=json"]).unwrap().log_format, Format::Json);
    }

    #[test]
    fn times_have_one_number_and_one_unit() {
        for (text, seconds) in [("0", 0), ("120s", 120), ("2m", 120), ("1h", 3600), ("1d", 86_400)] {
            assert_eq!(timeout(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "120", "1h2m", "1.5s", "-1s", "+1s", "1w", "s", "99999999999999999999d", "999999999999d", "1us"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bad_values_are_named_with_their_flag() {
        for (flag, value, problem) in [
            ("listen-addr", "4140", "is not an address and a port"),
            ("connect-addr", "::1:80", "is not an address and a port"),
            ("connect-addr", "example.org:80", "is not an address and a port"),
            ("log-format", "xml", "is not a form of log lines"),
            ("log-level", "loud", "is not a log level"),
        ] {
            let message = options(&[&format!("--{flag}={value}")]).unwrap_err();
            assert!(message.starts_with(&format!("--{flag}: {value:?} {problem}")), "{message}");
        }
    }
}
