//! Every row of docs/limits.md has a test: a bound that nothing proves is a wish.
//!
//! The last column names functions as `file_or_module::function`, or says `not ours: ` and whose bound it is. Whether a
//! function proves its row is for people to judge.

use std::collections::BTreeSet;

/// The page.
pub const PAGE: &str = "docs/limits.md";
/// What marks a function as a test.
const MARKS: [&str; 2] = ["#[test]", "#[tokio::test"];
/// Before these a row says whose bound it is that has no test here.
const NOT_OURS: &str = "not ours: ";

/// The names of the tests in a source file.
pub fn tests(source: &str) -> impl Iterator<Item = &str> {
    let after = |mark| source.split(mark).skip(1);
    MARKS.into_iter().flat_map(after).filter_map(|rest| {
        // Other attributes and comments stand between; a function's name ends at its parameters.
        let mut lines = rest.lines().skip(1).map(str::trim_start);
        let line = lines.find(|line| !line.starts_with("#[") && !line.starts_with("//"))?;
        let (_, name) = line.split_once("fn ")?;
        name.split(['(', '<']).next()
    })
}

/// What is wrong with the rows of the page.
pub fn faults(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let lines: Vec<&str> = page.lines().collect();
    for (n, row) in lines.iter().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        // The head of a table stands above its rule.
        if lines.get(n + 1).is_some_and(|next| next.starts_with("|--")) {
            continue;
        }
        let column = row.trim_end_matches('|').rsplit(" |").next().unwrap_or_default().trim();
        let names: Vec<&str> = column.split('`').skip(1).step_by(2).collect();
        let is_test = |name: &&str| name.rsplit("::").next().is_some_and(|last| tests.contains(last));
        let at = format!("{PAGE}:{}", n + 1);
        match names.iter().find(|name| !is_test(name)) {
            _ if column.strip_prefix(NOT_OURS).is_some_and(|whose| !whose.is_empty()) => {}
            Some(name) => faults.push(format!("{at} names {name}, which is no test")),
            None if names.is_empty() => faults.push(format!("{at} names no test, nor says \"{NOT_OURS}\" and whose")),
            None => {}
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_tests_or_says_whose_bound_it_is() {
        // Written in pieces, so that no other reader of this file takes them for tests.
        let source = [
            concat!("#[te", "st]"),
            "fn first() {}",
            concat!("#[tokio::te", "st(start_paused = true)]"),
            "// why",
            "#[ignore]",
            "async fn second<T>() {}",
            "fn helper() {}",
        ];
        let source = source.join("\n");
        let known: BTreeSet<String> = tests(&source).map(str::to_owned).collect();
        assert_eq!(known, BTreeSet::from(["first".to_owned(), "second".to_owned()]));
        let page = |column: &str| format!("| What | Bound | Test |\n|---|---|---|\n| What | 1 | {column} |\n");
        for good in ["`a::first`", "`first`, `b::c::second`", "not ours: the kernel's", "not ours: `h2`'s"] {
            assert_eq!(faults(&page(good), &known), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "none", "the same", "`a::helper`", "`a::first`, `first::tests`", "not ours: "] {
            assert!(faults(&page(bad), &known).iter().all(|fault| fault.starts_with("docs/limits.md:3 ")), "{bad}");
            assert_eq!(faults(&page(bad), &known).len(), 1, "{bad}");
        }
    }
}
