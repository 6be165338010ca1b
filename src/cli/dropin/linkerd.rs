//! In the place of `linkerd2-proxy-init`.

use crate::host::start::ExitCode;
use std::ffi::OsString;
use std::path::PathBuf;

use super::{read, refuse, warn_of_ignored};
use crate::cli::apply::linkerd::work;
use crate::cli::log::{self, Style};
use crate::cli::report::Report;
use crate::cli::{flags, session};
use crate::mesh::Mesh;
use crate::mesh::linkerd::{FLAGS, Options};

/// Every failure.
const FAILED: u8 = 1;

pub(in crate::cli) fn run(arguments: &[OsString]) -> ExitCode {
    let (matches, mut common) = match read(Mesh::Linkerd, arguments, FAILED) {
        Ok(read) => read,
        Err(code) => return code,
    };
    let given = flags::read(FLAGS, &matches, &session::environment);
    let options = match Options::new(&given) {
        Ok(options) => options,
        Err(error) => return refuse(&error.to_string(), FAILED),
    };
    log::install(Style::Linkerd(common.log_format.unwrap_or(options.log_format)), common.log_level.unwrap_or(options.log_level));
    warn_of_ignored(&matches);
    // The original's flag of that name enters the namespace as ours does.
    common.netns = options.netns.clone().map(PathBuf::from).or(common.netns);
    match work(options, &common, true, &mut Report::new("apply", Mesh::Linkerd)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => refuse(&failure.to_string(), FAILED),
    }
}
