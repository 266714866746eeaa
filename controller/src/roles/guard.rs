//! The role `guard`: wiring only.

use std::sync::Arc;

use anyhow::Context;
use jiff::SignedDuration;
use serde_json::json;
use tidegate_policies::verifier::Verifier;
use tidegate_webhook::guard::{self, Ahead, Assessor, Decided, Guard, KubeCluster, Metrics, Recorder, Settings};
use tidegate_webhook::serve::{Limits, Transport};
use tidegate_webhook::tls::Certificates;

use super::parts::{self, Parts};
use super::{CommonArgs, attended, shutdown_signal, stopped};
use crate::ledger::{DecisionRecord, Ledger, LogLedger};
use crate::registry::RegistryArgs;
use crate::serve::Telemetry;
use crate::{clock, connect};

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub registry: RegistryArgs,
    /// Name of this environment.
    #[arg(long)]
    pub environment: String,
    /// Address of the admission webhook.
    #[arg(long, default_value = "127.0.0.1:9443")]
    pub listen: std::net::SocketAddr,
    /// TLS certificate chain (PEM), read per connection so that a rotation needs no restart.
    #[arg(long)]
    pub tls_cert: std::path::PathBuf,
    #[arg(long)]
    pub tls_key: std::path::PathBuf,
    /// Authorities (PEM) of which the API server has to show a client certificate, read per connection. Without it
    /// whoever reaches the port may ask: see `Who may ask the guard` in docs/operations.md.
    #[arg(long)]
    pub client_ca: Option<std::path::PathBuf>,
    /// Namespaces that are not judged, by name. The webhook configuration leaves out the same ones.
    #[arg(long, value_delimiter = ',', default_value = "kube-system,kube-node-lease,tidegate-system")]
    pub excluded_namespaces: Vec<String>,
    /// How long a verdict that expired still lets the digest that is stable there restart.
    #[arg(long, default_value = "24h")]
    pub restart_grace: tidegate_pipelines::api::Span,
    /// The webhook configuration's timeoutSeconds, used where the request does not say it.
    #[arg(long, default_value = "5s")]
    pub webhook_timeout: tidegate_pipelines::api::Span,
}

/// Runs until SIGTERM, or until a part of it ends by itself.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let client = connect::client(args.common.kubeconfig.as_deref()).await?;
    let certificates = match &args.client_ca {
        Some(clients) => Certificates::load_for_clients_of(clients, &args.tls_cert, &args.tls_key).await?,
        None => Certificates::load(&args.tls_cert, &args.tls_key).await?,
    };
    let listener =
        tokio::net::TcpListener::bind(args.listen).await.with_context(|| format!("listen on {}", args.listen))?;
    let wall = clock::wall();
    let now: tidegate_webhook::Now = Arc::new(move || wall.now());

    let telemetry = Telemetry::default();
    let metrics = Metrics::default();
    metrics.register(&mut *telemetry.registry.write().await);

    let (cluster, watches) = KubeCluster::new(client, &args.environment);
    // Well below the container's memory limit, whoever asks for however much.
    let verifier = Arc::new(Verifier::new(Arc::new(args.registry.fetch()?)).with_room(128));
    let assessor = Arc::new(Assessor::new(cluster.clone(), verifier, now.clone(), metrics.clone()));
    let ahead = Ahead::new(cluster.clone(), assessor.clone(), now.clone());
    let guard = Arc::new(Guard {
        cluster: cluster.clone(),
        assessor,
        settings: Settings {
            environment: args.environment.clone(),
            excluded: args.excluded_namespaces.iter().cloned().collect(),
            restart_grace: SignedDuration::from_secs(args.restart_grace.as_duration().as_secs() as i64),
            timeout: args.webhook_timeout.as_duration(),
        },
        now,
        metrics,
        recorder: Arc::new(ToLedger { actor: format!("guard/{}", args.environment), ledger: LogLedger }),
    });

    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let mut parts = Parts::default();
    parts.spawn("watches", watches);
    parts.spawn("what requests could not wait for", ahead.finishing());
    parts.spawn("verifying ahead", ahead.run(cluster.changes()));
    parts.spawn("side port", args.common.side_port(telemetry.clone(), shutdown.clone()));
    parts.spawn("readiness", {
        let (cluster, telemetry) = (cluster.clone(), telemetry.clone());
        async move {
            cluster.synced().await;
            telemetry.set_ready(true);
            std::future::pending().await
        }
    });
    tracing::info!(address = %args.listen, environment = args.environment, client_certificates = args.client_ca.is_some(), "the guard answers");
    let transport = Transport::Tls(Arc::new(certificates));
    let serving = guard::route::run(guard, listener, transport, Limits::default(), stopped(shutdown.clone()));
    parts::run(parts, stop, shutdown_signal(), attended(serving, telemetry, shutdown)).await
}

struct ToLedger<L> {
    actor: String,
    ledger: L,
}

impl<L: Ledger> Recorder for ToLedger<L> {
    fn decided(&self, decided: &Decided) {
        let reasons: Vec<_> = decided.answer.findings.iter().map(|(reason, _)| reason.as_str()).collect();
        let (policy, policy_digest) = decided.policy.clone().unzip();
        self.ledger.record(&DecisionRecord {
            at: decided.at,
            actor: self.actor.clone(),
            subject: decided.title.clone(),
            reason: decided.reason().to_owned(),
            message: decided.message(),
            inputs: json!({
                "user": decided.user,
                "allowed": decided.answer.allowed,
                "reasons": reasons,
                "exceptions": decided.exceptions(),
                "policy": policy,
                "policyDigest": policy_digest,
                "dryRun": decided.dry_run,
            }),
        });
    }
}
