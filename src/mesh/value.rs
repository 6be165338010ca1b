//! Values as the originals' flag parsers, Go's library and iptables read them.
//!
//! Each function returns, for a text that it does not take, what is wrong with it and what is allowed, to be read after
//! the text itself.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::ruleset::{IdRange, Interface, PortRange};

/// A value, or what is wrong with the text.
type Read<T> = Result<T, String>;

/// A truth value in the spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Read<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("is neither true nor false (true, 1, t, false, 0 or f)".to_owned()),
    }
}

/// A number without sign in Go's literal syntax: decimal, `0x`, `0o` or a leading 0, `0b`, underscores between digits.
pub(super) fn go_unsigned(text: &str) -> Option<u64> {
    let (digits, radix, prefixed) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16, true),
        [b'0', b'o' | b'O', ..] => (&text[2..], 8, true),
        [b'0', b'b' | b'B', ..] => (&text[2..], 2, true),
        [b'0', _, ..] => (&text[1..], 8, true),
        _ => (text, 10, false),
    };
    let misplaced = digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && !prefixed);
    if misplaced || digits.starts_with(['+', '-']) {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

/// A number with an optional sign in Go's literal syntax.
pub(super) fn go_integer(text: &str) -> Option<i64> {
    let (negative, magnitude) = match text.strip_prefix(['+', '-']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let value = i64::try_from(go_unsigned(magnitude)?).ok()?;
    Some(if negative { -value } else { value })
}

/// A decimal number. Leading zeros are refused: iptables would read it as octal, Go as decimal.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// A decimal port, 0 included.
fn port_number(text: &str) -> Option<u16> {
    decimal(text).and_then(|number| u16::try_from(number).ok())
}

/// One port in decimal.
pub(super) fn port(text: &str) -> Read<u16> {
    port_number(text.trim()).filter(|port| *port != 0).ok_or_else(|| "is not a port (1 to 65535)".to_owned())
}

/// One port in Go's number syntax.
pub(super) fn go_port(text: &str) -> Read<u16> {
    go_unsigned(text)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| "is not a port (1 to 65535)".to_owned())
}

/// A port or a range as iptables takes it: `80`, `8000:9000`, `:1023` (from 0), `1024:` (to 65535).
pub(super) fn colon_ports(text: &str) -> Read<PortRange> {
    let range = match text.split_once(':') {
        None => port_number(text).filter(|port| *port != 0).map(PortRange::single),
        Some((first, last)) => {
            let first = if first.is_empty() { Some(0) } else { port_number(first) };
            let last = if last.is_empty() { Some(u16::MAX) } else { port_number(last) };
            ordered(first, last)
        }
    };
    match range {
        // iptables takes this for no match at all, and the rule would no longer be told from one without ports.
        Some(PortRange { first: 0, last: u16::MAX }) => Err("names every port and port 0; for every port give 1:65535".to_owned()),
        Some(PortRange { first: 0, last: 0 }) | None => {
            Err("is not a port or a range of ports (1 to 65535, or low:high as 8000:9000; service names are not looked up)".to_owned())
        }
        Some(range) => Ok(range),
    }
}

/// A port or a range as Linkerd takes it: `80`, `8000-9000`.
pub(super) fn dashed_ports(text: &str) -> Read<PortRange> {
    let range = match text.split_once('-') {
        None => port_number(text).map(PortRange::single),
        Some((first, last)) => ordered(port_number(first.trim()), port_number(last.trim())),
    };
    range
        .filter(|range| range.last != 0)
        .ok_or_else(|| "is not a port or a range of ports (1 to 65535, or low-high as 8000-9000)".to_owned())
}

fn ordered(first: Option<u16>, last: Option<u16>) -> Option<PortRange> {
    let range = PortRange { first: first?, last: last? };
    (range.first <= range.last).then_some(range)
}

/// A user id or a range of them.
pub(super) fn users(text: &str) -> Read<IdRange> {
    ids(text).ok_or_else(|| {
        "is not a user id (0 to 4294967294, or low-high as 1337-1340); a user name is not looked up, give the number".to_owned()
    })
}

/// A group id or a range of them.
pub(super) fn groups(text: &str) -> Read<IdRange> {
    ids(text).ok_or_else(|| {
        "is not a group id (0 to 4294967294, or low-high as 1337-1340); a group name is not looked up here, give the number".to_owned()
    })
}

/// An id or a range of them; the last id of all stands for "none" in the kernel and is not one.
pub(super) fn ids(text: &str) -> Option<IdRange> {
    let id = |text| decimal(text).filter(|id| *id != u32::MAX);
    let range = match text.split_once(['-', ':']) {
        None => IdRange::single(id(text)?),
        Some((first, last)) => IdRange { first: id(first)?, last: id(last)? },
    };
    (range.first <= range.last).then_some(range)
}

/// An address with its prefix length as Go's `netip.ParsePrefix` takes it. Host bits are kept.
pub(super) fn cidr(text: &str) -> Read<IpNet> {
    parse_cidr(text).ok_or_else(|| "is not a CIDR (an address and a prefix length, as 10.96.0.0/12 or fd00::/8)".to_owned())
}

/// As [`cidr`], without the words.
pub(super) fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length = u8::try_from(decimal(length)?).ok()?;
    IpNet::new(address, length).ok()
}

