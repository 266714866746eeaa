//! The command line: what people and CI say to the fleet.

pub mod choose;
pub mod crds;
pub mod documents;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod handbook;
pub mod hub;
pub mod import;
pub mod install;
pub mod lint;
pub mod promotion;
pub mod ship;
pub mod show;
pub mod store;
pub mod verbs;
pub mod verify;

/// Exit code of what was typed wrongly.
pub const USAGE: u8 = 64;
/// Exit code of what gave no answer: a name that is not there, a cluster that does not answer or refuses the call.
pub const NO_ANSWER: u8 = 3;

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
    Get(With<show::GetArgs>),
    /// Show one release with every reason.
    Describe(Named),
    /// Follow one release, live; exit codes as of `status`.
    Watch(Named),
    /// Wait for a release's end; exit code 0 promoted, 1 another end, 2 not in time, else no answer.
    Status(With<show::StatusArgs>),
    /// Ship an image without an event and print the Releases made; exit code 1 none was made, 2 no answer in time.
    Release(With<ship::ReleaseArgs>),
    /// Let the present step pass, or give the approval that is waited for.
    Promote(With<verbs::PromoteArgs>),
    /// Take a release back to weight 0 and do not ship it again.
    Abort(With<verbs::Target>),
    /// Hold a release at its present weight.
    Pause(With<verbs::Target>),
    /// Let a paused release go on.
    Resume(With<verbs::Target>),
    /// Ship a release once more, everywhere.
    Retry(With<verbs::Whole>),
    /// Take a release back everywhere where it passed.
    Undo(With<verbs::Whole>),
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
pub struct Named {
    #[command(flatten)]
    pub hub: hub::HubArgs,
    /// A release, or a pipeline (its release under way, else the one that began last).
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
        Command::Get(c) => print(&show::get(&Hub::connect(&c.hub).await?, &c.args, now).await?),
        Command::Describe(c) => print(&show::describe(&at(&c.hub, &c.name).await?, &c.name).await?),
        Command::Watch(c) => return Ok(show::watch(&at(&c.hub, &c.name).await?, &c.name, clock, print).await?),
        Command::Status(c) => return Ok(show::status(&at(&c.hub, &c.args.name).await?, &c.args, print).await?),
        Command::Release(c) => {
            return Ok(ship::release(&Hub::connect(&c.hub).await?, &c.args, now, print, complain).await?);
        }
        Command::Promote(c) => say(verbs::promote(&at(&c.hub, &c.args.target.name).await?, &c.args).await?),
        Command::Abort(c) => say(verbs::abort(&at(&c.hub, &c.args.name).await?, &c.args).await?),
        Command::Pause(c) => say(verbs::pause(&at(&c.hub, &c.args.name).await?, &c.args).await?),
        Command::Resume(c) => say(verbs::resume(&at(&c.hub, &c.args.name).await?, &c.args).await?),
        Command::Retry(c) => say(verbs::retry(&at(&c.hub, &c.args.name).await?, &c.args).await?),
        Command::Undo(c) => say(verbs::undo(&at(&c.hub, &c.args.name).await?, &c.args).await?),
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

async fn at(args: &hub::HubArgs, name: &str) -> Result<hub::Hub, hub::CliError> {
    hub::Hub::connect_for(args, name).await
}

/// The exit code of a command that failed.
pub fn failure(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<hub::CliError>() {
        return error.code();
    }
    let usage = error.downcast_ref::<install::InstallError>().is_some_and(install::InstallError::is_usage);
    if usage { USAGE } else { NO_ANSWER }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gave_no_answer_has_no_answers_exit_code() {
        let unknown = hub::CliError::NotFound { name: "a".into(), namespace: "b".into() };
        let away = hub::CliError::Unreachable { server: "https://127.0.0.1:1".into(), cause: "refused".into() };
        for (error, code) in [
            (anyhow::Error::from(unknown), 3),
            (anyhow::Error::from(away), 3),
            (anyhow::Error::from(hub::CliError::NothingReleased("a".into())), 3),
            (anyhow::Error::from(hub::CliError::OlderKinds("a".into())), 3),
            (anyhow::Error::from(hub::CliError::MayShip("a".into())), 2),
            (anyhow::Error::from(hub::CliError::Refused("a".into())), 1),
            (anyhow::Error::from(hub::CliError::Usage("a".into())), 64),
            (anyhow::Error::from(install::InstallError::EnvironmentMissing("spoke")), 64),
            (anyhow::anyhow!("anything else"), 3),
        ] {
            assert_eq!(failure(&error), code, "{error}");
        }
    }
}
