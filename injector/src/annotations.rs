//! What a pod may say of its own sidecar: the annotations `config.meshctl.dev/*`.
//!
//! Each is in [`ANNOTATIONS`] with what it is for and what it may say (docs/injection.md is held to it by a test). A
//! wrong value, or a name that nobody knows, is refused: a setting that is silently not in force is worse than a pod
//! that does not start.

use mesh_policy::{
    access_log::{AccessLog, Attributes},
    well_known::{
        ACCESS_LOG_ANNOTATION, ACCESS_LOG_ATTRIBUTES_ANNOTATION, CONFIG_PREFIX, IMAGE_ANNOTATION,
        INIT_CPU_LIMIT_ANNOTATION, INIT_CPU_REQUEST_ANNOTATION, INIT_MEMORY_LIMIT_ANNOTATION,
        INIT_MEMORY_REQUEST_ANNOTATION, LOG_LEVEL_ANNOTATION, NATIVE_SIDECAR_ANNOTATION, OPAQUE_PORTS_ANNOTATION,
        PRE_STOP_SECONDS_ANNOTATION, PROTOCOL_ANNOTATION, PROXY_CPU_LIMIT_ANNOTATION, PROXY_CPU_REQUEST_ANNOTATION,
        PROXY_MEMORY_LIMIT_ANNOTATION, PROXY_MEMORY_REQUEST_ANNOTATION, PROXY_WORKERS_ANNOTATION,
        REWRITE_PROBES_ANNOTATION, SHUTDOWN_GRACE_ANNOTATION, SKIP_INBOUND_PORTS_ANNOTATION,
        SKIP_OUTBOUND_PORTS_ANNOTATION, STRICT_PATH_PORTS_ANNOTATION,
    },
};
use serde_json::{Map, Value};

use crate::{
    config::{Config, LOG_FILTER, MAX_PRE_STOP_SECONDS, MAX_WORKERS, Resources, image, log_filter},
    ports::PortList,
    quantity::Quantity,
};

mod values;

use values::{copy, protocols, quantity, seconds, whole};

/// Characters of a wrong value that a message repeats.
const SHOWN: usize = 100;

/// One annotation.
#[derive(Clone, Copy, Debug)]
pub struct Annotation {
    /// Its name.
    pub name: &'static str,
    /// What it may say.
    pub allowed: &'static str,
    /// What it does, and where its default comes from.
    pub purpose: &'static str,
    apply: fn(&mut Settings, &str) -> Result<(), ()>,
}

const QUANTITY: &str = "a quantity such as 100m, 0.5 or 64Mi";
const PORTS: &str = "ports and ranges such as 25,3306,8000-8100 (at most 64)";
const PROTOCOLS: &str = "ports and what they speak such as 8080=http2,9000-9010=tcp (http, http2, grpc, tcp or detect)";
const BOOL: &str = "true or false";

