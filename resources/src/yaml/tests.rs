//! What texts mean, as kubectl was seen to read each of them, and what is said of those that cannot be read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Vec<Value> {
    documents(text).unwrap().into_iter().filter_map(|document| document.value).collect()
}

fn one(text: &str) -> Value {
    let mut found = read(text);
    assert_eq!(found.len(), 1, "{text}");
    found.remove(0)
}

fn error(text: &str) -> YamlError {
    documents(text).expect_err(text)
}

/// Scalars that are the same text to kubectl.
const TEXTS: &str = "_1 . .5e ._5 1e400 12:30 1,000 2026-11-24 yEs oFF tRUE nULL + -. 0x 0b 0b2 0o8 = << 0x1p-2 1e 1e+ inf nan Infinity \
                     1d 5m 100Mi 1.2.3 0.0.0.0/0 ~x 08x on1";

#[test]
fn scalars_are_what_they_are_to_kubectl() {
    for text in TEXTS.split_whitespace() {
        assert_eq!(one(&format!("a: {text}"))["a"], json!(text), "{text}");
    }
    for (texts, value) in [
        ("0400 256 0o400 0x100 0b100000000 +256 2_56 256.0 2.56e2", json!(256)),
        ("0755 493", json!(493)),
        ("-010 -8 -0x8 -0b1000", json!(-8)),
        ("08 8 8. 0_8", json!(8)),
        ("1e3 1E3 1e+3 1.e3", json!(1000)),
        ("0 00 -0 0.", json!(0)),
        (".5 0.5 .5_0", json!(0.5)),
        ("-1.5e-7", json!(-1.5e-7)),
        ("18446744073709551615", json!(u64::MAX)),
        ("18446744073709551616 +18446744073709551615", json!(18_446_744_073_709_551_616.0)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("0777_1", json!(4089)),
        ("y Y yes Yes YES on On ON true True TRUE", json!(true)),
        ("n N no No NO off Off OFF false False FALSE", json!(false)),
        ("~ null Null NULL", json!(null)),
    ] {
        for text in texts.split(' ') {
            assert_eq!(one(&format!("a: {text}"))["a"], value, "{text}");
            assert_eq!(one(&format!("a: '{text}'"))["a"], json!(text), "in quotes");
        }
    }
    for (text, value) in [
        ("!!str 0400", json!("0400")),
        ("!!int \"0400\"", json!(256)),
        ("!!float 3", json!(3)),
        ("!!binary aGk=", json!("hi")),
        ("!!null ''", json!(null)),
        ("!!bool yes", json!(true)),
        ("!foo 012", json!("012")),
        ("! 012", json!("012")),
        ("", json!(null)),
    ] {
        assert_eq!(one(&format!("a: {text}"))["a"], value, "{text}");
    }
}

#[test]
fn keys_are_texts() {
    for (key, text) in [
        ("0400", "256"),
        ("yes", "true"),
        ("y", "true"),
        ("1.5", "1.5"),
        ("1e6", "1e+06"),
        ("100000.0", "100000"),
        ("1234567.5", "1.2345675e+06"),
        ("1e-5", "1e-05"),
        ("'0400'", "0400"),
        ("2026-01-01", "2026-01-01"),
    ] {
        assert_eq!(one(&format!("{key}: 1")), json!({ text: 1 }), "{key}");
    }
    for key in ["~", "null", "18446744073709551615", "? [a]\n", "? {a: b}\n"] {
        assert!(error(&format!("{key}: 1")).what.contains("key"), "{key}");
    }
}

#[test]
fn documents_are_parted_as_kubectl_parts_them() {
    for (text, values) in [
        ("a: 1\n--- # c\nb: 2\n---\n", json!([{"a": 1}, {"b": 2}])),
        ("a: 1\n...\n---\nb: 2\n...\n", json!([{"a": 1}, {"b": 2}])),
        ("\u{feff}a: 1\n---\n\u{feff}b: 2\n\u{feff}---\nc: 3\n", json!([{"a": 1}, {"b": 2}, {"c": 3}])),
        ("a: 1\r\n---\r\nb: |\r\n  x\r\n  y\r\n", json!([{"a": 1}, {"b": "x\ny\n"}])),
        ("a: |+\n  x\n\n\n---\nb: |\n  text", json!([{"a": "x\n\n\n"}, {"b": "text\n"}])),
        ("%YAML 1.1\n---\na: 1\n", json!([{"a": 1}])),
        ("{\"a\":1}\n{\"b\":1e3}{\"c\":2.0}", json!([{"a": 1}, {"b": 1000}, {"c": 2}])),
        ("{\n\t\"a\": \"\\ud83d\\ude00\\/\"\n}\n", json!([{"a": "😀/"}])),
        ("{a: 1}\n---\n{\"b\": yes}\n", json!([{"a": 1}, {"b": true}])),
        ("# nothing\n---\n# at all\n--- \nnull\n", json!([])),
    ] {
        assert_eq!(json!(read(text)), values, "{text}");
    }
}

#[test]
fn merge_keys_and_aliases() {
    for (text, value) in [
        ("m: {<<: &b {x: 1, w: 2}, x: 3}", json!({"x": 3, "w": 2})),
        // The later one of the two, whichever it is.
        ("m: {x: 3, <<: {x: 1, w: 2}}", json!({"x": 1, "w": 2})),
        ("m: {<<: [{x: 1}, {x: 2, w: 3}]}", json!({"x": 1, "w": 3})),
        ("m: {'<<': 1}", json!({"<<": 1})),
        ("l: &l [0400]\nm: {a: *l, b: *l}", json!({"a": [256], "b": [256]})),
    ] {
        assert_eq!(one(text)["m"], value, "{text}");
    }
    assert!(error("m: {<<: 1}").what.contains("no map"));
    assert!(error("a: &a {b: *a}").what.contains("itself"));
}

#[test]
fn what_is_wrong_is_said_in_plain_words_with_its_place() {
    for (text, place, what) in [
        (
            "a: 1\n---\nb: 1\nc: 2\nb: 3\n",
            (5, 1),
            "the field `b` is there twice, first in line 3; remove one of the two",
        ),
        ("{\"a\": 1,\n\"a\": 2}", (2, 1), "the field `a` is there twice, first in line 1"),
        ("a: 1\n...\nb: 2\n", (3, 1), "the document ended at `...`, and kubectl reads nothing behind it"),
        ("a: *b\n", (1, 4), "an alias (*name) stands for an anchor (&name) that is not there"),
        ("a:\n\tb: 1\n", (2, 1), "a tab stands where"),
        ("a: \"b\n", (1, 4), "a quote is opened and never closed"),
        ("a: .inf\n", (1, 4), "inf is no number that JSON has"),
        ("a: !!int x\n", (1, 10), "\"x\" is tagged !!int and is none"),
    ] {
        let error = error(text);
        assert!(error.what.contains(what), "{text}: {error}");
        assert_eq!(error.line, place.0, "{text}: {error}");
    }
    for library in ["Options", "from_str", "budget", "expected <", "DuplicateKeyPolicy"] {
        for text in ["a: 1\na: 2", "a: 1\n...\nb", "a: [", "]", "a: b: c", "- a\nb: 1", "a: 'b' c", "&", "? :"] {
            assert!(!documents(text).is_err_and(|error| error.what.contains(library)), "{text}");
        }
    }
    let deep = format!("{}1{}", "[".repeat(80), "]".repeat(80));
    assert!(error(&deep).what.contains("nested more than 64 deep"), "{}", error(&deep));
    let deep = format!("{{\"a\": {deep}}}");
    assert!(error(&deep).what.contains("nested more than 64 deep"), "{}", error(&deep));
    assert!(value("a: 1\n---\nb: 2").unwrap_err().what.contains("a second document"));
    assert_eq!(value("# none").unwrap(), Value::Null);
}

#[test]
fn bytes_have_an_encoding() {
    let wide: Vec<u8> = "\u{feff}a: ä".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(one(&decode(wide).unwrap()), json!({"a": "ä"}));
    assert!(decode(vec![0xff, 0xfe, 0]).is_err() && decode(vec![0, 159]).is_err());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(|number: f64| Value::from(number + 0.5)),
        "[ -~\n\té😀]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[ -~]{1,8}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(text in "[-a-z0-9:{}\\[\\]&*!|>'\"%@#,?~. \n\t\u{feff}]{0,60}") {
        if let Ok(found) = documents(&text) {
            found.iter().for_each(|document| { document.first_line(); });
        }
    }

    /// JSON is YAML, and means the same as one, as several in a row, and as documents.
    #[test]
    fn json_is_read_as_it_was_written(one in values(), two in values()) {
        let object = |value: &Value| json!({ "v": value });
        let (one, two) = (object(&one), object(&two));
        let compact = format!("{one}{two}");
        let pretty = format!("{}\n---\n{}", serde_json::to_string_pretty(&one).unwrap(), serde_json::to_string_pretty(&two).unwrap());
        prop_assert_eq!(read(&compact), vec![one.clone(), two.clone()]);
        prop_assert_eq!(read(&pretty), vec![one, two]);
    }
}
