//! What a page of metrics says, in the text format of Prometheus as our own programs write it.

/// The values of the series of a family whose labels contain every one of `labels` (`name="value"`).
pub fn series<'p>(page: &'p str, family: &'p str, labels: &'p [&'p str]) -> impl Iterator<Item = f64> + 'p {
    let found = page.lines().filter(move |line| {
        line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    });
    found.filter_map(|line| line.rsplit(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_family_and_labels() {
        let page = "# TYPE a_total counter\na_total{side=\"in\"} 1\na_total{side=\"out\"} 2.5\na_total_more 4\nb 8\n";
        let sum = |family, labels: &[&str]| series(page, family, labels).sum::<f64>();
        assert_eq!(sum("a_total", &[]), 3.5);
        assert_eq!(sum("a_total", &["side=\"out\""]), 2.5);
        assert_eq!(series(page, "b", &[]).next(), Some(8.0));
        assert_eq!(series(page, "c", &[]).next(), None);
    }
}
