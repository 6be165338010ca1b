//! `mesh-init explain`: what becomes of a packet under the planned rules, or with `live` under those that the kernel holds,
//! and why.

mod json;
mod text;

use clap::ArgMatches;

use super::failure::{Code, Failure};
use super::flags;
use super::help::EXPLAIN_OPTIONS;
use super::options::Common;
use super::session::{self, Environment, MeshOptions};
use crate::mesh::flag::{BadValue, Given};
use crate::mesh::{self, Mesh};
use crate::ruleset::Family;
use crate::ruleset::walk::{Layers, Packet, Pod, Question, Walk, questions, walk};

/// What is asked, and of what.
struct Asked<'a> {
    /// `istio`, `linkerd`, or `live` for what a kernel holds.
    subject: &'static str,
    pod: Pod,
    layers: [Layers<'a>; 2],
    packets: Vec<Packet>,
}

impl Asked<'_> {
    fn layers(&self, family: Family) -> &Layers<'_> {
        &self.layers[usize::from(family == Family::V6)]
    }

    /// What becomes of a packet.
    fn walk(&self, packet: &Packet) -> (Family, Walk<'_>) {
        let family = packet.family(&self.pod);
        (family, walk(self.layers(family), packet, &self.pod))
    }

    /// What is asked where no packet is given: the usual questions of each family that has rules, and of the pod's first.
    fn usual(&self) -> Vec<Question> {
        let families = Family::ALL.into_iter().filter(|family| *family == self.pod.family() || !self.layers(*family).is_empty());
        families.flat_map(|family| questions(self.layers(family), family, &self.pod)).collect()
    }
}

pub(super) fn run(mesh: Option<Mesh>, matches: &ArgMatches, common: &Common, environment: Environment<'_>) -> Result<Code, Failure> {
    let given = flags::read(EXPLAIN_OPTIONS, matches, environment);
    let (packets, as_json) = read(&given).map_err(mesh::Error::from)?;
    let options = mesh.map(|mesh| MeshOptions::read(mesh, matches, environment)).transpose()?;
    session::enter_namespace(common)?;
    let answer = |asked: &Asked<'_>| if as_json { json::answer(asked) } else { Ok(text::answer(asked)) };
    let text = match options {
        Some(options) => {
            let (plan, surroundings) = session::plan(&options, common, None)?;
            let layers = Family::ALL.map(|family| {
                let plan = plan.rulesets.iter().find(|ruleset| ruleset.family == family);
                plan.map(Layers::of_plan).unwrap_or_default()
            });
            answer(&Asked { subject: plan.mesh.as_str(), pod: Pod::new(surroundings.addresses, &plan.routing), layers, packets })?
        }
        None => {
            let mut kernel = session::open_kernel(common, common.choice(None))?;
            let (live, mut pod) = (kernel.live()?, kernel.pod()?);
            session::close_kernel(kernel);
            pod.addresses = common.pod_ips.clone().unwrap_or(pod.addresses);
            answer(&Asked { subject: "live", pod, layers: Family::ALL.map(|family| live.layers(family)), packets })?
        }
    };
    super::print(&text)?;
    Ok(Code::Done)
}

fn read(given: &Given<'_>) -> Result<(Vec<Packet>, bool), BadValue> {
    let packets = given.get("packet").read_list(|words| words.parse().map_err(|problem| format!("is no packet: {problem}")))?;
    let as_json = given.get("format").read(|text| match text {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err("is not a format (text or json)".to_owned()),
    })?;
    Ok((packets, as_json))
}
