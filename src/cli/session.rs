//! What the verbs share: from options to a plan, and from privileges to an open kernel.

use clap::ArgMatches;
use tracing::{debug, info, warn};

use super::failure::Failure;
use super::options::{Common, HAS_PROGRAMS};
use super::{flags, help};
use crate::host::machine::Machine;
use crate::host::{Surroundings, capability, namespace};
use crate::kernel::legacy::Legacy;
use crate::kernel::nftables::Nftables;
use crate::kernel::{self, Backend, BackendName, Choice, Kernel, Programs, Settled, Wanted};
use crate::mesh::flag::Given;
use crate::mesh::{self, IptablesMode, Mesh, Needs, Plan, istio, linkerd};
use crate::ruleset::Ruleset;

/// The environment, as a plan sees it: variables by name. Bytes that are no UTF-8 become characters that no value has.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// What a mesh was told.
#[derive(Debug)]
pub(super) enum MeshOptions {
    Istio(Box<istio::Options>),
    Linkerd(Box<linkerd::Options>),
}

impl MeshOptions {
    pub(super) fn read(mesh: Mesh, matches: &ArgMatches, environment: Environment<'_>) -> Result<MeshOptions, mesh::Error> {
        MeshOptions::new(mesh, &flags::read(help::mesh_flags(mesh), matches, environment))
    }

    pub(super) fn new(mesh: Mesh, given: &Given<'_>) -> Result<MeshOptions, mesh::Error> {
        Ok(match mesh {
            Mesh::Istio => MeshOptions::Istio(Box::new(istio::Options::new(given)?)),
            Mesh::Linkerd => MeshOptions::Linkerd(Box::new(linkerd::Options::new(given)?)),
        })
    }

    pub(super) fn mesh(&self) -> Mesh {
        match self {
            MeshOptions::Istio(_) => Mesh::Istio,
            MeshOptions::Linkerd(_) => Mesh::Linkerd,
        }
    }

    /// The backend that the flags ask for: one that they prefer, or programs of the distribution and nothing else.
    pub(super) fn preference(&self) -> Option<Choice> {
        let (mode, flag) = match self {
            MeshOptions::Istio(options) if options.native_nftables => {
                return Some(Choice::preferably(BackendName::Nftables, "--native-nftables"));
            }
            MeshOptions::Istio(options) => (options.force_iptables_binary?, "--force-iptables-binary"),
            MeshOptions::Linkerd(options) => (options.iptables_mode?, "--iptables-mode or --firewall-bin-path"),
        };
        let (backend, programs) = match mode {
            IptablesMode::Legacy => (BackendName::Legacy, Programs::Legacy),
            IptablesMode::Nft => (BackendName::Nftables, Programs::Nft),
            IptablesMode::Plain => return None,
        };
        let choice = match self {
            MeshOptions::Istio(_) if HAS_PROGRAMS => Choice::firmly(BackendName::Iptables, flag),
            _ => Choice::preferably(backend, flag),
        };
        Some(Choice { programs, ..choice })
    }

    fn needs(&self) -> Needs {
        match self {
            MeshOptions::Istio(options) => options.needs(),
            MeshOptions::Linkerd(_) => Needs::default(),
        }
    }

    fn plan(&self, surroundings: &Surroundings) -> Result<Plan, mesh::Error> {
        match self {
            MeshOptions::Istio(options) => istio::plan(options, surroundings),
            MeshOptions::Linkerd(options) => linkerd::plan(options, surroundings),
        }
    }
}

/// Enters the namespace that `--netns` names.
pub(super) fn enter_namespace(common: &Common) -> Result<(), Failure> {
    match &common.netns {
        Some(path) => namespace::enter(path).map_err(|error| Failure::from(error).about("--netns")),
        None => Ok(()),
    }
}

/// Refuses a kernel on which the proxy would hang. Comes before anything that redirects a connection to it, or that asks
/// where one was to go.
pub(super) fn check_release(common: &Common) -> Result<(), Failure> {
    Ok(Machine::default().check_release(common.trusts_upstream_fixes)?)
}

/// Looks at the machine and plans. Needs no capability: the kernel, `kernel` if one is open already, is asked for the
/// local addresses only. The plan's warnings are logged.
pub(super) fn plan(options: &MeshOptions, common: &Common, kernel: Option<&mut Kernel>) -> Result<(Plan, Surroundings), Failure> {
    let (plan, surroundings) = planned(options, common, kernel)?;
    for warning in &plan.warnings {
        warn!("{warning}");
    }
    Ok((plan, surroundings))
}

/// The same without a word.
pub(super) fn planned(options: &MeshOptions, common: &Common, kernel: Option<&mut Kernel>) -> Result<(Plan, Surroundings), Failure> {
    let mut sources = common.sources(options.needs());
    if common.pod_ips.is_none() {
        sources.addresses = match kernel {
            Some(kernel) => kernel.addresses()?,
            None => kernel::addresses(common.deadline())?,
        };
    }
    let surroundings = Surroundings::gather(&sources);
    let plan = options.plan(&surroundings)?;
    Ok((plan, surroundings))
}

/// The kernel, with CAP_NET_ADMIN as the only capability left, but for what programs need that are to be started.
pub(super) fn open_kernel(common: &Common, choice: Choice) -> Result<Kernel, Failure> {
    capability::raise_net_admin()?;
    kernel_as_permitted(common, choice)
}

/// The kernel, with what privileges there are.
pub(super) fn kernel_as_permitted(common: &Common, choice: Choice) -> Result<Kernel, Failure> {
    let deadline = common.deadline();
    let mut backends: Vec<Box<dyn Backend>> = Vec::new();
    match choice.only() {
        #[cfg(feature = "iptables-command")]
        Some(BackendName::Iptables) => {
            capability::give_up_all_but_those_for_iptables()?;
            backends.push(Box::new(kernel::command::IptablesCommand::new(choice.programs, deadline)));
        }
        _ => capability::give_up_all_but_net_admin()?,
    }
    backends.push(Box::new(Nftables::new(deadline)));
    backends.push(Box::new(Legacy::default()));
    Ok(Kernel::new(backends, choice, deadline)?)
}

/// Gives up what is left of the privileges: the kernel is not asked again.
pub(super) fn close_kernel(kernel: Kernel) {
    drop(kernel);
    if let Err(error) = capability::give_up_everything() {
        debug!("{error}");
    }
}

/// What `plan` wants of a kernel.
pub(super) fn wanted(plan: Plan) -> Wanted {
    Wanted { mesh: plan.mesh, rulesets: plan.rulesets, routing: plan.routing, removal: false }
}

/// Says where the rules are, and what else there is to say about that.
pub(super) fn announce(settled: &Settled) {
    for warning in &settled.warnings {
        warn!("{warning}");
    }
    info!("backend: {} ({})", settled.backends(), settled.why);
}

/// `18 rules of istio (legacy, IPv4)`
pub(super) fn summary(wanted: &Wanted, settled: &Settled) -> String {
    let families: Vec<String> = wanted.planned().map(|plan| plan.family.to_string()).collect();
    let rules: usize = wanted.planned().map(Ruleset::rule_count).sum();
    format!("{rules} rules of {} ({}, {})", wanted.mesh.as_str(), settled.backends(), families.join(" and "))
}
