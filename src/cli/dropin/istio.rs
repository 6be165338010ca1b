//! In the place of `pilot-agent istio-iptables`.

use crate::host::start::ExitCode;
use std::ffi::OsString;

use tracing::error;

use super::{read, refuse, warn_of_ignored};
use crate::cli::apply::istio::work;
use crate::cli::failure::Code;
use crate::cli::log::{self, Stream, Style};
use crate::cli::report::Report;
use crate::cli::{flags, session};
use crate::host::termination_log;
use crate::mesh::flag::{BadValue, Kind, Origin};
use crate::mesh::istio::{FLAGS, Options};
use crate::mesh::{self, Mesh};

/// Configuration and run-time failures.
const FAILED: u8 = 1;
/// The validation failed. Istio's CNI repair controller looks for this code.
const INVALID: u8 = Code::Invalid as u8;
/// The command line cannot be read.
const USAGE: u8 = 255;

/// What the original prints when its validation fails; operators and tools search logs for it.
const INVALID_TEXT: &str = "iptables validation failed; workload is not ready for Istio.\n\
                            When using Istio CNI, this can occur if a pod is scheduled before the node is ready.";

pub(in crate::cli) fn run(arguments: &[OsString]) -> ExitCode {
    let (matches, common) = match read(Mesh::Istio, arguments, USAGE) {
        Ok(read) => read,
        Err(code) => return code,
    };
    let given = flags::read(FLAGS, &matches, &session::environment);
    let options = match Options::new(&given) {
        Ok(options) => options,
        Err(error) => return refuse(&error.to_string(), code_of(&error)),
    };
    // Our own options say what is wanted of this program alone; the original's come with every injected pod.
    let format = common.log_format.unwrap_or(options.log_format);
    let level = common.log_level.unwrap_or(options.log_output_level);
    log::install(Style::Istio(format, stream(&options.log_target)), level);
    warn_of_ignored(&matches);
    let Err(failure) = work(options, &common, true, &mut Report::new("apply", Mesh::Istio)) else { return ExitCode::SUCCESS };
    if failure.code == Code::Invalid {
        error!("{INVALID_TEXT}");
    }
    report(&failure.to_string());
    ExitCode::from(if failure.code == Code::Invalid { INVALID } else { FAILED })
}

/// Where log lines go: to stdout unless only stderr is asked for. No file is written.
fn stream(targets: &[String]) -> Stream {
    let asks = |stream| targets.iter().any(|target| target == stream);
    if asks("stderr") && !asks("stdout") { Stream::Stderr } else { Stream::Stdout }
}

/// Says why the program failed, also when the log is switched off.
fn report(reason: &str) {
    if tracing::enabled!(tracing::Level::ERROR) {
        error!("{reason}");
    } else {
        crate::cli::complain(&format!("Error: {reason}"));
    }
    termination_log::write(reason);
}

/// The original reads some flags while it parses the command line and the others later.
fn code_of(error: &mesh::Error) -> u8 {
    let parsed_early = |long: &str| {
        let switch = FLAGS.iter().any(|flag| flag.long == long && flag.kind == Kind::Switch);
        switch || long.starts_with("log_") || matches!(long, "iptables-probe-port" | "probe-timeout" | "vklog")
    };
    match error {
        mesh::Error::BadValue(BadValue { origin: Origin::Flag(long), .. }) if parsed_early(long) => USAGE,
        _ => FAILED,
    }
}
