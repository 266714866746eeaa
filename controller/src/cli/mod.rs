//! The command line: what people and CI say to the fleet.

pub mod crds;
pub mod install;

#[derive(clap::Parser, Debug)]
#[command(name = "tidegate", version, about = "Deployment control with supply-chain security")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Print the CustomResourceDefinitions of every kind.
    Crds,
    /// Apply CRDs, accounts, admission policies and roles to a cluster.
    Install(install::InstallArgs),
    /// Run the doors: receive build events.
    Doors(crate::roles::doors::Args),
    /// Run the hub: resolve, verify, stage.
    Hub(crate::roles::hub::Args),
    /// Run the spoke of an environment: roll out, judge, roll back.
    Spoke(crate::roles::spoke::Args),
    /// Run the guard of an environment: answer admission reviews.
    Guard(crate::roles::guard::Args),
}

/// Carries out one command; the exit code is the process's.
pub async fn run(cli: Cli) -> anyhow::Result<std::process::ExitCode> {
    use crate::roles;
    match cli.command {
        Command::Crds => print(&crds::yaml()?),
        Command::Install(args) => install::run(&args).await?,
        Command::Doors(args) => roles::doors::run(args).await?,
        Command::Hub(args) => roles::hub::run(args).await?,
        Command::Spoke(args) => roles::spoke::run(args).await?,
        Command::Guard(args) => roles::guard::run(args).await?,
    }
    Ok(std::process::ExitCode::SUCCESS)
}

/// Standard output is the product of a command, unlike the log on standard error.
#[allow(clippy::print_stdout)]
fn print(text: &str) {
    print!("{text}");
}
