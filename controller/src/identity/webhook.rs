//! The `caBundle` of the injector's MutatingWebhookConfiguration: the anchors in force, so that the API server believes
//! the certificate that the injector has from us. Only the leader writes, only that field, and only when it differs.

use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    identity::{
        trust::Bundle,
        trust_pem::{base64, pem, same_anchors},
    },
    kube::named::{Named, limited},
};

/// Keeps the field current.
#[derive(Clone)]
pub(crate) struct WebhookCa {
    /// For the API server.
    pub client: Client,
    /// Name of the MutatingWebhookConfiguration.
    pub name: String,
    /// The anchors in force.
    pub bundle: watch::Receiver<Arc<Bundle>>,
}

impl WebhookCa {
    /// Runs for as long as this replica leads.
    pub(crate) async fn run(mut self) {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let named = Named::new(api.clone(), &self.name);
        loop {
            let anchors = self.bundle.borrow_and_update().clone();
            let mut version = None;
            match named.get().await {
                Ok(Some(configuration)) => {
                    version = configuration.metadata.resource_version.clone();
                    if let Some(patch) = patch(&configuration, &anchors) {
                        self.patch(&api, patch).await;
                    }
                }
                // An installation without injector, or one that is only half there.
                Ok(None) => tracing::debug!("there is no MutatingWebhookConfiguration {}", self.name),
                Err(error) => tracing::warn!("reading the MutatingWebhookConfiguration {}: {error}", self.name),
            }
            tokio::select! {
                () = named.changed(version.as_deref()) => {}
                Ok(()) = self.bundle.changed() => {}
            }
        }
    }

    async fn patch(&self, api: &Api<MutatingWebhookConfiguration>, patch: Value) {
        let outcome = limited(api.patch(&self.name, &PatchParams::default(), &Patch::Strategic(patch))).await;
        match outcome {
            Ok(_) => tracing::info!("the webhooks of {} trust the anchors in force now", self.name),
            Err(error) => tracing::warn!(
                "the caBundle of the MutatingWebhookConfiguration {} could not be set: {error}; trying again. Until then \
                 the API server may not believe the injector; `meshctl upgrade | kubectl apply -f -` sets it, too",
                self.name
            ),
        }
    }
}

/// What sets the field where it differs, by the webhooks' names; the version makes it fail when they are others by now.
fn patch(configuration: &MutatingWebhookConfiguration, anchors: &Bundle) -> Option<Value> {
    let bundle = base64(pem(&anchors.own).as_bytes());
    let others = configuration.webhooks.iter().flatten().filter(|webhook| {
        webhook.client_config.ca_bundle.as_ref().is_none_or(|bundle| !same_anchors(&bundle.0, &anchors.own))
    });
    let others: Vec<_> =
        others.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    let version = &configuration.metadata.resource_version;
    (!others.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": others}))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::time::Duration;

    use super::*;
    use crate::kube::fake::Fake;

    const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mesh-injector";

    fn webhook(name: &str, bundle: Option<&str>) -> Value {
        let mut webhook = json!({"name": name, "clientConfig": {"service": {"name": "mesh-injector", "namespace": "m"}},
            "admissionReviewVersions": ["v1"], "sideEffects": "None", "rules": [{"operations": ["CREATE"]}]});
        if let Some(bundle) = bundle {
            webhook["clientConfig"]["caBundle"] = json!(bundle);
        }
        webhook
    }

    /// The `caBundle` of each webhook.
    fn bundles(fake: &Fake) -> Vec<Value> {
        let webhooks = fake.get(PATH).unwrap()["webhooks"].as_array().unwrap().clone();
        webhooks.iter().map(|webhook| webhook["clientConfig"]["caBundle"].clone()).collect()
    }

    async fn until(fake: &Fake, wanted: &[Value]) {
        let waiting = async {
            while bundles(fake) != wanted {
                fake.event().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(120), waiting).await;
        waited.unwrap_or_else(|_| panic!("{:?}", bundles(fake)));
    }

    #[tokio::test(start_paused = true)]
    async fn set_where_it_differs_again_after_an_edit_and_with_each_new_anchor() {
        let fake = Fake::new();
        let anchors = |byte: u8| Arc::new(Bundle::from(vec![rustls::pki_types::CertificateDer::from(vec![byte; 100])]));
        let text = |byte: u8| pem(&anchors(byte).own);
        let right = |byte: u8| json!(base64(text(byte).as_bytes()));
        // One is right already but for a comment, which is no reason to touch it.
        let commented = base64(format!("# by install\n{}", text(1)).as_bytes());
        let webhooks = [webhook("a.meshctl.dev", None), webhook("b.meshctl.dev", Some(&commented))];
        fake.put(PATH, json!({"metadata": {}, "webhooks": webhooks}));
        let (sender, bundle) = watch::channel(anchors(1));
        let task = WebhookCa { client: fake.client(), name: "mesh-injector".to_owned(), bundle };
        let task = tokio::spawn(task.run());
        until(&fake, &[right(1), json!(commented)]).await;
        assert_eq!(fake.get(PATH).unwrap()["webhooks"][0]["rules"], json!([{"operations": ["CREATE"]}]));
        // An upgrade that renders none.
        fake.put(PATH, json!({"metadata": {}, "webhooks": [webhook("a.meshctl.dev", None)]}));
        until(&fake, &[right(1)]).await;
        sender.send_replace(anchors(2));
        until(&fake, &[right(2)]).await;
        // Gone, and installed again.
        fake.remove(PATH).unwrap();
        fake.put(PATH, json!({"metadata": {}, "webhooks": [webhook("a.meshctl.dev", Some("bm90"))]}));
        until(&fake, &[right(2)]).await;
        let patches = fake.asked().iter().filter(|asked| asked.starts_with("PATCH")).count();
        assert_eq!(patches, 4, "no write without need");
        task.abort();
    }
}
