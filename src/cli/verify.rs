//! `mesh-init verify`: what the kernel holds, compared with the plan.

use clap::ArgMatches;

use super::failure::{Code, Failure};
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::mesh::Mesh;

pub(super) fn run(mesh: Mesh, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let options = MeshOptions::read(mesh, matches, environment)?;
    session::enter_namespace(common)?;
    let mut kernel = session::open_kernel(common, common.choice(options.preference()))?;
    let (plan, _) = session::plan(&options, common, Some(&mut kernel))?;
    let mut wanted = session::wanted(plan);
    let (drift, settled) = kernel.check(&mut wanted)?;
    let summary = session::summary(&wanted, &settled);
    session::close_kernel(kernel);

    session::announce(&settled);
    let mut report = String::new();
    for difference in &drift {
        report.push_str(&format!("{difference}\n"));
    }
    match drift.len() {
        0 => report.push_str(&format!("in place: {summary}\n")),
        1 => report.push_str(&format!("1 difference from the plan of {summary}\n")),
        many => report.push_str(&format!("{many} differences from the plan of {summary}\n")),
    }
    super::print(&report)?;
    Ok(if drift.is_empty() { Code::Done } else { Code::Differs })
}
