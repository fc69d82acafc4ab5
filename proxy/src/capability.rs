//! Taking up a capability that the kernel permits, without a file that hands it out by itself.
//!
//! One binary is both `mesh-init`, which may change the network of its pod, and the sidecar, which may change nothing.
//! In the image it has `cap_net_admin=p`: permitted where the container's bounding set has it, and nothing at all where
//! that set is empty. With `=ep` the kernel would refuse to start the sidecar, whose bounding set is empty; with
//! permitted alone, `init` takes up what it needs here. This gains nothing that the container was not given, so it works
//! under `allowPrivilegeEscalation: false`.

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Why a capability cannot be taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CapabilityError {
    /// It is not among what this process may have.
    #[error(
        "this container has no NET_ADMIN, which it needs to redirect the pod's traffic: its securityContext must have \
         `capabilities.add: [NET_ADMIN]`, nothing may strip the file capability of /mesh-proxy from the image \
         (`getcap` shows cap_net_admin=p), and the image must not be on a file system mounted with nosuid"
    )]
    NotPermitted,
    /// The kernel refused to say or to change what there is.
    #[error("the kernel refused to change the capabilities of this thread ({0}); a seccomp profile may forbid it")]
    Kernel(rustix::io::Errno),
}

/// Makes `NET_ADMIN` effective for the calling thread and those it starts from now on; others go on without it.
/// As root, where it usually is effective already, nothing changes.
pub(crate) fn raise_net_admin() -> Result<(), CapabilityError> {
    let now = capabilities(None).map_err(CapabilityError::Kernel)?;
    match with_effective(now, CapabilitySet::NET_ADMIN) {
        Some(raised) if raised == now => Ok(()),
        Some(raised) => set_capabilities(None, raised).map_err(CapabilityError::Kernel),
        None => Err(CapabilityError::NotPermitted),
    }
}

/// The same sets with `wanted` effective; `None` where it is not permitted.
fn with_effective(now: CapabilitySets, wanted: CapabilitySet) -> Option<CapabilitySets> {
    now.permitted.contains(wanted).then(|| CapabilitySets { effective: now.effective | wanted, ..now })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_permitted_becomes_effective_and_nothing_else_changes() {
        let none = CapabilitySet::empty();
        let now = CapabilitySets { effective: CapabilitySet::KILL, permitted: CapabilitySet::KILL, inheritable: none };
        assert_eq!(with_effective(now, CapabilitySet::NET_ADMIN), None);
        let now = CapabilitySets { permitted: CapabilitySet::KILL | CapabilitySet::NET_ADMIN, ..now };
        let raised = with_effective(now, CapabilitySet::NET_ADMIN).unwrap();
        assert_eq!(raised.effective, CapabilitySet::KILL | CapabilitySet::NET_ADMIN);
        assert_eq!((raised.permitted, raised.inheritable), (now.permitted, none));
    }

    #[test]
    fn a_thread_without_permission_is_told_what_to_look_at() {
        // A thread of its own: capabilities are a thread's, and dropping them for good here must not be other tests' loss.
        let said = std::thread::spawn(|| {
            let now = capabilities(None).unwrap();
            let without = |set: CapabilitySet| set - CapabilitySet::NET_ADMIN;
            let dropped = CapabilitySets {
                effective: without(now.effective),
                permitted: without(now.permitted),
                inheritable: now.inheritable,
            };
            set_capabilities(None, dropped).unwrap();
            raise_net_admin().unwrap_err().to_string()
        });
        assert!(said.join().unwrap().contains("capabilities.add: [NET_ADMIN]"));
    }
}