/// Every annotation there is, by name.
pub const ANNOTATIONS: &[Annotation] = &[
    Annotation {
        name: ACCESS_LOG_ANNOTATION,
        allowed: "off, all, or words such as errors,slow=500ms,sample=0.01",
        purpose: "Which requests and connections the sidecar logs; also of a Namespace, for its pods. Discovery reads it, so \
                  that it may be changed on a running pod ([access-log.md](access-log.md)).",
        apply: |_, text| AccessLog::read(text).map(drop).map_err(drop),
    },
    Annotation {
        name: ACCESS_LOG_ATTRIBUTES_ANNOTATION,
        allowed: "names such as url.query,http.request.header.x-user (at most 16 headers, none with credentials)",
        purpose: "Attributes that the access log tells beyond the usual; also of a Namespace.",
        apply: |_, text| Attributes::read(text).map(drop).map_err(drop),
    },
    Annotation {
        name: IMAGE_ANNOTATION,
        allowed: "an image reference such as registry/mesh-proxy:1.2.3",
        purpose: "Image of `mesh-proxy` and `mesh-init`, instead of `proxy.image`.",
        apply: |settings, text| {
            settings.image = image(text).then(|| text.to_owned()).ok_or(())?;
            Ok(())
        },
    },
    Annotation {
        name: INIT_CPU_LIMIT_ANNOTATION,
        allowed: QUANTITY,
        purpose: "CPU that `mesh-init` may use at most; else what `proxy-cpu-limit` says, or `init.resources`.",
        apply: |settings, text| quantity(&mut settings.init_resources.limits, "cpu", text),
    },
    Annotation {
        name: INIT_CPU_REQUEST_ANNOTATION,
        allowed: QUANTITY,
        purpose: "CPU that the scheduler keeps free for `mesh-init`; else what `proxy-cpu-request` says, or `init.resources`.",
        apply: |settings, text| quantity(&mut settings.init_resources.requests, "cpu", text),
    },
    Annotation {
        name: INIT_MEMORY_LIMIT_ANNOTATION,
        allowed: QUANTITY,
        purpose: "Memory beyond which `mesh-init` is killed; else what `proxy-memory-limit` says, or `init.resources`.",
        apply: |settings, text| quantity(&mut settings.init_resources.limits, "memory", text),
    },
    Annotation {
        name: INIT_MEMORY_REQUEST_ANNOTATION,
        allowed: QUANTITY,
        purpose: "Memory that the scheduler keeps free for `mesh-init`; else what `proxy-memory-request` says, or \
                  `init.resources`.",
        apply: |settings, text| quantity(&mut settings.init_resources.requests, "memory", text),
    },
    Annotation {
        name: LOG_LEVEL_ANNOTATION,
        allowed: LOG_FILTER,
        purpose: "Log filter of the sidecar, instead of `proxy.logLevel`.",
        apply: |settings, text| {
            settings.log_level = log_filter(text).then(|| text.to_owned()).ok_or(())?;
            Ok(())
        },
    },
    Annotation {
        name: NATIVE_SIDECAR_ANNOTATION,
        allowed: BOOL,
        purpose: "The sidecar is an init container that stays (true), or an ordinary container (false), instead of \
                  `proxy.nativeSidecar`.",
        apply: |settings, text| {
            settings.native_sidecar = text.parse().map_err(drop)?;
            Ok(())
        },
    },
    Annotation {
        name: OPAQUE_PORTS_ANNOTATION,
        allowed: PORTS,
        purpose: "Ports of this pod whose bytes are passed on without looking for a protocol, instead of \
                  `proxy.opaquePorts`.",
        apply: |settings, text| {
            settings.opaque_ports = text.parse().map_err(drop)?;
            Ok(())
        },
    },
    Annotation {
        name: PRE_STOP_SECONDS_ANNOTATION,
        allowed: "a whole number from 0 to 300",
        purpose: "Seconds of the `preStop: sleep` given to containers that have no hook, instead of `preStopSeconds`; \
                  0 gives none.",
        apply: |settings, text| {
            settings.pre_stop_seconds = whole(text, 0, MAX_PRE_STOP_SECONDS)?;
            Ok(())
        },
    },
    Annotation {
        name: PROTOCOL_ANNOTATION,
        allowed: PROTOCOLS,
        purpose: "What ports of this pod speak, where `appProtocol` of its Services does not say it or is wrong. \
                  Discovery reads it from the pod.",
        apply: |_, text| protocols(text),
    },
    Annotation {
        name: PROXY_CPU_LIMIT_ANNOTATION,
        allowed: QUANTITY,
        purpose: "CPU that the sidecar may use at most.",
        apply: |settings, text| quantity(&mut settings.resources.limits, "cpu", text),
    },
    Annotation {
        name: PROXY_CPU_REQUEST_ANNOTATION,
        allowed: QUANTITY,
        purpose: "CPU that the scheduler keeps free for the sidecar.",
        apply: |settings, text| quantity(&mut settings.resources.requests, "cpu", text),
    },
    Annotation {
        name: PROXY_MEMORY_LIMIT_ANNOTATION,
        allowed: QUANTITY,
        purpose: "Memory beyond which the sidecar is killed.",
        apply: |settings, text| quantity(&mut settings.resources.limits, "memory", text),
    },
    Annotation {
        name: PROXY_MEMORY_REQUEST_ANNOTATION,
        allowed: QUANTITY,
        purpose: "Memory that the scheduler keeps free for the sidecar.",
        apply: |settings, text| quantity(&mut settings.resources.requests, "memory", text),
    },
    Annotation {
        name: PROXY_WORKERS_ANNOTATION,
        allowed: "a whole number from 1 to 64",
        purpose: "Data-plane threads of the sidecar, instead of `proxy.workers`.",
        apply: |settings, text| {
            settings.workers = whole(text, 1, MAX_WORKERS)?;
            Ok(())
        },
    },
    Annotation {
        name: REWRITE_PROBES_ANNOTATION,
        allowed: "enabled or disabled",
        purpose: "Whether kubelet's probes go to the sidecar, which asks the application (enabled, the default), or to the \
                  application itself (disabled).",
        apply: |settings, text| {
            settings.rewrite_probes = match text {
                "enabled" => true,
                "disabled" => false,
                _ => return Err(()),
            };
            Ok(())
        },
    },
    Annotation {
        name: SHUTDOWN_GRACE_ANNOTATION,
        allowed: "seconds or minutes such as 45s or 2m, at most 60m",
        purpose: "How long open requests may go on after SIGTERM, instead of `proxy.shutdownGraceSeconds`.",
        apply: |settings, text| {
            settings.shutdown_grace_seconds = seconds(text)?;
            Ok(())
        },
    },
    Annotation {
        name: SKIP_INBOUND_PORTS_ANNOTATION,
        allowed: PORTS,
        purpose: "Ports of this pod that are not redirected to the sidecar, instead of `proxy.skipInboundPorts`.",
        apply: |settings, text| {
            settings.skip_inbound_ports = text.parse().map_err(drop)?;
            Ok(())
        },
    },
    Annotation {
        name: SKIP_OUTBOUND_PORTS_ANNOTATION,
        allowed: PORTS,
        purpose: "Ports of destinations to which connections are not redirected, instead of `proxy.skipOutboundPorts`.",
        apply: |settings, text| {
            settings.skip_outbound_ports = text.parse().map_err(drop)?;
            Ok(())
        },
    },
    Annotation {
        name: STRICT_PATH_PORTS_ANNOTATION,
        allowed: PORTS,
        purpose: "Ports of this pod at which a path that servers read in several ways is answered 400. Discovery reads it \
                  from the pod.",
        apply: |_, text| text.parse::<PortList>().map(drop).map_err(drop),
    },
];

