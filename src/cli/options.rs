//! mesh-init's own options, which every verb and drop-in takes besides the mesh's flags.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ArgMatches;

use super::flags;
use crate::host::Sources;
use crate::kernel::{BackendName, Choice};
use crate::mesh::Needs;
use crate::mesh::duration::duration;
use crate::mesh::flag::{BadValue, Flag, Kind, Origin, Setting};
use crate::mesh::log::{Format, Level, format};

const fn option(long: &'static str, kind: Kind, env: &'static [&'static str], default: &'static str, help: &'static str) -> Flag {
    Flag { long, short: None, kind, env, default, help }
}

/// Whether the distribution's programs can be asked for.
pub(super) const HAS_PROGRAMS: bool = cfg!(feature = "iptables-command");

const BACKEND_HELP: &str = match HAS_PROGRAMS {
    true => "The packet filter: auto, nftables or legacy; iptables: through the distribution's programs",
    false => "The packet filter: auto, nftables or legacy",
};

/// The options that work on a kernel, or stand in for one.
pub(super) const OPTIONS: &[Flag] = &[
    option("backend", Kind::Value, &["MESH_INIT_BACKEND"], "auto", BACKEND_HELP),
    option("log-format", Kind::Value, &["MESH_INIT_LOG_FORMAT"], "plain", "The form of log lines: plain or json"),
    option("log-level", Kind::Value, &["MESH_INIT_LOG_LEVEL"], "info", "How much is logged: error, warn, info or debug"),
    option("deadline", Kind::Value, &["MESH_INIT_DEADLINE"], "30s", "How long to try against other programs' writing"),
    option("netns", Kind::Value, &["MESH_INIT_NETNS"], "", "Work in the network namespace at this path (needs CAP_SYS_ADMIN)"),
    option("pod-ip", Kind::List, &["MESH_INIT_POD_IP"], "", "Plan for these local addresses instead of the kernel's"),
    option("dns-server", Kind::List, &["MESH_INIT_DNS_SERVER"], "", "Plan for these DNS servers instead of those in /etc/resolv.conf"),
    option(
        "trust-upstream-fixes",
        Kind::Switch,
        &["MESH_INIT_TRUST_UPSTREAM_FIXES"],
        "false",
        "Work on kernels 4.14.23 to 4.14.40, too, which documents say to deadlock",
    ),
    option("group-file", Kind::Value, &["MESH_INIT_GROUP_FILE"], "/etc/group", "Look groups up in this file"),
];

/// The values of [`OPTIONS`].
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The only backend that will do.
    backend: Option<BackendName>,
    /// Where it was said.
    pub(super) log_format: Option<Format>,
    /// Where it was said.
    pub(super) log_level: Option<Level>,
    deadline: Duration,
    pub(super) netns: Option<PathBuf>,
    pub(super) pod_ips: Option<Vec<IpAddr>>,
    dns_servers: Option<Vec<IpAddr>>,
    /// Whether a kernel whose fault is only said to be there is taken to be without it.
    pub(super) trusts_upstream_fixes: bool,
    group_file: PathBuf,
}

impl Common {
    /// The options in `matches` and in the environment. A flag that `taken` has too is that table's on the command line,
    /// and ours only as a variable.
    pub(super) fn new(matches: &ArgMatches, taken: &[Flag], environment: &dyn Fn(&str) -> Option<String>) -> Result<Common, BadValue> {
        // An empty variable of ours says nothing.
        let environment = |name: &str| environment(name).filter(|value| !value.is_empty());
        let given = flags::read_but(taken, OPTIONS, matches, &environment);
        Ok(Common {
            backend: given.get("backend").read(|text| match text {
                "auto" => Ok(None),
                "nftables" => Ok(Some(BackendName::Nftables)),
                "legacy" => Ok(Some(BackendName::Legacy)),
                "iptables" if HAS_PROGRAMS => Ok(Some(BackendName::Iptables)),
                "iptables" => Err("is not in this build of mesh-init (cargo feature iptables-command)".to_owned()),
                _ => Err("is not a backend (auto, nftables or legacy)".to_owned()),
            })?,
            log_format: said(&given.get("log-format"), format)?,
            log_level: said(&given.get("log-level"), |text| match text {
                "error" => Ok(Level::Error),
                "warn" => Ok(Level::Warn),
                "info" => Ok(Level::Info),
                "debug" => Ok(Level::Debug),
                _ => Err("is not a log level (error, warn, info or debug)".to_owned()),
            })?,
            deadline: given.get("deadline").read(duration)?,
            netns: path(&given.get("netns")),
            pod_ips: addresses(&given.get("pod-ip"))?,
            dns_servers: addresses(&given.get("dns-server"))?,
            trusts_upstream_fixes: given.get("trust-upstream-fixes").switch()?,
            group_file: PathBuf::from(given.get("group-file").text),
        })
    }

    /// Which backend is wanted, where the mesh's own flags ask for `flags`. By which programs is theirs to say.
    pub(super) fn choice(&self, flags: Option<Choice>) -> Choice {
        let flags = flags.unwrap_or_default();
        self.backend.map_or(flags, |backend| Choice { programs: flags.programs, ..Choice::firmly(backend, "--backend") })
    }

    /// When to stop trying, counted from now.
    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        // An overlong time is no limit.
        now.checked_add(self.deadline).unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
    }

    /// Where the facts come from that a plan depends on.
    pub(super) fn sources(&self, needs: Needs) -> Sources<'_> {
        let Sources { resolv_conf, passwd_file, .. } = Sources::default();
        Sources {
            addresses: self.pod_ips.clone().unwrap_or_default(),
            dns_servers: self.dns_servers.clone(),
            resolv_conf: resolv_conf.filter(|_| needs.resolv_conf),
            group_file: Some(self.group_file.as_path()).filter(|_| needs.group_file),
            passwd_file: passwd_file.filter(|_| needs.passwd_file),
        }
    }
}

/// The value of a setting, unless it is the default.
fn said<T>(setting: &Setting, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, BadValue> {
    if setting.origin == Origin::Default { Ok(None) } else { setting.read(read).map(Some) }
}

fn path(setting: &Setting) -> Option<PathBuf> {
    (!setting.text.is_empty()).then(|| PathBuf::from(&setting.text))
}

/// Addresses, with or without a prefix length as `ip address` prints them; `None` when nothing was said.
fn addresses(setting: &Setting) -> Result<Option<Vec<IpAddr>>, BadValue> {
    let list = setting.read_list(|text| {
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        address.parse().map_err(|_| "is not an IP address".to_owned())
    })?;
    Ok((!list.is_empty()).then_some(list))
}
