//! The names that the parts of Mesh, its chart and its users know each other by: ports, objects, labels, annotations, groups.
//!
//! Each is written here once, so that a part cannot look for a name that another part does not write. A test of `meshctl`
//! (`cli/src/chart/names.rs`) holds the chart and the documentation to them. What one crate alone says and hears is not here:
//! the headers and ALPNs between proxies are in `mesh-proxy`, and what texts for people say is written in those texts.

// --- Ports of the sidecar, on loopback or on the pod's addresses.

/// Where connections from the application are redirected to.
pub const OUTBOUND_PORT: u16 = 4640;
/// Where connections to the application are redirected to; peers' proxies end up here.
pub const INBOUND_PORT: u16 = 4643;
/// The proxy's pages for whoever is in the pod (`/config`, `/log-level`); loopback only, `meshctl` forwards to it.
pub const ADMIN_PORT: u16 = 4691;
/// The proxy's pages for everybody (`/ready`, `/metrics`): kubelet and Prometheus read them.
pub const METRICS_PORT: u16 = 4692;
/// The user and group that the proxy runs as: redirection passes by what this user sends. All our images run as it.
pub const PROXY_UID: u32 = 4640;

// --- Ports of the control plane.

/// The gRPC service Identity of [`MESH_IDENTITY`]: everybody who needs a certificate calls it.
pub const IDENTITY_PORT: u16 = 4650;
/// The gRPC services Policy and Destination of [`MESH_DESTINATION`]: proxies call them.
pub const DESTINATION_PORT: u16 = 4651;
/// The pages of every part (`/ready`, `/metrics`, `/problems`): kubelet, Prometheus and `meshctl check` read them.
pub const PAGES_PORT: u16 = 4652;
/// The webhook of [`MESH_INJECTOR`]: the API server calls it.
pub const WEBHOOK_PORT: u16 = 4653;

// --- Objects of an installation.

/// The namespace of the control plane, the only one it is installed into.
pub const CONTROL_NAMESPACE: &str = "mesh-system";
/// The part that issues certificates: its Deployment, Service, ServiceAccount, roles, Lease and field manager.
pub const MESH_IDENTITY: &str = "mesh-identity";
/// The part that serves policies and endpoints: its Deployment, Service, ServiceAccount, roles, Lease and field manager.
pub const MESH_DESTINATION: &str = "mesh-destination";
/// The part that injects sidecars: its Deployment, Service, ServiceAccount, roles, webhook configuration, reporter of events,
/// and the ConfigMap with its configuration, which `meshctl inject` and `meshctl lint` read too.
pub const MESH_INJECTOR: &str = "mesh-injector";
/// The Secret with the issuer's certificate and key: the installation writes it, [`MESH_IDENTITY`] reads it.
pub const ISSUER_SECRET: &str = "mesh-issuer";
/// The ConfigMap with the trust anchors in every namespace that has meshed pods: [`MESH_IDENTITY`] writes it, pods mount it.
pub const TRUST_BUNDLE: &str = "mesh-trust-bundle";
/// The key of [`TRUST_BUNDLE`], and the file that it is mounted as.
pub const TRUST_BUNDLE_KEY: &str = "ca-bundle.pem";
/// The ConfigMap with the values that were given at the installation: `meshctl upgrade` and `meshctl lint` read it.
pub const VALUES_CONFIG_MAP: &str = "mesh-values";
/// Where [`MESH_IDENTITY`] serves, as a pod of the control plane finds it by default.
pub const IDENTITY_ADDRESS: &str = "mesh-identity.mesh-system.svc:4650";
/// The webhook in the webhook configuration; the API server names it when a call fails.
pub const WEBHOOK: &str = "inject.meshctl.dev";
/// The audience of the tokens that [`MESH_IDENTITY`] takes: pods have them projected.
pub const TOKEN_AUDIENCE: &str = "identity.meshctl.dev";

// --- A meshed pod.

/// The sidecar's container: who has it on a cluster is meshed.
pub const PROXY_CONTAINER: &str = "mesh-proxy";
/// The init container that redirects a pod's connections to its proxy.
pub const INIT_CONTAINER: &str = "mesh-init";
/// Label of namespaces and pods, `enabled` or `disabled`: whether pods get a sidecar.
pub const INJECT_LABEL: &str = "meshctl.dev/inject";
/// Label of meshed pods: the version that injected them.
pub const VERSION_LABEL: &str = "meshctl.dev/proxy-version";
/// Annotation of meshed pods: the version that injected them, for `uninject`.
pub const INJECTED_ANNOTATION: &str = "meshctl.dev/injected";
/// Annotation of meshed pods: which changes cannot be told from the user's own words, for `uninject`.
pub const CHANGES_ANNOTATION: &str = "meshctl.dev/injected-changes";
/// Where on [`METRICS_PORT`] the probes of a meshed pod are: the pod's secret and the number of the probe follow.
pub const PROBE_PATH: &str = "/probe/";

