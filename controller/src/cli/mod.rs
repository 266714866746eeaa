//! The command line: what people and CI say to the fleet.

pub mod crds;
pub mod documents;
#[cfg(test)]
mod handbook;
pub mod hub;
pub mod import;
pub mod install;
pub mod lint;
pub mod show;
pub mod verbs;
pub mod verify;

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
    /// List pipelines and releases.
    Get(HubOnly),
    /// Show one release with every reason.
    Describe(Named),
    /// Follow one release, live.
    Watch(Named),
    /// Wait for a release's end; exit code 0 promoted, 1 another end, 2 not in time.
    Status(With<show::StatusArgs>),
    /// Ship an image without an event.
    Release(With<verbs::ReleaseArgs>),
    /// Let the present step pass, or give the approval that is waited for.
    Promote(With<verbs::PromoteArgs>),
    /// Take a release back to weight 0 and do not ship it again.
    Abort(With<verbs::Target>),
    /// Hold a release at its present weight.
    Pause(With<verbs::Target>),
    /// Let a paused release go on.
    Resume(With<verbs::Target>),
    /// Ship a release once more.
    Retry(With<verbs::Target>),
    /// Take a release back where it passed.
    Undo(With<verbs::Target>),
    /// Say what is wrong with manifests of ours, without a cluster.
    Lint(lint::LintArgs),
    /// Verify an image against a policy file; exit code 0 Allow, 1 Deny, 2 Error.
    Verify(verify::VerifyArgs),
    /// Work on policy files.
    #[command(subcommand)]
    Policy(import::PolicyCommand),
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

impl Command {
    /// Whether it runs until stopped and logs for machines.
    pub fn is_role(&self) -> bool {
        matches!(self, Command::Doors(_) | Command::Hub(_) | Command::Spoke(_) | Command::Guard(_))
    }
}

/// A command's own arguments beside those of the connection to the hub.
#[derive(clap::Args, Clone, Debug)]
pub struct With<T: clap::Args> {
    #[command(flatten)]
    pub hub: hub::HubArgs,
    #[command(flatten)]
    pub args: T,
}

#[derive(clap::Args, Clone, Debug)]
pub struct HubOnly {
    #[command(flatten)]
    pub hub: hub::HubArgs,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Named {
    #[command(flatten)]
    pub hub: hub::HubArgs,
    /// A release, or a pipeline (its newest release).
    pub name: String,
}

/// Carries out one command; the exit code is the process's.
pub async fn run(cli: Cli) -> anyhow::Result<std::process::ExitCode> {
    use crate::roles;
    use hub::Hub;
    let clock = crate::clock::wall();
    let now = clock.now();
    match cli.command {
        Command::Crds => print(&crds::yaml()?),
        Command::Get(c) => print(&show::get(&Hub::connect(&c.hub).await?, now).await?),
        Command::Describe(c) => print(&show::describe(&Hub::connect(&c.hub).await?, &c.name).await?),
        Command::Watch(c) => return Ok(show::watch(&Hub::connect(&c.hub).await?, &c.name, clock, print).await?),
        Command::Status(c) => return Ok(show::status(&Hub::connect(&c.hub).await?, &c.args, print).await?),
        Command::Release(c) => say(verbs::release(&Hub::connect(&c.hub).await?, &c.args, now).await?),
        Command::Promote(c) => say(verbs::promote(&Hub::connect(&c.hub).await?, &c.args, None).await?),
        Command::Abort(c) => say(verbs::abort(&Hub::connect(&c.hub).await?, &c.args).await?),
        Command::Pause(c) => say(verbs::pause(&Hub::connect(&c.hub).await?, &c.args).await?),
        Command::Resume(c) => say(verbs::resume(&Hub::connect(&c.hub).await?, &c.args).await?),
        Command::Retry(c) => say(verbs::retry(&Hub::connect(&c.hub).await?, &c.args).await?),
        Command::Undo(c) => say(verbs::undo(&Hub::connect(&c.hub).await?, &c.args).await?),
        Command::Lint(args) => return Ok(lint::run(&args, say)),
        Command::Verify(args) => return Ok(verify::run(&args, now, print, complain).await),
        Command::Policy(import::PolicyCommand::Import(args)) => return Ok(import::run(&args, print, complain)),
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

fn say(line: String) {
    print(&format!("{line}\n"));
}

/// What kept a command from its answer.
#[allow(clippy::print_stderr)]
fn complain(line: &str) {
    eprintln!("{line}");
}
