//! Who may look at what passes is the API server's to say: it takes `pods/portforward` in that namespace, and nothing else.

use std::{fs, process::Output};

use serde_json::{Value, json};

use crate::kube::{Namespace, apply, kubectl, try_meshctl, wait};

fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn who_may_not_forward_ports_is_told_what_to_ask_for() {
    let namespace = Namespace::new("tapped", false);
    let name = namespace.0.as_str();
    kubectl(&["create", "serviceaccount", "looker", "-n", name]);
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"])).expect("JSON");
    let token = kubectl(&["create", "token", "looker", "-n", name]);
    let users = config["users"].as_array_mut().expect("users");
    users.iter_mut().for_each(|user| user["user"] = json!({ "token": token.trim() }));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), config.to_string()).expect("it is written");
    let path = file.path().to_string_lossy().into_owned();
    // The pod is not there, which only who may forward its ports is told.
    let ask = || said(&try_meshctl(&["tap", "pod/web", "-n", name, "--kubeconfig", &path]));
    let refused = ask();
    assert!(refused.contains("`pods/portforward`") && refused.contains("looker"), "{refused}");
    apply(&format!(
        "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: look, namespace: {name}}}\nrules:\n\
         - {{apiGroups: [''], resources: [pods/portforward], verbs: [create, get]}}\n\
         ---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: look, namespace: {name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: look}}\n\
         subjects: [{{kind: ServiceAccount, name: looker, namespace: {name}}}]\n"
    ));
    wait("the permission to be enough", || Some(ask()).filter(|said| said.contains("not found")));
}