/// What one pod's sidecar is: the configuration, with what the pod's annotations change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the sidecar and of `mesh-init`.
    pub image: String,
    /// Log filter.
    pub log_level: String,
    /// Data-plane threads.
    pub workers: u32,
    /// Requests and limits of the sidecar.
    pub resources: Resources,
    /// Requests and limits of `mesh-init`.
    pub init_resources: Resources,
    /// Open requests may end this long after SIGTERM.
    pub shutdown_grace_seconds: u32,
    /// Whether the sidecar is an init container that stays.
    pub native_sidecar: bool,
    /// Ports whose bytes are opaque.
    pub opaque_ports: PortList,
    /// Inbound ports that are not redirected.
    pub skip_inbound_ports: PortList,
    /// Outbound ports that are not redirected.
    pub skip_outbound_ports: PortList,
    /// Seconds of the injected `preStop: sleep`; 0 is none.
    pub pre_stop_seconds: u32,
    /// Whether kubelet's probes go to the sidecar.
    pub rewrite_probes: bool,
}

/// An annotation that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// The name is not in [`ANNOTATIONS`].
    #[error("annotation {name} is not known; the nearest is {nearest}")]
    Unknown {
        /// The whole name.
        name: String,
        /// The known name that is most like it.
        nearest: &'static str,
    },
    /// The value is not a text.
    #[error("annotation {name} must be a text: put its value in quotes")]
    NotText {
        /// The whole name.
        name: String,
    },
    /// The value is not one of those allowed.
    #[error("annotation {name} is {value:?}, but must be {allowed}")]
    Value {
        /// The whole name.
        name: String,
        /// What it says (its beginning).
        value: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// Annotation and configuration together request more than they allow.
    #[error(
        "{request} {resource} are requested for mesh-{container}, above its limit of {limit}: set both annotations \
         {CONFIG_PREFIX}{container}-{resource}-request and {CONFIG_PREFIX}{container}-{resource}-limit"
    )]
    Contradiction {
        /// `proxy` or `init`.
        container: &'static str,
        /// `cpu` or `memory`.
        resource: String,
        /// The request.
        request: Quantity,
        /// The limit.
        limit: Quantity,
    },
}

