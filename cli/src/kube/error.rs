//! What can go wrong between here and a cluster, each with what to do next.

use std::{error::Error, io};

/// Why a cluster did not answer, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// There is nothing that says where a cluster is.
    #[error("no cluster is known here: {tried}; name its kubeconfig with --kubeconfig FILE or in KUBECONFIG")]
    NoKubeconfig {
        /// Where it was looked for.
        tried: String,
    },
    /// The kubeconfig cannot be used. The fault is the file's.
    #[error("the kubeconfig {file}: {why}; correct it, or name another with --kubeconfig FILE")]
    BadKubeconfig {
        /// Which one.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The context is not in the kubeconfig.
    #[error("the kubeconfig has no context {name:?}; {known}")]
    NoContext {
        /// The one that was asked for.
        name: String,
        /// Which there are, and what to do.
        known: String,
    },
    /// No answer at all.
    #[error(
        "the API server {server} cannot be reached: {why}; see that the cluster runs and the network leads there, or \
         name another with --context"
    )]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        why: String,
    },
    /// Whoever answers proves another identity than the kubeconfig says.
    #[error(
        "what answers at {server} is not trusted: {why}; see certificate-authority-data and the server's address in \
         the kubeconfig"
    )]
    Untrusted {
        /// Its address.
        server: String,
        /// What TLS says.
        why: String,
    },
    /// The credentials could not be had (a plugin that failed, a file that is not there).
    #[error("the credentials for {server} cannot be had: {why}; log in anew, or see the user in the kubeconfig")]
    Credentials {
        /// Its address.
        server: String,
        /// What happened.
        why: String,
    },
    /// 401.
    #[error(
        "the API server {server} does not accept the credentials (401 Unauthorized); log in anew, or choose another user with --context"
    )]
    Unauthorised {
        /// Its address.
        server: String,
    },
    /// 403.
    #[error("forbidden: {message}; ask for that permission, or choose another user with --context")]
    Forbidden {
        /// What the API server said: it names the user, the verb and the resource.
        message: String,
    },
    /// 404.
    #[error("not found: {message}")]
    NotFound {
        /// What the API server said.
        message: String,
    },
    /// Any other answer that is no success.
    #[error("the API server refused ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the API server said.
        message: String,
    },
    /// An answer that is not what the API specifies.
    #[error("the answer to {request} cannot be understood: {why}; is {server} a Kubernetes API server?")]
    Malformed {
        /// What was asked.
        request: String,
        /// What is wrong.
        why: String,
        /// Its address.
        server: String,
    },
    /// 403 to a port-forward.
    #[error(
        "this user may not forward ports of pods in namespace {namespace} ({message}); ask whoever gives rights there for \
         `create` and `get` of `pods/portforward` in that namespace, as in: kubectl create role port-forward -n {namespace} \
         --verb=create,get --resource=pods/portforward"
    )]
    MayNotForward {
        /// Where.
        namespace: String,
        /// What the API server said.
        message: String,
    },
    /// A pod's port cannot be reached through the API server.
    #[error("port {port} of pod {pod} cannot be reached: {why}")]
    Forward {
        /// `namespace/name`.
        pod: String,
        /// The port.
        port: u16,
        /// What happened.
        why: String,
    },
}

impl ClusterError {
    /// The error of an exchange that got no answer.
    pub(super) fn of_transport(server: &str, error: &::kube::Error) -> Self {
        let (server, why) = (server.to_owned(), causes(error));
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            // rustls comes wrapped in io errors, whose `source` is that of the error inside.
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
                return Self::Untrusted { server, why };
            }
            cause = error.source();
        }
        match error {
            ::kube::Error::Auth(_) => Self::Credentials { server, why },
            _ => Self::Unreachable { server, why },
        }
    }

    /// The error of an answer that is no success.
    pub(super) fn of_status(server: &str, status: u16, message: String) -> Self {
        match status {
            401 => Self::Unauthorised { server: server.to_owned() },
            403 => Self::Forbidden { message },
            404 => Self::NotFound { message },
            status => Self::Refused { status, message },
        }
    }

    /// Whether the object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether this user may not do it.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. } | Self::MayNotForward { .. })
    }
}

/// The causes of an error, each named once.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut texts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many errors repeat their cause; the innermost words are the ones that help.
        texts.retain(|earlier| !earlier.contains(&text));
        if !texts.iter().any(|earlier| text.contains(earlier.as_str()) && *earlier == text) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_are_said_once() {
        let deep = Layer("ServiceError: connect: refused", Some(Box::new(Layer("connect: refused", None))));
        assert_eq!(causes(&deep), "connect: refused");
        let two = Layer("client error (Connect)", Some(Box::new(Layer("tcp connect error", None))));
        assert_eq!(causes(&two), "client error (Connect): tcp connect error");
    }

    #[test]
    fn tls_is_told_from_the_network() {
        let tls = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::General("no".into()));
        let error = ClusterError::of_transport("https://a", &::kube::Error::Service(Box::new(tls)));
        assert!(matches!(error, ClusterError::Untrusted { .. }), "{error}");
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = ClusterError::of_transport("https://a", &::kube::Error::Service(Box::new(refused)));
        assert!(matches!(error, ClusterError::Unreachable { .. }), "{error}");
    }

    #[test]
    fn statuses_have_their_own_next_step() {
        let text = |status| ClusterError::of_status("https://a", status, "pods is forbidden".into()).to_string();
        assert!(text(401).contains("log in anew"));
        assert!(text(403).contains("ask for that permission"));
        assert!(text(500).contains("(500): pods is forbidden"));
    }
}
