//! Generated objects, right and wrong ones, of each kind of route: the same verdict as an API server's.
//!
//! `verdicts.txt` has what the library of API servers (`k8s.io/apiextensions-apiserver`) said of each: a line a kind, a letter an object,
//! `x` where it was refused. To have it said anew, run the test with `WRITE_GENERATED=FILE`, give the objects in the file to that library, and
//! write down what it says.

use serde_json::Map;

use super::*;

/// Objects of each kind.
const COUNT: usize = 320;
const VERDICTS: &str = include_str!("verdicts.txt");
const KINDS_OF_ROUTES: [&str; 5] = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant"];
/// Texts of which some fit most fields and some fit none.
const TEXTS: [&str; 34] = [
    "a",
    "web",
    "web-v2",
    "x-a",
    "X-B",
    "/",
    "/a",
    "/a/b",
    "1s",
    "10ms",
    "0s",
    "GET",
    "example.com",
    "*.example.com",
    "Service",
    "gateway.networking.k8s.io",
    "",
    "https",
    "http://a.example",
    "*",
    "Foo.Bar",
    "A B",
    "Shop.example.com",
    "-a",
    "//",
    "/../x",
    "/./",
    "a#b",
    "%zz",
    "1.2.3.4",
    "1d",
    "2h",
    "(",
    "ü",
];

/// Numbers that are the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }

    /// Whether something happens that does once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn value(&mut self, schema: &Value, depth: usize, faults: usize) -> Value {
        if let Some(default) = schema.get("default").filter(|_| self.once_in(3)) {
            return default.clone();
        }
        if self.once_in(faults * 6) {
            return [json!(1), json!("x"), json!([]), json!({}), json!(null)][self.below(5)].clone();
        }
        match schema["type"].as_str() {
            Some("string") => self.text(schema, faults).into(),
            Some("integer") => {
                let (least, most) =
                    (schema["minimum"].as_i64().unwrap_or(0), schema["maximum"].as_i64().unwrap_or(1000));
                let right = [least, most, least + 1, 80][self.below(4)];
                if self.once_in(faults) { [least - 1, most + 1][self.below(2)].into() } else { right.into() }
            }
            Some("boolean") => self.once_in(2).into(),
            Some("array") => {
                let bound = |name: &str, or: u64| schema[name].as_u64().unwrap_or(or) as usize;
                let (least, most) = (bound("minItems", 0), bound("maxItems", 4));
                let wrong = self.once_in(faults * 2);
                let count = if wrong {
                    [least.saturating_sub(1), (most + 1).min(70)][self.below(2)]
                } else {
                    (least.max(1) + self.below(2)).min(most)
                };
                let mut items: Vec<Value> =
                    (0..count).map(|_| self.value(&schema["items"], depth + 1, faults)).collect();
                if let Some(first) = items.first().cloned().filter(|_| self.once_in(faults)) {
                    items.push(first);
                }
                items.into()
            }
            _ => self.fields(schema, depth, faults),
        }
    }

    fn text(&mut self, schema: &Value, faults: usize) -> String {
        if let Some(words) = schema["enum"].as_array() {
            let word = words[self.below(words.len())].as_str().unwrap().to_owned();
            return if self.once_in(faults) { word.to_lowercase() + "x" } else { word };
        }
        let pattern = schema["pattern"].as_str().and_then(|pattern| regex::Regex::new(pattern).ok());
        let fits = |text: &&&str| {
            pattern.as_ref().is_none_or(|pattern| pattern.is_match(text))
                && text.len() as u64 >= schema["minLength"].as_u64().unwrap_or(0)
        };
        let fitting: Vec<&&str> = TEXTS.iter().filter(fits).collect();
        if fitting.is_empty() || self.once_in(faults) {
            TEXTS[self.below(TEXTS.len())].to_owned()
        } else {
            (**fitting[self.below(fitting.len())]).to_owned()
        }
    }

    fn fields(&mut self, schema: &Value, depth: usize, faults: usize) -> Value {
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields = Map::new();
        for (name, of) in properties {
            let is_there = match required.contains(&name.as_str()) {
                true => !self.once_in(faults * 3),
                false if depth < 2 => !self.once_in(8),
                false => self.once_in(3),
            };
            if is_there {
                fields.insert(name.clone(), self.value(of, depth + 1, faults));
            }
        }
        // Most filters have the part that their type names, and no other.
        let part = fields.get("type").and_then(Value::as_str).map(|name| match name {
            "URLRewrite" => "urlRewrite".to_owned(),
            "CORS" => "cors".to_owned(),
            name => name.chars().take(1).flat_map(char::to_lowercase).chain(name.chars().skip(1)).collect(),
        });
        if let Some((part, of)) =
            part.and_then(|part| properties.get_key_value(&part)).filter(|_| !self.once_in(faults))
        {
            fields.retain(|name, value| name == "type" || !value.is_object());
            fields.insert(part.clone(), self.value(of, depth + 1, faults));
        }
        fields.into()
    }
}

fn objects(kind: &str) -> Vec<Value> {
    let definition = DEFINITIONS.iter().find(|known| known.kind == kind && known.version == "v1").unwrap();
    let mut numbers = Numbers(kind.bytes().fold(88_172_645_463_325_252, |seed, byte| seed ^ (u64::from(byte) << 7)));
    let spec = &definition.schema["properties"]["spec"];
    let object = |n: usize| {
        let faults = [20, 60, 200, 1000][n % 4];
        let mut object = route(kind, numbers.fields(spec, 0, faults));
        object["metadata"]["name"] = format!("o-{n}").into();
        object
    };
    (0..COUNT).map(object).collect()
}

#[test]
fn generated_objects_have_the_verdict_of_an_api_server() {
    let all: Vec<(&str, Vec<Value>)> = KINDS_OF_ROUTES.iter().map(|kind| (*kind, objects(kind))).collect();
    if let Some(file) = std::env::var_os("WRITE_GENERATED") {
        let flat: Vec<&Value> = all.iter().flat_map(|(_, objects)| objects).collect();
        std::fs::write(file, serde_json::to_string(&flat).unwrap()).unwrap();
    }
    let mut judge = Judge::default();
    for (line, (kind, objects)) in VERDICTS.lines().zip(&all) {
        let (name, verdicts) = line.split_once(' ').unwrap();
        assert_eq!((name, verdicts.len()), (*kind, COUNT));
        for (verdict, object) in verdicts.chars().zip(objects) {
            let judgement = judge.judge(&Object::from_value(object.clone(), None).unwrap());
            assert!(judgement.unjudged.is_empty(), "{judgement:?}");
            assert_eq!(verdict == 'x', !judgement.refused.is_empty(), "{object}\n{judgement:?}");
        }
        let refused = verdicts.matches('x').count();
        assert!(refused > COUNT / 10 && refused < COUNT * 9 / 10, "{kind}: {refused} are refused");
    }
    assert_eq!(VERDICTS.lines().count(), KINDS_OF_ROUTES.len());
}
