//! `mesh-init remove`: a mesh's rules out, by ownership and not by the options that they were made from.

use tracing::{info, warn};

use super::failure::{Code, Failure};
use super::options::Common;
use super::session;
use crate::kernel::{Kernel, Outcome, Wanted};
use crate::mesh::Mesh;

pub(super) fn run(mesh: Option<Mesh>, common: &Common) -> Result<Code, Failure> {
    session::enter_namespace(common)?;
    let mut kernel = session::open_kernel(common, common.choice(None))?;
    for mesh in Mesh::ALL.into_iter().filter(|each| mesh.is_none_or(|wanted| wanted == *each)) {
        take_out(mesh, &mut kernel)?;
    }
    session::close_kernel(kernel);
    Ok(Code::Done)
}

/// Takes out everything of `mesh` and logs what was done.
pub(super) fn take_out(mesh: Mesh, kernel: &mut Kernel) -> Result<(), Failure> {
    let (outcome, settled) = kernel.install(&mut Wanted::nothing(mesh))?;
    for warning in &settled.warnings {
        warn!("{warning}");
    }
    match outcome {
        Outcome::AlreadyInPlace => info!("nothing of {} is there", mesh.as_str()),
        Outcome::Changed => info!("the rules of {} are removed", mesh.as_str()),
    }
    Ok(())
}
