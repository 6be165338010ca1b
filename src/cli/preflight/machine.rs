//! What the machine is, whatever the packet filters say.

use crate::cli::check::{Check, Verdict};
use crate::cli::session::MeshOptions;
use crate::host::kata::{Filters, generation};
use crate::host::kernel_release::Release;
use crate::host::machine::Machine;
use crate::host::user_namespace::{self, ForeignNamespace};
use crate::host::{Error, sysctl as settings};
use crate::mesh::Plan;
use crate::ruleset::{Condition, IdRange};

/// Whether the proxy would hang on this kernel.
pub(in crate::cli) fn release(machine: &Machine, trusted: bool) -> Check {
    const NAME: &str = "kernel-release";
    let release = match machine.release() {
        Ok(release) => release,
        Err(error) => return Check::failed(NAME, Verdict::Warning, error),
    };
    let Some(number) = Release::parse(&release) else {
        return Check::new(NAME, Verdict::Warning, format!("{release:?} is no release of Linux that is known"), None);
    };
    match number.deadlock() {
        None => Check::ok(NAME, release),
        Some(why) if trusted && why.may_be_fixed() => Check::ok(NAME, format!("kernel {release}: {why}; --trust-upstream-fixes is given")),
        Some(why) => Check::failed(NAME, Verdict::Blocker, Error::Deadlock { release, why }),
    }
}

/// Whether the network namespace is one that the program may change.
pub(super) fn foreign_namespace() -> Option<Check> {
    let foreign = ForeignNamespace::find_out()?;
    Some(Check::failed("user-namespace", Verdict::Blocker, Error::ForeignNamespace(foreign)))
}

/// Whether the users and groups of `plan` are somebody in this user namespace.
pub(in crate::cli) fn ids(plan: &Plan, machine: &Machine) -> Option<Check> {
    const NAME: &str = "user-namespace";
    if ForeignNamespace::find_out().is_some() {
        return None;
    }
    let tables = plan.rulesets.iter().flat_map(|ruleset| &ruleset.tables);
    let matches = tables.flat_map(|table| &table.chains).flat_map(|chain| &chain.rules).flat_map(|rule| &rule.matches);
    let ids = matches.filter_map(|wanted| match wanted.condition {
        Condition::Uid(ids) => Some(("user", ids)),
        Condition::Gid(ids) => Some(("group", ids)),
        _ => None,
    });
    let (Ok(users), Ok(groups)) = (machine.text("thread-self/uid_map"), machine.text("thread-self/gid_map")) else {
        return Some(Check::ok(NAME, "the kernel has no user namespaces"));
    };
    let is_unmapped = |(kind, IdRange { first, last }): &(&str, IdRange)| {
        let map = if *kind == "user" { &users } else { &groups };
        [first, last].into_iter().any(|id| !user_namespace::is_mapped(map, *id))
    };
    Some(match ids.into_iter().find(is_unmapped) {
        None => Check::ok(NAME, "every user and group of the plan is mapped"),
        Some((kind, ids)) => Check::new(
            NAME,
            Verdict::Warning,
            format!(
                "{kind} {} of the plan is not mapped in this user namespace: no proxy can run as it, and the legacy packet filter refuses it",
                ids.first
            ),
            Some("choose an id that is mapped (Kubernetes maps 0 to 65535), or run the pod with hostUsers: true".to_owned()),
        ),
    })
}

/// Whether the setting that the mesh is told to change can be changed.
pub(super) fn sysctl(options: &MeshOptions) -> Option<Check> {
    const NAME: &str = "proc-sys";
    let MeshOptions::Linkerd(options) = options else { return None };
    let seconds = options.timeout_close_wait_secs?;
    Some(match settings::check_close_wait_timeout(seconds) {
        Ok(()) => Check::ok(NAME, format!("{} can be set to {seconds}", settings::CLOSE_WAIT)),
        Err(error) => Check::failed(NAME, Verdict::Blocker, error),
    })
}

/// Whether the kernel is gVisor's.
pub(in crate::cli) fn gvisor(machine: &Machine) -> Check {
    if !machine.is_gvisor() {
        return Check::ok("gvisor", "the kernel is not gVisor's");
    }
    Check::new(
        "gvisor",
        Verdict::Warning,
        "the kernel is gVisor's, which has no nf_tables and of the legacy packet filter only a part: IPv4, the tables nat and filter, few matches",
        Some("run the pod with another runtime class, or let the mesh's CNI plugin redirect the traffic".to_owned()),
    )
}

/// Whether this is a Kata guest, as `sign` shows, and what its kernel is like.
pub(in crate::cli) fn kata(machine: &Machine, sign: Option<&str>, nftables: Option<bool>) -> Check {
    let Some(sign) = sign else { return Check::ok("kata", "nothing shows that this is a Kata guest") };
    let legacy = |names: &str| machine.has(&format!("thread-self/net/{names}"));
    let filters = Filters { nftables, legacy_v4: legacy("ip_tables_names"), legacy_v6: legacy("ip6_tables_names") };
    let release = machine.release().ok().and_then(|release| Release::parse(&release));
    let kernel = match generation(filters, release) {
        Some(versions) => format!("its kernel has the packet filters of Kata {versions}"),
        None if nftables.is_none() => "which packet filters its kernel has is not known".to_owned(),
        None => "its kernel has other packet filters than Kata's own kernels".to_owned(),
    };
    let modules = if machine.has_modules() { "" } else { ", and can load no modules: what is not built in is not there" };
    Check::ok("kata", format!("a Kata guest, as {sign} shows; {kernel}{modules}"))
}
