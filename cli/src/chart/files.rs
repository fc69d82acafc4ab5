//! The chart's files, inside the program: `meshctl install` needs no folder beside it.
//!
//! They are named one by one, so that the compiler sees when one changes; a test compares with the folder.

macro_rules! templates {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../charts/mesh/templates/", $name)))),+]
    };
}

/// `Chart.yaml`.
pub const CHART: &str = include_str!("../../../charts/mesh/Chart.yaml");
/// `values.yaml`: the default of every value.
pub const VALUES: &str = include_str!("../../../charts/mesh/values.yaml");
/// Named parts that templates include.
pub const HELPERS: &str = include_str!("../../../charts/mesh/templates/_helpers.tpl");
/// Templates with their names, in the order of the names, which is the order Helm takes them in.
pub const TEMPLATES: &[(&str, &str)] = templates![
    "config.yaml",
    "destination-rbac.yaml",
    "destination.yaml",
    "disruption.yaml",
    "identity-rbac.yaml",
    "identity.yaml",
    "injector-rbac.yaml",
    "injector.yaml",
    "namespace.yaml",
    "networkpolicy.yaml",
    "trust.yaml",
    "webhook.yaml",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_file_of_the_chart_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/mesh/templates");
        let mut there: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "_helpers.tpl")
            .collect();
        there.sort();
        let embedded: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
        assert_eq!(embedded, there, "files.rs lists the templates in the order of their names");
    }

    #[test]
    fn chart_and_program_have_one_version() {
        let version = env!("CARGO_PKG_VERSION");
        for key in ["version", "appVersion"] {
            assert!(CHART.contains(&format!("\n{key}: {version}\n")), "{key} of Chart.yaml must be {version}");
        }
    }
}
