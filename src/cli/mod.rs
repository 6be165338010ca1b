//! The command line: what was typed becomes a verb's work, its failure one line and an exit code.
//!
//! The program goes by several names (`dialect` tells which stands for what). Under its own it has verbs, one file each; under the original
//! tools' names it takes their arguments, logs as they do and ends with their exit codes.

mod apply;
mod check;
mod dialect;
mod dropin;
mod dump;
mod explain;
mod failure;
mod flags;
mod help;
mod log;
mod options;
#[cfg(feature = "manifest")]
pub mod patch;
mod preflight;
mod probe;
mod remove;
mod report;
mod session;
mod verify;

use crate::host::start::ExitCode;
use std::ffi::OsString;
use std::io::Write;

use clap::ArgMatches;

use self::dialect::Dialect;
use self::failure::{Code, Failure};
use self::options::Common;
use crate::host::termination_log;
use crate::mesh::Mesh;
use crate::mesh::log::{Format, Level};

/// Runs the program with `arguments`, of which the first is its name, and returns its exit code.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let (dialect, arguments) = match dialect::choose(arguments) {
        Ok(chosen) => chosen,
        Err(message) => return usage(&message),
    };
    match dialect {
        Dialect::Own => own(&arguments),
        Dialect::Istio => dropin::istio(&arguments),
        Dialect::Linkerd => dropin::linkerd(&arguments),
        Dialect::Validator => dropin::validator(&arguments),
    }
}

/// The program under its own name.
fn own(arguments: &[OsString]) -> ExitCode {
    let matches = match help::own(arguments).no_binary_name(true).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return help::answer(&error, arguments, &help::OWN_TABLES, usage),
    };
    let Some((verb, matches)) = matches.subcommand() else { return usage("a verb is missing; see --help") };
    let (mesh, matches) = subject(matches);
    let common = match Common::new(matches, &[], &session::environment) {
        Ok(common) => common,
        Err(error) => return usage(&error.to_string()),
    };
    log::install(log::Style::Own(common.log_format.unwrap_or(Format::Plain)), common.log_level.unwrap_or(Level::Info));
    let result = match (verb, mesh) {
        ("apply", Some(mesh)) => apply::run(mesh, matches, &common, &session::environment),
        ("verify", Some(mesh)) => verify::run(mesh, matches, &common, &session::environment),
        ("dump", mesh) => dump::run(mesh, matches, &common, &session::environment),
        ("preflight", mesh) => preflight::run(mesh, matches, &common, &session::environment),
        ("explain", mesh) => explain::run(mesh, matches, &common, &session::environment),
        ("remove", mesh) => remove::run(mesh, &common),
        _ => Err(Failure::usage("a mesh is missing: istio or linkerd; see --help")),
    };
    match result {
        Ok(code) => ExitCode::from(code as u8),
        Err(failure) => {
            tracing::error!("{failure}");
            // These two are asked by people, of a pod that runs: the log is for why its own container ended, and stays.
            if !matches!(verb, "dump" | "explain") {
                termination_log::write(&failure.to_string());
            }
            ExitCode::from(failure.code as u8)
        }
    }
}

/// The mesh that a verb was given, and the matches where its flags are.
fn subject(matches: &ArgMatches) -> (Option<Mesh>, &ArgMatches) {
    match matches.subcommand() {
        Some((name, inner)) => (Mesh::ALL.into_iter().find(|mesh| mesh.as_str() == name), inner),
        None => (None, matches),
    }
}

/// Says what is wrong with the command line.
fn usage(message: &str) -> ExitCode {
    complain(&format!("mesh-init: error: {message}"));
    termination_log::write(message);
    ExitCode::from(Code::Usage as u8)
}

/// Says something on stderr, which may be closed or full: that is no reason to end differently.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints what was asked for.
fn print(text: &str) -> Result<(), Failure> {
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Failure::new(Code::Failed, format!("cannot write to stdout: {error}"), None))
}

/// A report for programs: indented JSON with a line's end.
fn json(report: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(report).map_err(|error| Failure::new(Code::Failed, error.to_string(), None))?;
    text.push('\n');
    Ok(text)
}
