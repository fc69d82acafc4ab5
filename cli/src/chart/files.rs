//! The chart's files, inside the program: `meshctl install` needs no folder beside it.
//!
//! They are named one by one, so that the compiler sees when one changes; a test compares with the folder.

macro_rules! templates {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../charts/mesh/templates/", $name)))),+]
    };
}

macro_rules! definitions {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../../charts/mesh/crds/", $name)))),+]
    };
}

/// `Chart.yaml`.
pub(super) const CHART: &str = include_str!("../../../charts/mesh/Chart.yaml");
/// `values.yaml`: the default of every value.
pub(super) const VALUES: &str = include_str!("../../../charts/mesh/values.yaml");
/// Named parts that templates include.
pub(super) const HELPERS: &str = include_str!("../../../charts/mesh/templates/_helpers.tpl");
/// Templates with their names, in the order of the names, which is the order Helm takes them in.
pub(super) const TEMPLATES: &[(&str, &str)] = templates![
    "admission-policies.yaml",
    "aggregated-roles.yaml",
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
    "podmonitor.yaml",
    "trust.yaml",
    "webhook.yaml",
];

/// CustomResourceDefinitions with their names: files that Helm does not render.
pub(crate) const DEFINITIONS: &[(&str, &str)] =
    definitions!["authorizationpolicies.yaml", "clusterauthorizationpolicies.yaml", "retrypolicies.yaml"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_file_of_the_chart_is_embedded() {
        for (folder, embedded) in [("templates", TEMPLATES), ("crds", DEFINITIONS)] {
            let path = format!("{}/../charts/mesh/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut there: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name != "_helpers.tpl")
                .collect();
            there.sort();
            let embedded: Vec<&str> = embedded.iter().map(|(name, _)| *name).collect();
            assert_eq!(embedded, there, "files.rs lists the files of {folder} in the order of their names");
        }
    }

    #[test]
    fn chart_and_program_have_one_version() {
        let version = env!("CARGO_PKG_VERSION");
        for key in ["version", "appVersion"] {
            assert!(CHART.contains(&format!("\n{key}: {version}\n")), "{key} of Chart.yaml must be {version}");
        }
    }
}
