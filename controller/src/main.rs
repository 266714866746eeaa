//! One binary, several roles; see `tidegate help`.

use std::process::ExitCode;

use clap::Parser;
use tidegate_controller::cli;
use tracing::level_filters::LevelFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let is_role = cli.command.is_role();
    // Before any TLS: with no default provider rustls cannot choose and panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::builder()
                .with_default_directive(if is_role { LevelFilter::INFO } else { LevelFilter::ERROR }.into())
                .from_env_lossy(),
        )
        .init();
    match cli::run(cli).await {
        Ok(code) => code,
        Err(error) => {
            if is_role {
                tracing::error!(error = %format!("{error:#}"), "stopped");
            } else {
                report(&error);
            }
            ExitCode::FAILURE
        }
    }
}

/// For people: the error and its causes on one line, without a log's frame.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) {
    eprintln!("tidegate: {error:#}");
}
