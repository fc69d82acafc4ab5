//! `MESH_PROBES`: the probes that kubelet sends here, and what the application is asked for each. The injector writes it.

use std::{fmt, time::Duration};

use serde::{Deserialize, de::IgnoredAny};

use super::env::{ConfigError, Env};

/// Bytes of the variable, and probes in it: as many as the injector writes.
const MAX_BYTES: usize = 64 * 1024;
const MAX_PROBES: usize = 64;
/// Longest time for one answer of the application. Hooks have no other: kubelet lets them take as long as they like.
const LONGEST: Duration = Duration::from_secs(600);

/// The probes of this pod; none without redirection.
#[derive(Clone, Default, Deserialize)]
pub(crate) struct Probes {
    /// 32 hexadecimal digits that kubelet has in its paths; empty if there are no probes.
    pub secret: String,
    /// By their numbers in those paths.
    pub probes: Vec<Probe>,
}

/// One probe, or one hook.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Probe {
    /// The container that it is of.
    pub container: String,
    /// The field of the container, such as `readinessProbe`.
    pub probe: String,
    /// The port as a number, also where the pod gives a name.
    pub port: u16,
    /// Absent for hooks.
    timeout_seconds: Option<u64>,
    /// What the application is asked.
    #[serde(flatten)]
    pub action: Action,
}

/// What the application is asked, in Kubernetes' words.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Action {
    /// A request whose status counts.
    HttpGet(HttpGet),
    /// A connection.
    TcpSocket(IgnoredAny),
    /// `Check` of grpc.health.v1.
    Grpc(Grpc),
}

/// A request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpGet {
    /// Path with query.
    pub path: Option<String>,
    /// HTTP if absent.
    pub scheme: Option<Scheme>,
    /// Fields of its head.
    pub http_headers: Option<Vec<Header>>,
}

/// How the application is spoken to.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Scheme {
    /// In plain text.
    Http,
    /// TLS, whatever the certificate.
    Https,
}

/// A field of a head.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// A check of health.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Grpc {
    /// The name of a service; the whole server's health without one.
    pub service: Option<String>,
}

impl Probe {
    /// Whether it is a hook of the container's life: any answer will do, but there must be one.
    pub(crate) fn is_hook(&self) -> bool {
        matches!(&*self.probe, "postStart" | "preStop")
    }

    /// How long the application may take.
    pub(crate) fn limit(&self) -> Duration {
        if self.is_hook() {
            return LONGEST;
        }
        Duration::from_secs(self.timeout_seconds.unwrap_or(1).max(1)).min(LONGEST)
    }
}

/// Without the query, which may have a password in it.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match &self.action {
            Action::HttpGet(get) => {
                let path = get.path.as_deref().and_then(|path| path.split('?').next()).filter(|path| !path.is_empty());
                write!(f, "GET {} of port {port}", path.unwrap_or("/"))
            }
            Action::TcpSocket(_) => write!(f, "a connection to port {port}"),
            Action::Grpc(Grpc { service: None }) => write!(f, "the health check of port {port}"),
            Action::Grpc(Grpc { service: Some(service) }) => write!(f, "the health check of {service:?}, port {port}"),
        }
    }
}

/// Without the secret: a log must not have it.
impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes").field("probes", &self.probes).finish_non_exhaustive()
    }
}

impl Probes {
    pub(super) fn from_env(env: &impl Env) -> Result<Self, ConfigError> {
        const NAME: &str = "MESH_PROBES";
        let Some(text) = env.get(NAME) else { return Ok(Self::default()) };
        let read = (text.len() <= MAX_BYTES).then(|| serde_json::from_str::<Self>(&text).ok()).flatten();
        let is_secret = |secret: &str| secret.len() == 32 && secret.bytes().all(|b| b.is_ascii_hexdigit());
        read.filter(|read| is_secret(&read.secret) && read.probes.len() <= MAX_PROBES)
            .filter(|read| read.probes.iter().all(|probe| probe.port > 0))
            .ok_or_else(|| ConfigError::Invalid {
                name: NAME,
                // Its text has a secret.
                value: format!("({} bytes)", text.len()),
                expected: "a JSON object of a secret and at most 64 probes, within 64 KiB, as the injector writes it",
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Text(String);

    impl Env for Text {
        fn get(&self, _: &str) -> Option<String> {
            Some(self.0.clone())
        }
    }

    const SECRET: &str = "00112233445566778899aabbccddeeff";

    fn read(probes: &str) -> Result<Probes, ConfigError> {
        Probes::from_env(&Text(format!(r#"{{"secret": "{SECRET}", "probes": [{probes}]}}"#)))
    }

    #[test]
    fn what_the_injector_writes_is_read() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/golden/pod-probes.out.yaml");
        let golden = std::fs::read_to_string(path).unwrap();
        let (_, rest) = golden.split_once("- name: MESH_PROBES\n").unwrap();
        let (_, text) = rest.lines().next().unwrap().split_once("value: ").unwrap();
        // A text of YAML in double quotes is one of JSON.
        let read = Probes::from_env(&Text(serde_json::from_str(text).unwrap())).unwrap();
        let told: Vec<String> = read.probes.iter().map(|p| format!("{} {}: {p}", p.container, p.probe)).collect();
        let expected = [
            "web startupProbe: a connection to port 8080",
            "web livenessProbe: GET /live of port 8080",
            "web readinessProbe: the health check of \"web\", port 9090",
            "worker livenessProbe: GET /live of port 8443",
        ];
        assert_eq!(told, expected);
        assert_eq!(read.probes[2].limit(), Duration::from_secs(2));
        let Action::HttpGet(get) = &read.probes[3].action else { unreachable!() };
        assert_eq!(get.path.as_deref(), Some("/live?of=$(POD_NAME)&$$"));
        assert_eq!((get.scheme, get.http_headers.as_ref().unwrap().len()), (Some(Scheme::Https), 1));
        assert!(!format!("{read:?}").contains(&read.secret));
    }

    #[test]
    fn probes_are_bounded_and_what_is_none_is_named_without_its_secret() {
        let probe = r#"{"container": "a", "probe": "preStop", "port": 80, "httpGet": {}}"#;
        assert_eq!(read(&vec![probe; MAX_PROBES].join(",")).unwrap().probes[0].limit(), LONGEST);
        let long = format!("{}{}", probe, " ".repeat(MAX_BYTES));
        let many = vec![probe; MAX_PROBES + 1].join(",");
        for wrong in [
            "7",
            "{}",
            r#"{"container": "a", "probe": "preStop", "port": 80}"#,
            r#"{"container": "a", "probe": "preStop", "port": 80, "exec": {}}"#,
            r#"{"container": "a", "probe": "preStop", "port": 0, "httpGet": {}}"#,
            r#"{"container": "a", "probe": "preStop", "port": 70000, "httpGet": {}}"#,
            r#"{"container": "a", "probe": "preStop", "port": 80, "httpGet": {"scheme": "FTP"}}"#,
            &long,
            &many,
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("MESH_PROBES") && !error.contains(SECRET), "{error}");
        }
        assert!(Probes::from_env(&Text(r#"{"secret": "", "probes": []}"#.into())).is_err());
    }
}
