//! How the values of an installation are put together: the defaults, what was given, and what was taken away.

use mesh_resources::yaml;
use serde_json::{Map, Value};

use crate::chart::{ChartError, files};

/// The defaults, as they are in values.yaml.
pub(crate) fn defaults() -> Result<Value, ChartError> {
    read_yaml("values.yaml of the chart", files::VALUES)
}

/// Reads one document of values, which is a map, or empty.
pub(crate) fn read_yaml(name: &str, text: &str) -> Result<Value, ChartError> {
    let wrong = |why: String| ChartError::Values { name: name.to_owned(), why };
    let value: Value = yaml::value(text).map_err(|error| wrong(error.to_string()))?;
    match value {
        Value::Null => Ok(Value::Object(Map::new())),
        Value::Object(_) => Ok(value),
        _ => Err(wrong("values are a map (name: value), and this is none".to_owned())),
    }
}

/// Lays `over` on `under`, map by map: what `over` has wins.
pub(crate) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                match under.get_mut(&name) {
                    Some(slot) => merge(slot, value),
                    None => drop(under.insert(name, value)),
                }
            }
        }
        (under, over) => *under = over,
    }
}

/// The values in force: what was given, and the defaults where nothing was. `null` takes a default away.
pub(crate) fn with_defaults(given: Value) -> Result<Value, ChartError> {
    let mut all = given;
    fill(&mut all, defaults()?);
    Ok(all)
}

fn fill(given: &mut Value, defaults: Value) {
    let (Value::Object(given), Value::Object(defaults)) = (given, defaults) else { return };
    for (name, default) in defaults {
        match given.get_mut(&name) {
            None => drop(given.insert(name, default)),
            Some(Value::Null) => drop(given.remove(&name)),
            Some(value) => fill(value, default),
        }
    }
}

/// Maps whose entries are taken away one by one with `null`; what is not in them was taken away.
pub(super) const TAKEN_ONE_BY_ONE: [&str; 2] = ["resources", "nodeSelector"];

/// Says again of the values of an installation which defaults had been taken away: they are stored without them, and would get
/// them back. Where a newer version has a value that the stored ones cannot know, it keeps its default.
pub(crate) fn take_away(stored: &mut Value) -> Result<(), ChartError> {
    without(stored, &defaults()?, false);
    Ok(())
}

fn without(stored: &mut Value, defaults: &Value, inside: bool) {
    let (Value::Object(stored), Value::Object(defaults)) = (stored, defaults) else { return };
    for (name, default) in defaults {
        let of_these = inside || TAKEN_ONE_BY_ONE.contains(&name.as_str());
        match stored.get_mut(name) {
            Some(value) => without(value, default, of_these),
            None if inside => drop(stored.insert(name.clone(), Value::Null)),
            None => {}
        }
    }
}