impl AnnotationError {
    /// The annotation that it is about, if it is one.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Unknown { name, .. } | Self::NotText { name } | Self::Value { name, .. } => Some(name),
            Self::Contradiction { .. } => None,
        }
    }
}

impl Settings {
    /// The configuration with a pod's annotations on top. The first wrong annotation (by name) is the error.
    pub fn resolve(config: &Config, annotations: Option<&Map<String, Value>>) -> Result<Self, AnnotationError> {
        let mut settings = Self::new(config);
        for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(CONFIG_PREFIX)) {
            let annotation = ANNOTATIONS.iter().find(|known| known.name == key).ok_or_else(|| unknown(key))?;
            let text = value.as_str().ok_or_else(|| AnnotationError::NotText { name: key.clone() })?;
            (annotation.apply)(&mut settings, text.trim()).map_err(|()| AnnotationError::Value {
                name: key.clone(),
                value: text.chars().take(SHOWN).collect(),
                allowed: annotation.allowed,
            })?;
        }
        settings.size_init(annotations);
        for (container, resources) in [("proxy", &settings.resources), ("init", &settings.init_resources)] {
            if let Some((resource, request, limit)) = resources.contradiction() {
                let (resource, request, limit) = (resource.to_owned(), request.clone(), limit.clone());
                return Err(AnnotationError::Contradiction { container, resource, request, limit });
            }
        }
        Ok(settings)
    }

    /// Gives `mesh-init` the amounts that annotations give the sidecar, where none are its own: a pod whose sidecar has equal
    /// requests and limits is Guaranteed only if all its containers have. It costs nothing, for `mesh-init` ends before the
    /// sidecar begins, and of init containers the largest request counts.
    fn size_init(&mut self, annotations: Option<&Map<String, Value>>) {
        let has = |name: &str| annotations.is_some_and(|annotations| annotations.contains_key(name));
        let (init, proxy) = (&mut self.init_resources, &self.resources);
        for (own, sidecars, resource) in [
            (INIT_CPU_LIMIT_ANNOTATION, PROXY_CPU_LIMIT_ANNOTATION, "cpu"),
            (INIT_MEMORY_LIMIT_ANNOTATION, PROXY_MEMORY_LIMIT_ANNOTATION, "memory"),
        ] {
            copy(has(sidecars) && !has(own), resource, &mut init.limits, &proxy.limits);
        }
        for (own, sidecars, resource) in [
            (INIT_CPU_REQUEST_ANNOTATION, PROXY_CPU_REQUEST_ANNOTATION, "cpu"),
            (INIT_MEMORY_REQUEST_ANNOTATION, PROXY_MEMORY_REQUEST_ANNOTATION, "memory"),
        ] {
            copy(has(sidecars) && !has(own), resource, &mut init.requests, &proxy.requests);
        }
    }

    fn new(config: &Config) -> Self {
        let proxy = config.proxy.clone();
        Self {
            image: proxy.image,
            log_level: proxy.log_level,
            workers: proxy.workers,
            resources: proxy.resources,
            init_resources: config.init.resources.clone(),
            shutdown_grace_seconds: proxy.shutdown_grace_seconds,
            native_sidecar: proxy.native_sidecar,
            opaque_ports: proxy.opaque_ports,
            skip_inbound_ports: proxy.skip_inbound_ports,
            skip_outbound_ports: proxy.skip_outbound_ports,
            pre_stop_seconds: config.pre_stop_seconds,
            rewrite_probes: true,
        }
    }
}

fn unknown(key: &str) -> AnnotationError {
    AnnotationError::Unknown { nearest: nearest(key), name: key.chars().take(SHOWN + CONFIG_PREFIX.len()).collect() }
}

/// The known name that is most like another.
pub(crate) fn nearest(key: &str) -> &'static str {
    let name: String = key.chars().take(SHOWN + CONFIG_PREFIX.len()).collect();
    let names = ANNOTATIONS.iter().map(|known| known.name);
    names.min_by_key(|known| strsim::damerau_levenshtein(known, &name)).unwrap_or_default()
}

/// The annotation that has the same name as one of another domain.
pub(crate) fn alike(key: &str) -> Option<&'static str> {
    let (_, name) = key.rsplit_once('/')?;
    ANNOTATIONS.iter().map(|known| known.name).find(|known| known.strip_prefix(CONFIG_PREFIX) == Some(name))
}

#[cfg(test)]
mod tests;
