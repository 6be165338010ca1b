//! `mesh-init apply`: plan, install, read back, verify.

pub(super) mod istio;
pub(super) mod linkerd;

use clap::ArgMatches;
use tracing::{info, warn};

use super::failure::{Code, Failure};
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::kernel::{Held, Kernel, Outcome};
use crate::mesh::{Mesh, Plan};

pub(super) fn run(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    match MeshOptions::read(mesh, matches, environment)? {
        MeshOptions::Istio(options) => istio::work(*options, common, false)?,
        MeshOptions::Linkerd(options) => linkerd::work(*options, common, false)?,
    }
    Ok(Code::Done)
}

/// Installs `plan` and logs what was done.
fn install(plan: Plan, kernel: &mut Kernel) -> Result<(), Failure> {
    let mut wanted = session::wanted(plan);
    let (outcome, settled) = kernel.install(&mut wanted)?;
    session::announce(&settled);
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
    session::live(kernel).unwrap_or_else(|failure| {
        warn!("the rules are installed, but cannot be shown: {failure}");
        Vec::new()
    })
}
