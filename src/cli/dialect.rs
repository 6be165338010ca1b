//! Which program this is to be: mesh-init itself, or a stand-in for one of the original tools.

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Whose command line is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// mesh-init's verbs.
    Own,
    /// `pilot-agent istio-iptables`.
    Istio,
    /// `linkerd2-proxy-init`.
    Linkerd,
    /// `linkerd2-network-validator`.
    Validator,
}

/// The dialect, and the arguments that belong to it. The program's name decides, then the first argument.
pub(super) fn choose(arguments: Vec<OsString>) -> Result<(Dialect, Vec<OsString>), String> {
    let mut rest = arguments.into_iter();
    let program = rest.next().unwrap_or_default();
    let name = Path::new(&program).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let rest: Vec<OsString> = rest.collect();
    let first = rest.first().and_then(|first| first.to_str());
    let without_first = |rest: Vec<OsString>| rest.into_iter().skip(1).collect();
    match (name.as_str(), first) {
        ("istio-iptables", _) => Ok((Dialect::Istio, rest)),
        ("linkerd2-proxy-init" | "proxy-init", _) => Ok((Dialect::Linkerd, rest)),
        ("linkerd2-network-validator", _) => Ok((Dialect::Validator, rest)),
        (_, Some("istio-iptables")) => Ok((Dialect::Istio, without_first(rest))),
        ("pilot-agent", other) => {
            let other = other.unwrap_or_default();
            Err(format!("pilot-agent: unknown command {other:?}; mesh-init stands in for its istio-iptables command alone"))
        }
        (_, Some("--help" | "--version")) if rest.len() == 1 => Ok((Dialect::Own, rest)),
        // The entry point of Linkerd's image takes flags without any command.
        (_, Some(first)) if first.starts_with('-') => Ok((Dialect::Linkerd, rest)),
        _ => Ok((Dialect::Own, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(arguments: &[&str]) -> Option<(Dialect, Vec<String>)> {
        let (dialect, rest) = choose(arguments.iter().map(OsString::from).collect()).ok()?;
        Some((dialect, rest.into_iter().map(|argument| argument.into_string().unwrap()).collect()))
    }

    #[test]
    fn the_programs_name_decides() {
        let rest = |dialect, rest: &[&str]| Some((dialect, rest.iter().map(ToString::to_string).collect::<Vec<_>>()));
        assert_eq!(chosen(&["/usr/bin/istio-iptables", "-p", "1"]), rest(Dialect::Istio, &["-p", "1"]));
        assert_eq!(chosen(&["/usr/local/bin/pilot-agent", "istio-iptables", "-n"]), rest(Dialect::Istio, &["-n"]));
        assert_eq!(chosen(&["pilot-agent", "proxy"]), None);
        assert_eq!(chosen(&["pilot-agent"]), None);
        assert_eq!(chosen(&["pilot-agent", "--help"]), None);
        for name in ["/usr/lib/linkerd/linkerd2-proxy-init", "proxy-init"] {
            assert_eq!(chosen(&[name, "--help"]), rest(Dialect::Linkerd, &["--help"]));
        }
        let validator = "/usr/lib/linkerd/linkerd2-network-validator";
        assert_eq!(chosen(&[validator, "--timeout", "5s"]), rest(Dialect::Validator, &["--timeout", "5s"]));
        assert_eq!(chosen(&[validator]), rest(Dialect::Validator, &[]));
    }

    #[test]
    fn then_the_first_argument() {
        let rest = |dialect, rest: &[&str]| Some((dialect, rest.iter().map(ToString::to_string).collect::<Vec<_>>()));
        assert_eq!(chosen(&["mesh-init", "istio-iptables", "-p", "1"]), rest(Dialect::Istio, &["-p", "1"]));
        assert_eq!(chosen(&["mesh-init", "apply", "istio"]), rest(Dialect::Own, &["apply", "istio"]));
        assert_eq!(chosen(&["mesh-init", "--help"]), rest(Dialect::Own, &["--help"]));
        assert_eq!(chosen(&["mesh-init", "--version"]), rest(Dialect::Own, &["--version"]));
        assert_eq!(chosen(&["mesh-init", "--help", "-p", "1"]), rest(Dialect::Linkerd, &["--help", "-p", "1"]));
        assert_eq!(chosen(&["mesh-init", "-p", "4143"]), rest(Dialect::Linkerd, &["-p", "4143"]));
        assert_eq!(chosen(&["mesh-init"]), rest(Dialect::Own, &[]));
    }
}
