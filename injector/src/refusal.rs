//! Why a pod is refused: what is wrong with which field, and what to do.
//!
//! A refused pod does not start. That is for pods that would otherwise run differently from what was asked for; pods
//! that the mesh has no business with are skipped (see [`skip`](crate::skip)).

use mesh_policy::well_known::INJECT_LABEL;

use crate::annotations::AnnotationError;

/// What the sidecar and an application container cannot both have, or what cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The object is no pod.
    #[error("{field} {problem}: this is not a pod that Kubernetes would take; correct the manifest")]
    Malformed {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An annotation cannot be used.
    #[error("{0}; correct or remove it")]
    Annotation(#[from] AnnotationError),
    /// The label says something else than `enabled` or `disabled`.
    #[error("label {INJECT_LABEL} is {0:?}, but must be \"enabled\" or \"disabled\"; correct or remove it")]
    Label(String),
    /// A container that is not ours has the name of one of ours.
    #[error(
        "{field} is named {name:?}, the name of a container of the mesh, but the pod was not injected by it; rename \
         the container, or opt the pod out with the label meshctl.dev/inject=disabled"
    )]
    NameTaken {
        /// Path of the container.
        field: String,
        /// The name.
        name: String,
    },
    /// A volume has the name of ours.
    #[error(
        "{field} is named \"mesh-identity\", the name of the mesh's volume; rename the volume and its mounts, or opt the \
         pod out with the label meshctl.dev/inject=disabled"
    )]
    VolumeTaken {
        /// Path of the volume.
        field: String,
    },
    /// An application runs as the user by which redirection knows the sidecar.
    #[error(
        "{field} is {uid}, the user of the sidecar: traffic of that user is never redirected, so this container's \
         would leave the mesh unseen; run it as another user, or give the sidecar another one (value proxy.uid)"
    )]
    UidTaken {
        /// Path of the field.
        field: String,
        /// The user.
        uid: u32,
    },
    /// An application listens where the sidecar does.
    #[error(
        "{field} is {port}, where the sidecar {purpose}; let the application listen on another port, or opt the pod out \
         with the label meshctl.dev/inject=disabled"
    )]
    PortTaken {
        /// Path of the field.
        field: String,
        /// The port.
        port: u16,
        /// What the sidecar does there.
        purpose: &'static str,
    },
    /// A pod that ends by itself, with a sidecar that does not.
    #[error(
        "spec.restartPolicy is {restart_policy:?} and the sidecar is an ordinary container, which would keep the pod \
         running for ever after its work is done; on Kubernetes 1.29 or newer use native sidecars (value \
         proxy.nativeSidecar, annotation config.meshctl.dev/native-sidecar=true), elsewhere opt the pod out with the \
         label meshctl.dev/inject=disabled"
    )]
    NeverEnds {
        /// Never or OnFailure.
        restart_policy: String,
    },
    /// There is no secret for its probes.
    #[error("no random numbers are to be had for the secret of this pod's probes; try again")]
    NoRandomness,
    /// Another mesh added its sidecar after ours.
    #[error(
        "{mesh} has added itself ({evidence}) to a pod that the mesh injected: two meshes cannot redirect the same \
         traffic; take the pod or its namespace out of one of them (label meshctl.dev/inject=disabled for this one)"
    )]
    TwoMeshes {
        /// Name of the other one.
        mesh: &'static str,
        /// What shows it.
        evidence: String,
    },
}

impl Refusal {
    pub(crate) fn malformed(field: impl Into<String>, problem: &'static str) -> Self {
        Self::Malformed { field: field.into(), problem }
    }
}
