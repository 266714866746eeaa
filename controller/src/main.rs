//! One binary, several roles; see `tidegate help`.

use std::process::ExitCode;

use clap::Parser;
use tidegate_controller::cli;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers; what cannot be read is not the `2` of `status` and `verify`.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(cli::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let is_role = cli.command.is_role();
    // Before any TLS: with no default provider rustls cannot choose and panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(filter(if is_role { LevelFilter::INFO } else { LevelFilter::ERROR }))
        .init();
    match cli::run(cli).await {
        Ok(code) => code,
        Err(error) => {
            if is_role {
                tracing::error!(error = %format!("{error:#}"), "stopped");
                ExitCode::FAILURE
            } else {
                report(&error);
                ExitCode::from(cli::failure(&error))
            }
        }
    }
}

/// What the client library says of each single call and each watch that ends: what was called says what it makes of
/// it, and an outage is told once (`reach`).
const ONE_BY_ONE: [&str; 3] =
    ["kube_client::client::builder=off", "kube_client::client=error", "kube_runtime::watcher=error"];

/// `RUST_LOG`, with a level for what it does not name.
fn filter(level: LevelFilter) -> EnvFilter {
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    if filter.to_string().contains("kube_") {
        return filter;
    }
    ONE_BY_ONE.iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive)
}

/// For people: the error and its causes on one line, without a log's frame.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) {
    eprintln!("tidegate: {error:#}");
}
