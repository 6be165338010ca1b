//! The program's capabilities: it takes up CAP_NET_ADMIN, and gives up everything that it does not need.
//!
//! Capabilities are a thread's: call these functions before any other thread is made.

use caps::{CapSet, Capability, CapsHashSet};
use tracing::debug;

use super::Error;
use super::missing_capability::MissingNetAdmin;

fn failed<E: ToString>(doing: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::Capabilities { doing, reason: error.to_string() }
}

/// Whether CAP_NET_ADMIN is effective.
#[doc(alias = "CAP_NET_ADMIN")]
pub fn has_net_admin() -> Result<bool, Error> {
    caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).map_err(failed("read the capabilities"))
}

/// Makes CAP_NET_ADMIN effective, which a file capability `cap_net_admin+p` only permits. Where it is not permitted
/// either, the error tells why.
pub fn raise_net_admin() -> Result<(), Error> {
    if has_net_admin()? {
        return Ok(());
    }
    let permitted = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN).map_err(failed("read the capabilities"))?;
    if !permitted {
        return Err(Error::NetAdmin(MissingNetAdmin::find_out()));
    }
    caps::raise(None, CapSet::Effective, Capability::CAP_NET_ADMIN).map_err(failed("make CAP_NET_ADMIN effective"))
}

/// Gives up every capability but CAP_NET_ADMIN, which stays in the sets that have it.
pub fn give_up_all_but_net_admin() -> Result<(), Error> {
    keep_only(&[Capability::CAP_NET_ADMIN])
}

/// What iptables needs: the legacy one opens a raw socket.
#[cfg(feature = "iptables-command")]
const FOR_IPTABLES: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];

/// Gives up every capability but those that iptables needs, and passes these on to the programs that are started, whoever
/// the user is.
#[cfg(feature = "iptables-command")]
pub fn give_up_all_but_those_for_iptables() -> Result<(), Error> {
    keep_only(&FOR_IPTABLES)?;
    for capability in FOR_IPTABLES {
        // Root's programs get what is permitted to us without this; kernels before 4.3 know no other way.
        let passed_on = caps::raise(None, CapSet::Inheritable, capability).and_then(|()| caps::raise(None, CapSet::Ambient, capability));
        if let Err(error) = passed_on {
            debug!("{capability} is not passed on: {error}");
        }
    }
    Ok(())
}

/// Whether CAP_NET_RAW is permitted.
#[cfg(feature = "iptables-command")]
#[doc(alias = "CAP_NET_RAW")]
pub fn has_net_raw() -> bool {
    caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_RAW).unwrap_or(false)
}

/// Gives up every capability.
pub fn give_up_everything() -> Result<(), Error> {
    keep_only(&[])
}

fn keep_only(kept: &[Capability]) -> Result<(), Error> {
    const DOING: &str = "give up capabilities";
    // The bounding set says what a program that we start could get. From here on a started program gets nothing that we
    // do not have, whatever the set says. Shrinking it would take CAP_SETPCAP.
    if let Err(errno) = nix::sys::prctl::set_no_new_privs() {
        debug!("no_new_privs cannot be set: {errno}");
    }
    // Effective before permitted, since the kernel refuses an effective capability that is not permitted. The ambient
    // set follows the permitted and the inheritable one by itself.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let there = caps::read(None, set).map_err(failed(DOING))?;
        let rest: CapsHashSet = kept.iter().copied().filter(|capability| there.contains(capability)).collect();
        if rest.len() < there.len() {
            caps::set(None, set, &rest).map_err(failed(DOING))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::missing_capability::Status;
    use crate::host::testing::{in_thread, is_root};

    const NET_ADMIN: u64 = 1 << 12;

    #[test]
    fn all_but_net_admin_is_given_up_and_then_that_too() {
        if !is_root("giving up capabilities") {
            return;
        }
        in_thread(|| {
            caps::set(None, CapSet::Inheritable, &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW].into()).unwrap();
            caps::set(None, CapSet::Ambient, &[Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW].into()).unwrap();
            give_up_all_but_net_admin().unwrap();
            let status = Status::read().unwrap();
            assert_eq!([status.effective, status.permitted, status.inheritable, status.ambient], [NET_ADMIN; 4]);
            assert!(status.no_new_privs);
            assert!(has_net_admin().unwrap());

            caps::clear(None, CapSet::Effective).unwrap();
            assert!(!has_net_admin().unwrap());
            raise_net_admin().unwrap();
            assert!(has_net_admin().unwrap());
            // Nothing is raised that was not there.
            caps::clear(None, CapSet::Inheritable).unwrap();
            give_up_all_but_net_admin().unwrap();
            let status = Status::read().unwrap();
            assert_eq!([status.effective, status.permitted, status.inheritable, status.ambient], [NET_ADMIN, NET_ADMIN, 0, 0]);

            give_up_everything().unwrap();
            let status = Status::read().unwrap();
            assert_eq!([status.effective, status.permitted, status.inheritable, status.ambient], [0; 4]);
            let error = raise_net_admin().unwrap_err();
            assert!(matches!(error, Error::NetAdmin(MissingNetAdmin::TakenFromRoot { .. })), "{error}");
        });
    }
}
