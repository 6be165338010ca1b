//! What the machine is, whatever the packet filters say.

use crate::cli::check::{Checks, Verdict};
use crate::cli::session::MeshOptions;
use crate::host::kata::{Filters, generation};
use crate::host::kernel_release::Release;
use crate::host::machine::Machine;
use crate::host::user_namespace::{self, ForeignNamespace};
use crate::host::{Error, sysctl as settings};
use crate::ruleset::{Condition, Ruleset};

/// Whether the proxy would hang on this kernel.
pub(super) fn release(checks: &mut Checks, machine: &Machine, trusted: bool) {
    const NAME: &str = "kernel-release";
    let release = match machine.release() {
        Ok(release) => release,
        Err(error) => return checks.failed(NAME, Verdict::Warning, &error.into()),
    };
    let Some(number) = Release::parse(&release) else {
        return checks.add(NAME, Verdict::Warning, &format!("{release:?} is not known as a release of Linux"), "");
    };
    match number.deadlock() {
        None => checks.ok(NAME, &release),
        Some(why) if trusted && why.may_be_fixed() => {
            checks.ok(NAME, &format!("kernel {release}: {why}; --trust-upstream-fixes says that it has the fix"));
        }
        Some(why) => checks.failed(NAME, Verdict::Blocker, &Error::Deadlock { release, why }.into()),
    }
}

/// Whether the network namespace is one that the program may change, and the users and groups of `plan` are somebody in it.
pub(super) fn user_namespace(checks: &mut Checks, plan: &[Ruleset], machine: &Machine) {
    const NAME: &str = "user-namespace";
    if let Some(foreign) = ForeignNamespace::find_out() {
        return checks.failed(NAME, Verdict::Blocker, &Error::ForeignNamespace(foreign).into());
    }
    if let Some((kind, id)) = unmapped(plan, machine) {
        return checks.add(
            NAME,
            Verdict::Warning,
            &format!(
                "{kind} {id} of the plan is not mapped in this user namespace: no proxy can run as it, and the legacy packet filter refuses it"
            ),
            "choose an id that is mapped (Kubernetes maps 0 to 65535), or run the pod with hostUsers: true",
        );
    }
    checks.ok(NAME, "every user and group of the plan is mapped");
}

/// A user or group of `plan` that nobody can be in this user namespace.
pub(super) fn unmapped(plan: &[Ruleset], machine: &Machine) -> Option<(&'static str, u32)> {
    // Without these files there are no user namespaces.
    let users = machine.text("thread-self/uid_map").ok()?;
    let groups = machine.text("thread-self/gid_map").ok()?;
    for table in plan.iter().flat_map(|rules| &rules.tables) {
        for chain in &table.chains {
            for rule in &chain.rules {
                for wanted in &rule.matches {
                    let (kind, map, ids) = match wanted.condition {
                        Condition::Uid(ids) => ("user", &users, ids),
                        Condition::Gid(ids) => ("group", &groups, ids),
                        _ => continue,
                    };
                    for id in [ids.first, ids.last] {
                        if !user_namespace::is_mapped(map, id) {
                            return Some((kind, id));
                        }
                    }
                }
            }
        }
    }
    None
}

/// Whether the setting that the mesh is told to change can be changed.
pub(super) fn sysctl(checks: &mut Checks, options: &MeshOptions) {
    const NAME: &str = "proc-sys";
    let MeshOptions::Linkerd(options) = options else { return };
    let Some(seconds) = options.timeout_close_wait_secs else { return };
    match settings::check_close_wait_timeout(seconds) {
        Ok(()) => checks.ok(NAME, &format!("{} can be set to {seconds}", settings::CLOSE_WAIT)),
        Err(error) => checks.failed(NAME, Verdict::Blocker, &error.into()),
    }
}

/// What is to be said of gVisor's kernel.
pub(super) const GVISOR: &str = "the kernel is gVisor's, which has no nf_tables, and of the legacy packet filter only a part: IPv4, \
                                 the tables nat and filter, few matches";

/// Whether the kernel is gVisor's.
pub(super) fn gvisor(checks: &mut Checks, machine: &Machine) {
    const NAME: &str = "gvisor";
    match machine.is_gvisor() {
        false => checks.ok(NAME, "the kernel is not gVisor's"),
        true => checks.add(
            NAME,
            Verdict::Warning,
            GVISOR,
            "run the pod with another runtime class, or let the mesh's CNI plugin redirect the traffic",
        ),
    }
}

/// What the kernel of a Kata guest, if this is one, is like. `nftables`: whether it has nf_tables.
pub(super) fn kata(machine: &Machine, nftables: Option<bool>) -> Option<String> {
    let sign = machine.kata_sign()?;
    let has = |names: &str| machine.has(names);
    let filters =
        Filters { nftables, legacy_v4: has("thread-self/net/ip_tables_names"), legacy_v6: has("thread-self/net/ip6_tables_names") };
    let release = machine.release().ok().and_then(|release| Release::parse(&release));
    let (kernel, versions) = match generation(filters, release) {
        Some(versions) => ("its kernel has the packet filters of Kata ", versions),
        None if nftables.is_none() => ("which packet filters its kernel has is not known", ""),
        None => ("its kernel has other packet filters than Kata's own kernels", ""),
    };
    let modules = if machine.has_modules() { "" } else { ", and can load no modules: what is not built in is not there" };
    Some(format!("this is a Kata guest, as {sign} shows; {kernel}{versions}{modules}"))
}
