//! One binary, several roles; see `tidegate help`.

use std::process::ExitCode;

use clap::Parser;
use tidegate_controller::cli;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // Before any TLS: with no default provider rustls cannot choose and panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
                .from_env_lossy(),
        )
        .init();
    match cli::run(cli).await {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "stopped");
            ExitCode::FAILURE
        }
    }
}
