//! Tries the rig by hand: `rig up` starts a fleet with a sample service and leaves it running; `rig check` measures it
//! and ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use tidegate_tests::{netns, parts};

mod hand;

#[derive(Parser)]
enum Command {
    /// Builds and downloads what is missing, and nothing else.
    Parts,
    /// Starts a fleet and leaves it running until Ctrl-C.
    Up(Options),
    /// Starts a fleet, sends requests through a gateway for a while, breaks things, and prints figures.
    Check(Options),
}

#[derive(clap::Args)]
struct Options {
    #[arg(long, default_value = "target/rig")]
    dir: PathBuf,
    #[arg(long, value_delimiter = ',', default_value = "staging,prod-east,prod-west")]
    environments: Vec<String>,
}

fn main() -> Result<()> {
    let command = Command::parse();
    let parts = parts::ensure()?;
    let (options, check) = match command {
        Command::Parts => {
            println!("{parts:#?}");
            return Ok(());
        }
        Command::Up(options) => (options, false),
        Command::Check(options) => (options, true),
    };
    netns::enter()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        netns::end_on_signal();
        if check {
            hand::check(&options.dir, &options.environments, parts).await
        } else {
            hand::up(&options.dir, &options.environments, parts).await
        }
    })
}
