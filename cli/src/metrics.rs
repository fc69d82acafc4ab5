//! The text format of Prometheus, as the proxies and the controller write it.

use std::collections::BTreeMap;

/// One sample of the text format of Prometheus.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value, or `""`.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// What makes it a series of its own.
    pub(crate) fn key(&self) -> (&str, &BTreeMap<String, String>) {
        (&self.name, &self.labels)
    }
}

/// Reads the text format of Prometheus. It skips lines that it does not understand: a newer proxy may have more.
pub(crate) fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter(|l| !l.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The text up to the closing quote, without escapes, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

/// The value of a family: of its one series, or the sum of all; `None` when it is not there.
pub(crate) fn total(samples: &[Sample], family: &str) -> Option<f64> {
    let mut values = samples.iter().filter(|sample| sample.name == family).map(|sample| sample.value).peekable();
    values.peek().is_some().then(|| values.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format_is_read() {
        let samples = parse(concat!(
            "# HELP mesh_requests_total Requests.\n# TYPE mesh_requests_total counter\n",
            "mesh_requests_total{direction=\"outbound\",route=\"a\\\"b\\\\c\\n\",} 12 1700000000\n",
            "up 1\nmesh_certificates_total{} 3.5e1\n\nbroken{a=\"b 1\nnovalue{a=\"b\"}\n",
        ));
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].label("route"), "a\"b\\c\n");
        assert_eq!((samples[0].value, samples[1].name.as_str(), samples[2].value), (12.0, "up", 35.0));
    }

    #[test]
    fn a_family_is_summed() {
        let samples = parse("a_total{x=\"1\"} 2\na_total{x=\"2\"} 3\na_total_more 9\n");
        assert_eq!((total(&samples, "a_total"), total(&samples, "b")), (Some(5.0), None));
    }
}
