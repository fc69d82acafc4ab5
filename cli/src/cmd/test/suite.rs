//! Files of tests as they are written; docs/testing-routes.md documents them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_resources::{
    Object,
    object::{MAX_ALIAS_EVENTS, MAX_DEPTH, MAX_FILE_BYTES},
    yaml,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::{
    cmd::explain::{Explained, Question},
    manifests::ManifestFiles,
};

/// A file of tests, with the objects that they are about.
#[derive(Debug)]
pub(super) struct Suite {
    /// What is tested.
    pub objects: Vec<Object>,
    /// The tests.
    pub tests: Vec<Case>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Files and folders, from the file's own folder.
    #[serde(default)]
    manifests: Vec<PathBuf>,
    /// Manifests that are written here.
    #[serde(default)]
    objects: Vec<Value>,
    tests: Vec<Case>,
}

/// A test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// Its name, for people.
    pub name: String,
    /// The client's namespace; `default` if not given.
    from: Option<String>,
    request: RequestText,
    /// What must hold.
    pub expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestText {
    /// GET if not given.
    method: Option<String>,
    /// The whole URL: `http://web.shop/cart`, or `tls://` and `tcp://` for connections.
    url: String,
    /// `SERVICE/METHOD`, for a call of gRPC to `url`.
    grpc: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Texts>,
}

/// One text or several. Numbers and booleans count as text, as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Texts(Vec<String>);

impl TryFrom<Value> for Texts {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(_) | Value::Bool(_) => Ok(value.to_string()),
            other => Err(format!("{other} is neither a text nor a list of texts")),
        };
        match &value {
            Value::Array(all) => all.iter().map(text).collect::<Result<_, _>>().map(Self),
            one => Ok(Self(vec![text(one)?])),
        }
    }
}

/// What must hold; what is not given may be anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Expect {
    /// The verdict of `meshctl explain`.
    pub verdict: Option<String>,
    /// `namespace/name`; `null`: none.
    #[serde(default, deserialize_with = "given")]
    pub route: Option<Option<String>>,
    /// Its place, or its name.
    pub rule: Option<RuleKey>,
    /// Shares by backend; only their proportion counts. `invalid` is what is answered 500.
    pub backends: Option<BTreeMap<String, f64>>,
    /// Where it is redirected.
    pub redirect: Option<String>,
    /// The status of the proxy's own answer.
    pub status: Option<u16>,
    /// Headers of that answer; `null`: not there.
    pub headers: Option<BTreeMap<String, Option<Texts>>>,
    /// What a backend sees.
    pub sent: Option<SentExpect>,
    /// Kinds of the rule's filters, in order.
    pub filters: Option<Vec<String>>,
    /// Percent of copies, by backend.
    pub mirrors: Option<BTreeMap<String, f64>>,
    /// Time limits: keys of `meshctl explain`, compared where given.
    pub timeouts: Option<Value>,
    /// The same of retries; `null`: none.
    #[serde(default, deserialize_with = "given")]
    pub retry: Option<Option<Value>>,
    /// The same of sessions; `null`: none.
    #[serde(default, deserialize_with = "given")]
    pub session: Option<Option<Value>>,
    /// A part of the reason why nobody serves it.
    pub refused: Option<String>,
    /// Parts of problems that must be told.
    pub problems: Option<Vec<String>>,
}

/// A rule by its place or its name.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(super) enum RuleKey {
    /// From 0.
    Index(usize),
    /// Its own name.
    Name(String),
}

/// What a backend sees.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct SentExpect {
    /// The host.
    pub host: Option<String>,
    /// Path and query.
    pub path: Option<String>,
    /// Headers; `null`: not there.
    pub headers: Option<BTreeMap<String, Option<Texts>>>,
    /// Headers that filters put into the response.
    pub response_headers: Option<BTreeMap<String, Option<Texts>>>,
}

/// Keeps `null` apart from what is not there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl Suite {
    /// Reads a file and the manifests that it names.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display().to_string();
        let about = fs::metadata(path).with_context(|| shown.clone())?;
        ensure!(about.len() <= MAX_FILE_BYTES as u64, "{shown}: it has more than {MAX_FILE_BYTES} bytes; split it");
        let text = fs::read_to_string(path).with_context(|| shown.clone())?;
        Self::parse(&text, &shown, path.parent().unwrap_or(Path::new("")))
    }

    /// Reads the text of a file in a folder.
    pub(super) fn parse(text: &str, shown: &str, folder: &Path) -> anyhow::Result<Self> {
        let wrong = |what: String| anyhow!("{shown}: {what}; see docs/testing-routes.md");
        let read = yaml::value(text).map_err(|error| wrong(error.to_string()))?;
        let options = serde_saphyr::options! {
            with_snippet: false,
            strict_booleans: true,
            budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS },
        };
        let file: File = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| wrong(error.to_string().replace('\n', " ")))?;
        let mut given = ManifestFiles::default();
        if !file.manifests.is_empty() {
            let paths: Vec<PathBuf> = file.manifests.iter().map(|path| folder.join(path)).collect();
            given = ManifestFiles::read(&paths).with_context(|| shown.to_owned())?;
        }
        // Objects mean what they mean to kubectl.
        let objects = read.get("objects").and_then(Value::as_array).cloned().unwrap_or(file.objects);
        for (index, value) in objects.into_iter().enumerate() {
            let object = Object::from_value(value, None);
            given.add(object.map_err(|why| anyhow!("{shown}: objects[{index}]: {why}"))?);
        }
        if let Some(twice) = given.repeated.first() {
            bail!("{shown}: {} is there twice; remove one of the two", twice.id());
        }
        ensure!(!file.tests.is_empty(), "{shown}: it has no tests");
        for test in &file.tests {
            if let Some(verdict) = test.expect.verdict.as_deref().filter(|v| !Explained::VERDICTS.contains(v)) {
                let known = Explained::VERDICTS.join(", ");
                bail!("{shown}: test {:?}: there is no verdict {verdict:?}; there are {known}", test.name);
            }
        }
        Ok(Self { objects: given.into_objects()?, tests: file.tests })
    }
}

impl Case {
    /// The client's namespace.
    pub(super) fn from(&self) -> &str {
        self.from.as_deref().unwrap_or("default")
    }

    /// What is asked.
    pub(super) fn question(&self) -> anyhow::Result<Question> {
        let mut headers = HeaderMap::new();
        for (name, values) in &self.request.headers {
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| anyhow!("{name:?} is no header name"))?;
            for value in values.texts() {
                let value = HeaderValue::from_str(value).map_err(|_| anyhow!("{value:?} is no header value"))?;
                headers.append(key.clone(), value);
            }
        }
        match &self.request.grpc {
            Some(call) => Question::grpc(&self.request.url, call, headers),
            None => Question::new(self.request.method.as_deref().unwrap_or("GET"), &self.request.url, headers),
        }
    }
}

impl Texts {
    /// Each of them.
    pub(super) fn texts(&self) -> &[String] {
        &self.0
    }
}
