//! The commands as clap knows them, and the answers to `--help`, `--version` and lines that cannot be read.

use crate::host::start::ExitCode;
use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, Command};

use super::flags;
use super::options::OPTIONS;
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

/// The tables of flags of the own command line.
pub(super) const OWN_TABLES: [&[Flag]; 6] = [OPTIONS, DUMP_OPTIONS, EXPLAIN_OPTIONS, REPORT_OPTIONS, istio::FLAGS, linkerd::FLAGS];

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
    let verb = |name, about, plans| verb(name, about, plans, arguments, described);
    let reporting = |verb: Command| verb.args(REPORT_OPTIONS.iter().map(|option| flags::argument(option, described).global(true)));
    let showing = |name, about, options: &'static [Flag]| {
        verb(name, about, true)
            .args(options.iter().map(|option| flags::argument(option, described).global(true)))
            .subcommand(flags::command("live", "What the kernel holds now, foreign rules included", [], described))
    };
    Command::new("mesh-init")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Installs and checks the packet filter rules that send a pod's traffic to its sidecar proxy")
        .after_help(
            "Drop-in for istio-iptables as `mesh-init istio-iptables FLAGS`, and under the program names istio-iptables and pilot-agent.\n\
             Drop-in for linkerd2-proxy-init as `mesh-init FLAGS`, and under the program names linkerd2-proxy-init and proxy-init.\n\
             Exit codes: 0 done, 1 failed, 2 usage, 3 the kernel differs from the plan, 10 CAP_NET_ADMIN missing, 11 refused in a user\n\
             namespace, 12 no packet filter, 13 kernel feature missing, 14 rules kept changing. Drop-ins have the originals' codes.",
        )
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .subcommand(reporting(verb("apply", "Plan the rules, install them, read them back and verify them", true)))
        .subcommand(reporting(verb("verify", "Compare what the kernel holds with the plan; exit code 3 if it differs", true)))
        .subcommand(verb(
            "remove",
            "Take the mesh's rules out, mesh-init's and the original tool's, and nothing else; both meshes' by default (flags are taken and not looked at)",
            false,
        ))
        .subcommand(showing("dump", "Print the planned rules, or with `live` those that the kernel holds", DUMP_OPTIONS))
        .subcommand(showing(
            "explain",
            "Walk packets through the planned rules, or with `live` through those that the kernel holds, and say what becomes of them and why",
            EXPLAIN_OPTIONS,
        ))
}

/// A verb, with one command a mesh and our own options on all of them.
fn verb(name: &'static str, about: &'static str, plans: bool, arguments: &[OsString], described: bool) -> Command {
    let verb = Command::new(name).about(about);
    if arguments.first().is_none_or(|first| first != name) {
        return verb;
    }
    let meshes = Mesh::ALL.map(|mesh| {
        let about = match mesh {
            Mesh::Istio => "The flags of istio-iptables",
            Mesh::Linkerd => "The flags of linkerd2-proxy-init",
        };
        let named = arguments.iter().any(|argument| argument == mesh.as_str());
        let flags = if named { mesh_flags(mesh) } else { &[] };
        flags::command(mesh.as_str(), about, flags.iter().filter(|flag| !is_taken(flag, OPTIONS)), described)
    });
    verb.subcommand_required(plans)
        .disable_help_subcommand(true)
        .args(OPTIONS.iter().map(|option| flags::argument(option, described).global(true)))
        .subcommands(meshes)
}

/// The command line of an original tool. Where a name of ours is one of its, its meaning holds.
pub(super) fn drop_in(mesh: Mesh, arguments: &[OsString]) -> Command {
    let (name, about) = match mesh {
        Mesh::Istio => ("istio-iptables", "mesh-init in the place of istio-iptables"),
        Mesh::Linkerd => ("linkerd2-proxy-init", "mesh-init in the place of linkerd2-proxy-init (its own verbs: mesh-init --help)"),
    };
    let theirs = mesh_flags(mesh);
    let ours = OPTIONS.iter().filter(|option| !is_taken(option, theirs));
    flags::command(name, about, theirs.iter().chain(ours), flags::ask_for_help(arguments)).no_binary_name(true).arg(
        // The originals take further words and do nothing with them.
        Arg::new(IGNORED).num_args(0..).action(ArgAction::Append).hide(true),
    )
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
            refuse("a verb or a mesh is missing: mesh-init apply|verify|remove|dump|explain istio|linkerd; see --help")
        }
        _ => refuse(&flags::one_line(error, arguments, tables)),
    }
}
