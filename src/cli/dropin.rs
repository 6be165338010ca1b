//! The program in the place of an original tool: its arguments, its log on stdout, its exit codes.

mod istio;
mod linkerd;

use crate::host::start::ExitCode;
use std::ffi::OsString;

use clap::ArgMatches;
use tracing::warn;

pub(super) use self::istio::run as istio;
pub(super) use self::linkerd::run as linkerd;
use super::options::{Common, OPTIONS};
use super::{help, session};
use crate::host::termination_log;
use crate::mesh::Mesh;

/// Reads a drop-in's command line; an error is answered already.
fn read(mesh: Mesh, arguments: &[OsString], usage_code: u8) -> Result<(ArgMatches, Common), ExitCode> {
    let tables = [help::mesh_flags(mesh), OPTIONS];
    let matches = help::drop_in(mesh, arguments)
        .try_get_matches_from(arguments)
        .map_err(|error| help::answer(&error, arguments, &tables, |message| refuse(message, usage_code)))?;
    let common =
        Common::new(&matches, help::mesh_flags(mesh), &session::environment).map_err(|error| refuse(&error.to_string(), usage_code))?;
    Ok((matches, common))
}

/// Ends with one line on stderr, in the form of the originals' usage errors.
fn refuse(message: &str, code: u8) -> ExitCode {
    super::complain(&format!("Error: {message}"));
    termination_log::write(message);
    ExitCode::from(code)
}

/// Warns of words that the original would take and ignore too.
fn warn_of_ignored(matches: &ArgMatches) {
    let words: Vec<&String> = matches.get_many(help::IGNORED).into_iter().flatten().collect();
    if !words.is_empty() {
        warn!("ignored on the command line, as they follow no flag that takes them: {words:?} (a switch takes its value after '=')");
    }
}
