//! `mesh-controller injector`: the mutating webhook, which is a library of its own (`mesh-injector`).

use anyhow::Result;
use mesh_injector::RunArgs;

use crate::args::InjectorArgs;

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(args: InjectorArgs) -> Result<()> {
    let InjectorArgs { common, identity, listen, config } = args;
    mesh_injector::run(RunArgs {
        namespace: common.namespace,
        listen,
        metrics_listen: common.metrics_listen,
        trust_domain: common.trust_domain,
        config,
        identity_addr: identity.identity_addr,
        token_file: identity.token_file,
        trust_bundle_file: identity.trust_bundle_file,
    })
    .await
}
