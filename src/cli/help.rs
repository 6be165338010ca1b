//! The commands as clap knows them, and the answers to `--help`, `--version` and lines that cannot be read.

use crate::host::start::ExitCode;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::flags;
use super::options::OPTIONS;
use super::probe::{PROBE_OPTIONS, TIMEOUT};
use crate::mesh::flag::{Flag, Kind};
use crate::mesh::{Mesh, istio, linkerd};

/// What `dump` takes besides.
pub(super) const DUMP_OPTIONS: &[Flag] = &[
    Flag {
        long: "format",
        short: None,
        kind: Kind::Value,
        env: &[],
        default: "iptables",
        help: "iptables (for iptables-restore), nft (for nft -f) or json",
    },
    Flag { long: "family", short: None, kind: Kind::Value, env: &[], default: "all", help: "4, 6 or all" },
];

/// What `explain` takes besides.
pub(super) const EXPLAIN_OPTIONS: &[Flag] = &[
    Flag {
        long: "packet",
        short: None,
        kind: Kind::List,
        env: &[],
        default: "",
        help: "The packet, as 'out tcp 10.0.0.1:443 uid 1000' or 'in tcp from 10.1.2.3 to :8080', with dev, mark and state; any number of them",
    },
    Flag { long: "format", short: None, kind: Kind::Value, env: &[], default: "text", help: "text or json" },
];

/// What `apply` and `verify` take besides.
pub(super) const REPORT_OPTIONS: &[Flag] = &[Flag {
    long: "report",
    short: None,
    kind: Kind::Value,
    env: &["MESH_INIT_REPORT"],
    default: "",
    help: "Write what was found and done as JSON into this file, or - for stdout",
}];

/// What `preflight` takes besides.
pub(super) const PREFLIGHT_OPTIONS: &[Flag] = &[
    Flag { long: "format", short: None, kind: Kind::Value, env: &[], default: "text", help: "text or json" },
    Flag {
        long: "registry",
        short: None,
        kind: Kind::Value,
        env: &["MESH_INIT_REGISTRY"],
        default: "",
        help: "HOST:PORT from where images are pulled inside a Kata guest",
    },
];

/// The tables of flags of the own command line.
pub(super) const OWN_TABLES: [&[Flag]; 8] =
    [OPTIONS, DUMP_OPTIONS, EXPLAIN_OPTIONS, REPORT_OPTIONS, PREFLIGHT_OPTIONS, PROBE_OPTIONS, istio::FLAGS, linkerd::FLAGS];

/// The flags of a mesh's original tool.
pub(super) fn mesh_flags(mesh: Mesh) -> &'static [Flag] {
    match mesh {
        Mesh::Istio => istio::FLAGS,
        Mesh::Linkerd => linkerd::FLAGS,
    }
}

