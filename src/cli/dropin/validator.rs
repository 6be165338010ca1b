//! In the place of `linkerd2-network-validator`.

use std::ffi::OsString;
use std::process::ExitCode;

use tracing::{error, info};

use super::{read_as, refuse};
use crate::cli::log::{self, Style};
use crate::cli::{flags, help, session};
use crate::host::probe::Validator;
use crate::host::{signal_exit, termination_log};
use crate::mesh::linkerd::validator::{FLAGS, Options};

/// The networking is not set up, or that was not found out. Linkerd's CNI repair controller looks for this code.
const INVALID: u8 = 95;
/// The command line cannot be read.
const USAGE: u8 = 2;

pub(in crate::cli) fn run(arguments: &[OsString]) -> ExitCode {
    let (matches, common) = match read_as(help::validator(arguments), FLAGS, arguments, USAGE) {
        Ok(read) => read,
        Err(code) => return code,
    };
    let options = match Options::new(&flags::read(FLAGS, &matches, &session::environment)) {
        Ok(options) => options,
        Err(error) => return refuse(&error.to_string(), USAGE),
    };
    log::install(Style::Validator(common.log_format.unwrap_or(options.log_format)), common.log_level.unwrap_or(options.log_level));
    signal_exit::exit_on_signals(INVALID);
    let validator = Validator { listen: options.listen_addr, connect: options.connect_addr, timeout: options.timeout };
    let done = session::enter_namespace(&common)
        .map_err(|failure| failure.to_string())
        .and_then(|()| validator.run().map_err(|reason| reason.to_string()));
    match done {
        Ok(()) => {
            info!("Validated");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            let line = format!("outgoing connections are not redirected to the proxy: {reason}");
            if tracing::enabled!(tracing::Level::ERROR) {
                error!("{line}");
            } else {
                crate::cli::complain(&format!("Error: {line}"));
            }
            termination_log::write(&line);
            ExitCode::from(INVALID)
        }
    }
}
