//! `mesh-init apply`: plan, install, read back, verify.

pub(super) mod istio;
pub(super) mod linkerd;

use clap::ArgMatches;
use tracing::{info, warn};

use super::failure::{Code, Failure};
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::kernel::{Kernel, Outcome};
use crate::mesh::{IptablesMode, Mesh, Plan};
use crate::ruleset::Ruleset;

pub(super) fn run(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    match MeshOptions::read(mesh, matches, environment)? {
        MeshOptions::Istio(options) => istio::work(*options, common, false)?,
        MeshOptions::Linkerd(options) => linkerd::work(*options, common, false)?,
    }
    Ok(Code::Done)
}

/// Installs `plan` and logs what was done.
fn install(plan: Plan, kernel: &mut Kernel) -> Result<(), Failure> {
    let wanted = session::wanted(plan, kernel)?;
    let outcome = kernel.install(&wanted)?;
    let summary = session::summary(&wanted, kernel);
    match outcome {
        Outcome::AlreadyInPlace => info!("already in place: {summary}"),
        Outcome::Changed => info!("installed and verified: {summary}"),
    }
    Ok(())
}

/// What the kernel holds in the end, for the log. The rules are installed and checked by then: that they cannot be shown
/// is no failure.
fn final_rules(kernel: &mut Kernel) -> Vec<Ruleset> {
    session::live(kernel).unwrap_or_else(|failure| {
        warn!("the rules are installed, but cannot be shown: {failure}");
        Vec::new()
    })
}

/// Warns when a packet filter is asked for that is not the one that will be used.
fn warn_of_mode(asked_for: Option<IptablesMode>) {
    if asked_for == Some(IptablesMode::Nft) {
        warn!("nf_tables was asked for; the rules go into the legacy packet filter, which this version has alone");
    }
}