/// mesh-init's own command line. Only what `arguments` name is made in full: to describe every flag of every mesh under
/// every verb would be most of a run's work and memory.
pub(super) fn own(arguments: &[OsString]) -> Command {
    let described = flags::ask_for_help(arguments);
    let verb = |name, about, plans, more: &[&'static [Flag]]| verb(name, about, plans, more, arguments, described);
    let live = || flags::command("live", "What the kernel holds now, foreign rules included", [], described);
    Command::new("mesh-init")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Installs and checks the packet filter rules that send a pod's traffic to its sidecar proxy")
        .after_help(
            "Drop-in for istio-iptables as `mesh-init istio-iptables FLAGS`, and under the program names istio-iptables and pilot-agent.\n\
             Drop-in for linkerd2-proxy-init as `mesh-init FLAGS`, and under the program names linkerd2-proxy-init and proxy-init.\n\
             Drop-in for linkerd2-network-validator under that program name.\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 the kernel differs from the plan, 4 preflight found a blocker, 10 CAP_NET_ADMIN\n\
             missing, 11 refused in a user namespace, 12 no packet filter, 13 kernel feature missing, 14 rules kept changing, 15 a kernel on\n\
             which the proxy would hang. Drop-ins have the originals' codes.",
        )
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(verb("apply", "Plan the rules, install them, read them back and verify them", true, &[REPORT_OPTIONS, PROBE_OPTIONS]))
        .subcommand(verb(
            "verify",
            "Compare what the kernel holds with the plan; exit code 3 if it differs",
            true,
            &[REPORT_OPTIONS, PROBE_OPTIONS],
        ))
        .subcommand(verb(
            "preflight",
            "Tell whether this pod, kernel and user can do it, and change nothing; exit code 4 if not",
            false,
            &[PREFLIGHT_OPTIONS],
        ))
        .subcommand(verb(
            "remove",
            "Take the mesh's rules out, mesh-init's and the original tool's, and nothing else; both meshes' by default (flags are taken and not looked at)",
            false,
            &[],
        ))
        .subcommand(
            verb("dump", "Print the planned rules, or with `live` those that the kernel holds", true, &[DUMP_OPTIONS]).subcommand(live()),
        )
        .subcommand(
            verb(
                "explain",
                "Walk packets through the planned rules, or with `live` through those that the kernel holds, and say what becomes of them and why",
                true,
                &[EXPLAIN_OPTIONS],
            )
            .subcommand(live()),
        )
}

/// A verb, with one command a mesh, and our own options and `more` on all of them.
fn verb(
    name: &'static str,
    about: &'static str,
    plans: bool,
    more: &[&'static [Flag]],
    arguments: &[OsString],
    described: bool,
) -> Command {
    let verb = Command::new(name).about(about);
    if arguments.first().is_none_or(|first| first != name) {
        return verb;
    }
    let is_named = |mesh: &Mesh| arguments.iter().any(|argument| argument == mesh.as_str());
    let is_any_named = Mesh::ALL.iter().any(is_named);
    let meshes = Mesh::ALL.into_iter().filter(|mesh| is_named(mesh) || !is_any_named).map(|mesh| {
        let about = match mesh {
            Mesh::Istio => "The flags of istio-iptables",
            Mesh::Linkerd => "The flags of linkerd2-proxy-init",
        };
        let flags = if is_any_named { mesh_flags(mesh) } else { &[] };
        // Where there is a probe, its time is an option of the verb.
        let is_ours = |flag: &Flag| is_taken(flag, OPTIONS) || (flag.long == TIMEOUT && matches!(name, "apply" | "verify"));
        flags::command(mesh.as_str(), about, flags.iter().filter(|flag| !is_ours(flag)), described)
    });
    verb.subcommand_required(plans)
        .disable_help_subcommand(true)
        .args(OPTIONS.iter().chain(more.iter().copied().flatten()).map(|option| flags::argument(option, described).global(true)))
        .subcommands(meshes)
}

/// The command line of an original tool. Where a name of ours is one of its, its meaning holds.
pub(super) fn drop_in(mesh: Mesh, arguments: &[OsString]) -> Command {
    let (name, about) = match mesh {
        Mesh::Istio => ("istio-iptables", "mesh-init in the place of istio-iptables"),
        Mesh::Linkerd => ("linkerd2-proxy-init", "mesh-init in the place of linkerd2-proxy-init (its own verbs: mesh-init --help)"),
    };
    with_ours(name, about, mesh_flags(mesh), arguments).arg(
        // The originals take further words and do nothing with them.
        Arg::new(IGNORED).num_args(0..).action(ArgAction::Append).hide(true),
    )
}

/// The command line of Linkerd's network validator, which takes no further words.
pub(super) fn validator(arguments: &[OsString]) -> Command {
    let about = "mesh-init in the place of linkerd2-network-validator";
    with_ours("linkerd2-network-validator", about, linkerd::validator::FLAGS, arguments)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(false)
}

/// The flags of an original tool, and ours whose names it leaves.
fn with_ours(name: &'static str, about: &'static str, theirs: &'static [Flag], arguments: &[OsString]) -> Command {
    let ours = OPTIONS.iter().filter(|option| !is_taken(option, theirs));
    flags::command(name, about, theirs.iter().chain(ours), flags::ask_for_help(arguments)).no_binary_name(true)
}

/// Words after the flags of a drop-in.
pub(super) const IGNORED: &str = "ignored";

fn is_taken(flag: &Flag, by: &[Flag]) -> bool {
    by.iter().any(|other| other.long == flag.long)
}

/// Prints help or the version, or says in one line what is wrong with the command line.
pub(super) fn answer(
    error: &clap::Error,
    arguments: &[OsString],
    tables: &[&'static [Flag]],
    refuse: impl FnOnce(&str) -> ExitCode,
) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::MissingSubcommand => {
            refuse("a verb or a mesh is missing: mesh-init apply|verify|preflight|remove|dump|explain istio|linkerd; see --help")
        }
        _ => refuse(&flags::one_line(error, arguments, tables)),
    }
}