/// An address and a port.
pub(crate) fn socket_address(text: &str) -> Read<SocketAddr> {
    match text.parse() {
        // An IPv4 address that is written as IPv6 is one.
        Ok(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_some() => Ok(SocketAddr::new(v6.ip().to_canonical(), v6.port())),
        other => other.map_err(|_| "is not an address and a port (as 192.0.2.1:80 or [2001:db8::1]:80)".to_owned()),
    }
}

/// An interface's name or, with a `+` at the end, the beginning of one.
pub(super) fn interface(text: &str) -> Read<Interface> {
    Interface::new(text).ok_or_else(|| {
        format!(
            "is not an interface name (at most {} bytes, no space, quote, backslash, '/', ':' or '!'; a + at the end stands for any ending)",
            Interface::MAX
        )
    })
}

/// A firewall mark, decimal or hexadecimal. 0 is what every packet has that nobody marked.
pub(super) fn mark(text: &str) -> Read<u32> {
    match number32(text.trim()) {
        Some(0) => {
            Err("would match every packet that has no mark (allowed is 1 to 4294967295, decimal, or hexadecimal after 0x)".to_owned())
        }
        Some(mark) => Ok(mark),
        None => Err("is not a mark (1 to 4294967295, decimal, or hexadecimal after 0x)".to_owned()),
    }
}

/// The number of a routing table that may hold a route of ours, decimal or hexadecimal.
pub(super) fn route_table(text: &str) -> Read<u32> {
    const ALLOWED: &str = "allowed is 1 to 4294967295 without 253 to 255";
    match number32(text.trim()) {
        Some(0) => Err(format!("is the unspecified routing table ({ALLOWED})")),
        Some(253..=255) => Err(format!("is one of the system's routing tables default, main and local ({ALLOWED})")),
        Some(table) => Ok(table),
        None => Err(format!("is not the number of a routing table ({ALLOWED})")),
    }
}

fn number32(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => decimal(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange { first, last }
    }

    #[test]
    fn truth_values_are_those_of_go() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", " true", "2"] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_those_of_go() {
        let good =
            [("15002", 15002), ("0x3A9A", 0x3a9a), ("0o17", 15), ("017", 15), ("0b101", 5), ("1_000", 1000), ("0x_ff", 255), ("0", 0)];
        for (text, value) in good {
            assert_eq!(go_unsigned(text), Some(value), "{text}");
        }
        for text in ["", "+1", "-1", "08", "0x", "1__0", "_1", "1_", "0x1_", "1 ", "0x+1"] {
            assert_eq!(go_unsigned(text), None, "{text}");
        }
        assert_eq!((go_integer("-1"), go_integer("+4143"), go_integer("--1")), (Some(-1), Some(4143), None));
    }

    #[test]
    fn a_port_is_1_to_65535() {
        assert_eq!((port("1"), port("65535"), port(" 80 ")), (Ok(1), Ok(65535), Ok(80)));
        for text in ["", "0", "65536", "http", "-1", "+80", "080", "0x50", "80:90", "*"] {
            assert_eq!(port(text), Err("is not a port (1 to 65535)".to_owned()), "{text}");
        }
        assert_eq!((go_port("0x50"), go_port("010")), (Ok(80), Ok(8)));
        assert!(go_port("0").is_err() && go_port("65536").is_err() && go_port("").is_err());
    }

    #[test]
    fn ranges_with_a_colon_may_be_open() {
        assert_eq!(colon_ports("80"), Ok(range(80, 80)));
        assert_eq!(colon_ports("8000:9000"), Ok(range(8000, 9000)));
        assert_eq!(colon_ports(":1023"), Ok(range(0, 1023)));
        assert_eq!(colon_ports("1024:"), Ok(range(1024, 65535)));
        for text in ["0", ":", "0:65535", "0:0", "90:80", "1:2:3", "80-90", "http", "*", "-j", "70000", "1:65536", "1: 2"] {
            assert!(colon_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_with_a_dash_have_both_ends() {
        assert_eq!(dashed_ports("22-23"), Ok(range(22, 23)));
        assert_eq!(dashed_ports("35-35"), Ok(range(35, 35)));
        for text in ["", "0", "-", "1-", "-1", "23-22", "1-2-3", "22:23", "65536", "abc"] {
            assert!(dashed_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ids_are_numbers_below_the_last() {
        assert_eq!(users("1337"), Ok(IdRange::single(1337)));
        assert_eq!(users("1337-1340"), Ok(IdRange { first: 1337, last: 1340 }));
        assert_eq!(groups("0"), Ok(IdRange::single(0)));
        for text in ["", "4294967295", "2-1", "-1", "1-", "0x1", "01"] {
            assert!(users(text).is_err(), "{text}");
        }
        assert!(users("istio-proxy").unwrap_err().contains("a user name is not looked up, give the number"));
    }

    #[test]
    fn a_cidr_needs_its_length() {
        assert_eq!(cidr("10.96.0.2/24").unwrap().to_string(), "10.96.0.2/24");
        assert_eq!(cidr("fd00::1/8").unwrap().to_string(), "fd00::1/8");
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "fe80::1%eth0/64",
            "::/129",
            "*",
            "a/8",
            "1.2.3.4/ 8",
        ] {
            assert!(cidr(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interface_names_are_at_most_15_bytes() {
        assert_eq!(interface("eth+").unwrap().as_str(), "eth+");
        assert!(interface("a23456789012345").is_ok());
        assert!(interface("a234567890123456").unwrap_err().contains("at most 15 bytes"));
        assert!(["-j", "a b", "a\"b", "a'b", "a\\b"].iter().all(|name| interface(name).is_err()));
    }

    #[test]
    fn marks_and_tables_that_would_harm_are_refused() {
        assert_eq!((mark("1337"), mark("0x539"), mark("4294967295")), (Ok(1337), Ok(1337), Ok(u32::MAX)));
        assert!(mark("0").unwrap_err().contains("every packet") && mark("0x0").is_err());
        for text in ["", "0539", "-1", "4294967296", "0x", "1/1", "0x+1"] {
            assert!(mark(text).is_err(), "{text}");
        }
        assert_eq!((route_table("133"), route_table("0x85")), (Ok(133), Ok(133)));
        assert!(route_table("0").unwrap_err().contains("unspecified"));
        assert!(route_table("254").unwrap_err().contains("main"));
        assert!(route_table("main").is_err());
    }
}
