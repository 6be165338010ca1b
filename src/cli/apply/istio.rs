//! `apply istio`, and the work of istio-iptables: install, or only print, validate or clean up, as its flags say.

use std::fs::OpenOptions;
use std::io::Write;

use nix::unistd::geteuid;
use tracing::{debug, info, warn};

use super::{final_rules, install};
use crate::cli::failure::{Code, Failure};
use crate::cli::options::Common;
use crate::cli::report::Report;
use crate::cli::session::{self, MeshOptions};
use crate::cli::{dump, print, probe, remove};
use crate::host::probe::Passthrough;
use crate::host::{Surroundings, capability};
use crate::mesh::istio::{Local, Options};
use crate::mesh::{Mesh, Plan};
use crate::ruleset::Family;
use crate::ruleset::print::iptables::{self, Style as TextStyle};

/// Does what the options ask for, which with some of them is not to install anything. `show_rules` logs what the
/// kernel holds in the end.
pub(in crate::cli) fn work(options: Options, common: &Common, show_rules: bool, report: &mut Report) -> Result<(), Failure> {
    session::enter_namespace(common)?;
    warn_of_settings(&options);
    let options = MeshOptions::Istio(Box::new(options));
    let MeshOptions::Istio(istio) = &options else { return Ok(()) };
    // Validation asks for a connection's original destination, too.
    let only_looks = istio.skip_rule_apply || istio.dry_run;
    if if only_looks { istio.run_validation } else { !istio.cleanup_only } {
        session::check_release(common)?;
    }
    if istio.skip_rule_apply {
        let (plan, surroundings) = session::plan(&options, common, None)?;
        info!("no rules are installed, as --skip-rule-apply says");
        return if istio.run_validation { validate(&options, istio, &surroundings, common, Proof::Plan(plan)) } else { Ok(()) };
    }
    if istio.dry_run {
        let (plan, surroundings) = session::plan(&options, common, None)?;
        let text = dump::text(&plan.rulesets);
        print(&text)?;
        if let Some(path) = &istio.dry_run_file_path {
            append(path, &text)?;
        }
        return if istio.run_validation { validate(&options, istio, &surroundings, common, Proof::None) } else { Ok(()) };
    }
    let choice = common.choice(options.preference());
    let mut kernel = session::open_kernel(common, choice)?;
    let surroundings = if istio.cleanup_only {
        remove::take_out(Mesh::Istio, &mut kernel)?;
        None
    } else {
        let (plan, surroundings) = session::plan(&options, common, Some(&mut kernel))?;
        install(plan, common, &mut kernel, report)?;
        Some(surroundings).filter(|_| istio.run_validation)
    };
    let final_rules = if show_rules { final_rules(&mut kernel) } else { Vec::new() };
    session::close_kernel(kernel);
    for held in &final_rules {
        info!(
            "Final iptables state ({}, {}):\n{}",
            held.ruleset.family,
            held.form.describe(),
            iptables::ruleset(&held.ruleset, TextStyle::default())
        );
    }
    surroundings.map_or(Ok(()), |surroundings| validate(&options, istio, &surroundings, common, Proof::ReadBack))
}

/// Settings that are taken for what they are worth here.
fn warn_of_settings(options: &Options) {
    if let Some(path) = &options.network_namespace {
        info!("--network-namespace names {path}; as with istio-iptables, it is not entered (--netns does that)");
    }
    for (flag, given) in [("--reconcile", options.reconcile), ("--force-apply", options.force_apply), ("--cni-mode", options.cni_mode)] {
        if given {
            debug!("{flag} changes nothing: rules are always repaired where they differ");
        }
    }
    let unknown: Vec<&String> = options.log_target.iter().filter(|target| !matches!(target.as_str(), "stdout" | "stderr")).collect();
    if !unknown.is_empty() {
        warn!("--log_target: {unknown:?} is left out: log lines go to stdout or stderr, and no file is written");
    }
}

fn append(path: &str, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().append(true).create(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::new(Code::Failed, format!("cannot write $DRY_RUN_FILE_PATH {path}: {error}"), None))
}

/// What says that the rules are right when the probe cannot: it works for the proxy's user alone.
enum Proof {
    /// The rules were installed and read back a moment ago.
    ReadBack,
    /// The rules have to be what this plan says.
    Plan(Plan),
    /// Nothing.
    None,
}

/// Istio's probe; for another user than the proxy's, a comparison of the kernel's rules with the plan, or without the
/// privilege for that a connection of an application's.
fn validate(all: &MeshOptions, options: &Options, surroundings: &Surroundings, common: &Common, proof: Proof) -> Result<(), Failure> {
    let user = geteuid().as_raw();
    if options.proxy_uids(surroundings).iter().any(|ids| ids.contains(user)) {
        let host_ip = Local::new(options, surroundings)?.host_ip;
        let probe = Passthrough {
            family: if host_ip.is_ipv6() { Family::V6 } else { Family::V4 },
            proxy_port: options.proxy_port,
            inbound_port: options.inbound_capture_port,
            probe_port: options.iptables_probe_port,
            timeout: options.probe_timeout,
        };
        probe.run().map_err(|error| invalid(error.to_string()))?;
        info!("Validation passed, iptables rules established");
        return Ok(());
    }
    let not_the_proxy = format!("user {user} is not the proxy's, for whom alone the validation's connection is redirected");
    match proof {
        Proof::ReadBack => {
            warn!("{not_the_proxy}; the rules have been read back instead, and are as planned");
            Ok(())
        }
        Proof::Plan(plan) if capability::raise_net_admin().is_ok() => {
            let mut kernel = session::open_kernel(common, common.choice(all.preference()))?;
            let (drift, _) = kernel.check(&mut session::wanted(plan))?;
            session::close_kernel(kernel);
            match drift.first() {
                Some(first) => {
                    Err(invalid(format!("the kernel does not hold the planned rules: {first} (and {} more differences)", drift.len() - 1)))
                }
                None => {
                    info!("Validation passed: the kernel holds the planned rules ({not_the_proxy})");
                    Ok(())
                }
            }
        }
        Proof::Plan(_) => {
            let tries = probe::try_all(all, common, options.probe_timeout, None, None)?;
            for line in probe::lines(&tries) {
                info!("{line}");
            }
            probe::judge(&tries, common).map_err(|failure| invalid(failure.to_string()))?;
            if !probe::any_passed(&tries) {
                return Err(cannot(&not_the_proxy));
            }
            info!("Validation passed: connections of user {user} arrive at the proxy's port ({not_the_proxy})");
            Ok(())
        }
        Proof::None => Err(cannot(&not_the_proxy)),
    }
}

fn cannot(why: &str) -> Failure {
    invalid(format!("cannot validate: {why}, and without CAP_NET_ADMIN the rules cannot be read; run as the proxy's user (--proxy-uid)"))
}

fn invalid(reason: String) -> Failure {
    Failure::new(Code::Invalid, reason, None)
}