// --- What a pod may say of its own sidecar (docs/injection.md); discovery reads four of them too.

/// What each of these annotations begins with.
pub const CONFIG_PREFIX: &str = "config.meshctl.dev/";
/// Which requests the sidecar logs; also of a Namespace.
pub const ACCESS_LOG_ANNOTATION: &str = "config.meshctl.dev/access-log";
/// Attributes that the access log tells beyond the usual; also of a Namespace.
pub const ACCESS_LOG_ATTRIBUTES_ANNOTATION: &str = "config.meshctl.dev/access-log-attributes";
/// The image of sidecar and init container.
pub const IMAGE_ANNOTATION: &str = "config.meshctl.dev/image";
/// CPU at most, of the init container.
pub const INIT_CPU_LIMIT_ANNOTATION: &str = "config.meshctl.dev/init-cpu-limit";
/// CPU kept free for the init container.
pub const INIT_CPU_REQUEST_ANNOTATION: &str = "config.meshctl.dev/init-cpu-request";
/// Memory at most, of the init container.
pub const INIT_MEMORY_LIMIT_ANNOTATION: &str = "config.meshctl.dev/init-memory-limit";
/// Memory kept free for the init container.
pub const INIT_MEMORY_REQUEST_ANNOTATION: &str = "config.meshctl.dev/init-memory-request";
/// The log filter.
pub const LOG_LEVEL_ANNOTATION: &str = "config.meshctl.dev/log-level";
/// Whether the sidecar is an init container that stays.
pub const NATIVE_SIDECAR_ANNOTATION: &str = "config.meshctl.dev/native-sidecar";
/// Ports whose bytes are passed on without looking for a protocol; Services may have it too.
pub const OPAQUE_PORTS_ANNOTATION: &str = "config.meshctl.dev/opaque-ports";
/// Seconds of the `preStop` hook of containers.
pub const PRE_STOP_SECONDS_ANNOTATION: &str = "config.meshctl.dev/pre-stop-seconds";
/// What ports speak; Services may have it too.
pub const PROTOCOL_ANNOTATION: &str = "config.meshctl.dev/protocol";
/// CPU at most.
pub const PROXY_CPU_LIMIT_ANNOTATION: &str = "config.meshctl.dev/proxy-cpu-limit";
/// CPU kept free.
pub const PROXY_CPU_REQUEST_ANNOTATION: &str = "config.meshctl.dev/proxy-cpu-request";
/// Memory at most.
pub const PROXY_MEMORY_LIMIT_ANNOTATION: &str = "config.meshctl.dev/proxy-memory-limit";
/// Memory kept free.
pub const PROXY_MEMORY_REQUEST_ANNOTATION: &str = "config.meshctl.dev/proxy-memory-request";
/// Threads of the data plane.
pub const PROXY_WORKERS_ANNOTATION: &str = "config.meshctl.dev/proxy-workers";
/// Whether kubelet's probes of the pod go to its sidecar.
pub const REWRITE_PROBES_ANNOTATION: &str = "config.meshctl.dev/rewrite-probes";
/// How long open requests may go on after SIGTERM.
pub const SHUTDOWN_GRACE_ANNOTATION: &str = "config.meshctl.dev/shutdown-grace";
/// Ports of the pod that are not redirected.
pub const SKIP_INBOUND_PORTS_ANNOTATION: &str = "config.meshctl.dev/skip-inbound-ports";
/// Ports of destinations that are not redirected.
pub const SKIP_OUTBOUND_PORTS_ANNOTATION: &str = "config.meshctl.dev/skip-outbound-ports";
/// Ports of the pod whose requests must have paths that every server reads alike.
pub const STRICT_PATH_PORTS_ANNOTATION: &str = "config.meshctl.dev/strict-path-ports";

// --- API groups.

/// The Gateway API's group.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// The group of the kinds that are ours.
pub const POLICY_GROUP: &str = "policy.meshctl.dev";
/// Under this `controllerName` our entries stand in a status that controllers share (GEP-713, Gateway API).
pub const CONTROLLER_NAME: &str = "meshctl.dev/controller";
