//! The rules of a definition in CEL (`x-kubernetes-validations`), each about the value that it stands at.
//!
//! Values are given to rules as an API server gives them: fields by names that CEL can spell, whole numbers as such. Rules that compare
//! with an earlier version of the object (`oldSelf`) say nothing about a new one. Of the functions that Kubernetes adds to CEL those are
//! here that the definitions use.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use cel::{Context, Env, Program, Value as Cel, objects::Key};
use serde_json::Value;

use super::{Judgement, MAX_TOLD, Refused};

/// Words of CEL: a field of such a name is written between double underscores.
const RESERVED: [&str; 20] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

/// The language: CEL with its functions for texts and lists.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // Both are the library's own; without them a rule that needs them is told as not judged.
    let _ = env.add_extension(cel::extensions::strings);
    let _ = env.add_extension(cel::extensions::lists);
    Arc::new(env)
});

/// Asks rules, and keeps them compiled.
#[derive(Default)]
pub(super) struct Rules {
    /// `None`: the rule cannot be read.
    programs: HashMap<String, Option<Program>>,
}

impl Rules {
    /// Asks every rule about the value that it stands at.
    pub(super) fn check(&mut self, schema: &Value, value: &Value, judgement: &mut Judgement) {
        self.value(schema, value, "", judgement);
    }

    fn value(&mut self, schema: &Value, value: &Value, path: &str, judgement: &mut Judgement) {
        if value.is_null() {
            return;
        }
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        if let Some(rules) = rules.filter(|rules| !rules.is_empty()) {
            let own = cel(schema, value);
            for rule in rules {
                self.ask(rule, &own, path, judgement);
            }
        }
        match value {
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Some(of) = schema.get("items") {
                        self.value(of, item, &format!("{path}[{i}]"), judgement);
                    }
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    if let Some((of, _)) = of_field(schema, name) {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        self.value(of, field, &path, judgement);
                    }
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, rule: &Value, own: &Cel, path: &str, judgement: &mut Judgement) {
        let text = |name: &str| rule.get(name).and_then(Value::as_str);
        let Some(source) = text("rule") else { return };
        let program = self.programs.entry(source.to_owned()).or_insert_with(|| ENV.compile(source).ok());
        let Some(program) = program else {
            return not_judged(path, source, "it cannot be read", judgement);
        };
        if program.references().variables().contains(&"oldSelf") {
            return;
        }
        let mut context = Context::with_env(ENV.clone());
        if let Err(what) = functions(&mut context) {
            return not_judged(path, source, &what, judgement);
        }
        context.add_variable_from_value("self", own.clone());
        let what = match program.execute(&context) {
            Ok(Cel::Bool(true)) => return,
            Ok(Cel::Bool(false)) => text("message").map_or_else(|| format!("it must hold: {source}"), str::to_owned),
            Ok(_) => return not_judged(path, source, "its result is neither true nor false", judgement),
            // What a rule reads and the object does not have makes an API server refuse it; what the rule needs of us does not.
            Err(cel::ExecutionError::NoSuchKey(key)) => {
                format!("the rule {source:?} asks for {key}, which is not there")
            }
            Err(cel::ExecutionError::FunctionError { message, .. }) => message,
            Err(error) => return not_judged(path, source, &error.to_string(), judgement),
        };
        if judgement.refused.len() < MAX_TOLD {
            let (field, what) = (path.to_owned(), what.split_whitespace().collect::<Vec<_>>().join(" "));
            judgement.refused.push(Refused { field, what, is_rule: true });
        }
    }
}

fn not_judged(path: &str, rule: &str, why: &str, judgement: &mut Judgement) {
    if judgement.unjudged.len() < MAX_TOLD {
        judgement.unjudged.push(format!("{path}: the rule {rule:?} could not be asked: {why}"));
    }
}

/// What Kubernetes adds to CEL.
fn functions(context: &mut Context<'_, '_>) -> Result<(), String> {
    let is_ip = context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok());
    is_ip.map_err(|error| error.to_string())?;
    // Nanoseconds: they are compared, and nothing else.
    let duration = context.add_function("duration", |text: Arc<String>| nanoseconds(&text));
    duration.map_err(|error| error.to_string())
}

/// A duration of Go, such as `1h30m` or `10ms`. The patterns of the definitions let no other pass.
fn nanoseconds(text: &str) -> Result<i64, cel::ExecutionError> {
    let wrong = || cel::ExecutionError::function_error("duration", format!("{text:?} is no duration"));
    let read = mesh_policy::duration::read(text).ok_or_else(wrong)?;
    i64::try_from(read.as_nanos()).map_err(|_| wrong())
}

/// The schema of a field, and whether the schema names it.
fn of_field<'s>(schema: &'s Value, name: &str) -> Option<(&'s Value, bool)> {
    match schema.get("properties").and_then(|properties| properties.get(name)) {
        Some(of) => Some((of, true)),
        None => schema.get("additionalProperties").filter(|others| others.is_object()).map(|of| (of, false)),
    }
}

/// A value for rules. Fields that the schema does not have are cut off before rules are asked.
fn cel(schema: &Value, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) if schema.get("type").and_then(Value::as_str) != Some("number") => Cel::Int(whole),
            _ => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => {
            let of = schema.get("items").unwrap_or(&Value::Null);
            Cel::List(Arc::new(items.iter().map(|item| cel(of, item)).collect()))
        }
        Value::Object(fields) => {
            let known = fields.iter().filter_map(|(name, field)| {
                let (of, is_named) = of_field(schema, name)?;
                let name = if is_named { escaped(name) } else { name.clone() };
                Some((Key::from(name), cel(of, field)))
            });
            Cel::Map(cel::objects::Map { map: Arc::new(known.collect()) })
        }
    }
}

/// A name of a field as rules spell it.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    let name = name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__");
    name.replace('/', "__slash__")
}
