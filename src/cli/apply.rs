//! `mesh-init apply`: plan, install, read back, verify.

pub(super) mod istio;
pub(super) mod linkerd;

use clap::ArgMatches;
use tracing::{info, warn};

use super::failure::{Code, Failure};
use super::help::REPORT_OPTIONS;
use super::options::Common;
use super::probe::{self, Probing};
use super::report::Report;
use super::session::{self, Environment, MeshOptions};
use super::{flags, preflight};
use crate::host::machine::Machine;
use crate::kernel::{Held, Kernel, Outcome};
use crate::mesh::{Mesh, Plan};

pub(super) fn run(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let to = flags::read(REPORT_OPTIONS, matches, environment).get("report").text;
    let mut report = Report::begin("apply", mesh, &to)?;
    let done = Probing::read(mesh, matches, common, environment).and_then(|probing| {
        apply(mesh, matches, common, environment, &mut report)?;
        probing.map_or(Ok(()), |probing| probe(probing, common, &mut report))
    });
    report.write(done.map(|()| Code::Done))
}

fn apply(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>, report: &mut Report) -> Result<(), Failure> {
    MeshOptions::read(mesh, matches, environment).map_err(Failure::from).and_then(|options| match options {
        MeshOptions::Istio(options) => istio::work(*options, common, false, report),
        MeshOptions::Linkerd(options) => linkerd::work(*options, common, false, report),
    })
}

/// Tries what was installed. Rules that do not what they should stay: without them traffic would pass the proxy by.
fn probe(probing: Probing, common: &Common, report: &mut Report) -> Result<(), Failure> {
    let tries = probing.run(common)?;
    probe::record(&tries, report.checks());
    for line in probe::lines(&tries) {
        info!("{line}");
    }
    probe::judge(&tries, common)
}

/// Installs `plan` and logs what was done.
fn install(plan: Plan, common: &Common, kernel: &mut Kernel, report: &mut Report) -> Result<(), Failure> {
    let mut wanted = session::wanted(plan);
    let machine = Machine::default();
    if report.is_wanted() {
        preflight::of_machine(report.checks(), &machine, common, &wanted.rulesets);
    }
    let (outcome, settled) = kernel.install(&mut wanted).map_err(|error| {
        let is_rule_invalid = error.is_rule_invalid();
        preflight::explained(error.into(), is_rule_invalid, &machine, &wanted.rulesets, kernel)
    })?;
    session::announce(&settled);
    report.settled(&wanted, &settled);
    report.installed(outcome);
    report.checks().ok("read-back", "the kernel holds the planned rules");
    let summary = session::summary(&wanted, &settled);
    match outcome {
        Outcome::AlreadyInPlace => info!("already in place: {summary}"),
        Outcome::Changed => info!("installed and verified: {summary}"),
    }
    Ok(())
}

/// What the kernel holds in the end, for the log. The rules are installed and checked by then: that they cannot be shown
/// is no failure.
fn final_rules(kernel: &mut Kernel) -> Vec<Held> {
    match kernel.live() {
        Ok(live) => live.held,
        Err(error) => {
            warn!("the rules are installed, but cannot be shown: {error}");
            Vec::new()
        }
    }
}
