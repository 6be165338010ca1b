//! `apply linkerd`, and the work of linkerd2-proxy-init: install, or only print.

use tracing::{debug, info, warn};

use super::{final_rules, install};
use crate::cli::failure::Failure;
use crate::cli::options::Common;
use crate::cli::report::Report;
use crate::cli::session::{self, MeshOptions};
use crate::cli::{dump, print};
use crate::host::sysctl;
use crate::kernel;
use crate::mesh::linkerd::Options;
use crate::ruleset::print::iptables::{self, Style as TextStyle};

/// Does what the options ask for, which with one of them is only to print. `show_rules` logs what the kernel holds in
/// the end.
pub(in crate::cli) fn work(options: Options, common: &Common, show_rules: bool, report: &mut Report) -> Result<(), Failure> {
    session::enter_namespace(common)?;
    if options.use_wait_flag {
        debug!("--use-wait-flag changes nothing: the iptables lock is waited for anyway");
    }
    let (simulate, close_wait) = (options.simulate, options.timeout_close_wait_secs);
    let options = MeshOptions::Linkerd(Box::new(options));
    if simulate {
        let (plan, _) = session::plan(&options, common, None)?;
        return print(&dump::text(&plan.rulesets));
    }
    session::check_release(common)?;
    let mut kernel = session::open_kernel(common, common.choice(options.preference()))?;
    let (plan, _) = session::plan(&options, common, Some(&mut kernel))?;
    // The setting is part of what is done whole or not at all.
    let _signals = kernel::hold_signals();
    let before = close_wait.map(sysctl::set_close_wait_timeout).transpose()?;
    if let Err(failure) = install(plan, common, &mut kernel, report) {
        // All or nothing: the setting is put back with the rules.
        if let Some(Err(error)) = before.map(sysctl::set_close_wait_timeout) {
            warn!("{error}");
        }
        return Err(failure);
    }
    let final_rules = if show_rules { final_rules(&mut kernel) } else { Vec::new() };
    session::close_kernel(kernel);
    for held in &final_rules {
        info!("rules of {} in the end, in {}:", held.ruleset.family, held.form.describe());
        for line in iptables::ruleset(&held.ruleset, TextStyle::default()).lines() {
            info!("{line}");
        }
    }
    Ok(())
}
