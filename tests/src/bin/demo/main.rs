//! `make demo` and `make up`: the fleet in a network namespace of its own, the acts through real traffic, a live view,
//! and at the end what was expected beside what came out. Exits non-zero when they differ.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod layout;
mod program;
mod report;
mod rollbacks;
mod screen;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::claim;
use tidegate_tests::stage::Stage;
use tidegate_tests::stage::manifests::Shipping;
use tidegate_tests::{acts, netns, parts};

use program::{Act, Program};
use screen::Screen;

#[derive(Parser)]
#[command(about = "Plays Tidegate's acts on a fleet of real control planes")]
struct Args {
    /// Start the fleet and leave it to play with until Ctrl-C.
    #[arg(long)]
    up: bool,
    /// Instead of the acts: measure this many rollbacks and write their figures.
    #[arg(long)]
    rollbacks: Option<usize>,
    /// Play only these acts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Act::STANDARD)]
    acts: Vec<Act>,
    /// Where logs, keys and data of the run go.
    #[arg(long, default_value = "target/demo/run")]
    dir: PathBuf,
    /// Where the outcome is written.
    #[arg(long, default_value = "target/demo/outcome.json")]
    outcome: PathBuf,
    /// One plain line per event instead of a live view.
    #[arg(long, env = "CI", value_parser = clap::builder::BoolishValueParser::new(), default_value = "false")]
    plain: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let args = Args::parse();
    let dir = std::path::absolute(&args.dir)?;
    claim::is_free(&dir)?;
    // Outside: what has to be built or fetched. Inside there is no route out.
    let parts = parts::ensure()?;
    // Ctrl-C is how `--up` is meant to end; a demo is cut short by it.
    let interrupted = if args.up { 0 } else { netns::INTERRUPTED };
    netns::enter_until(interrupted)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        netns::end_on_signal_with(interrupted);
        let screen = Screen::new(args.plain || args.up);
        if !args.up {
            report::forget(&args.outcome)?;
        }
        let stage = fleet(&dir, parts, &screen).await?;
        if args.up { up::up(Arc::new(stage), &dir, &screen).await } else { demo(&args, stage, &screen).await }
    })
}

async fn fleet(dir: &Path, parts: Parts, screen: &Screen) -> Result<Stage> {
    let shipping = Shipping::through(&["staging", "prod-east", "prod-west"]);
    let mut stage = Stage::start(dir, parts, &shipping, &|line| screen.say(line)).await?;
    stage.start_load()?;
    Ok(stage)
}

async fn demo(args: &Args, stage: Stage, screen: &Screen) -> Result<bool> {
    if let Some(count) = args.rollbacks {
        return rollbacks::run(&stage, count, &args.outcome).await;
    }
    let stage = Arc::new(stage);
    acts::follow(stage.clone());
    screen.show(stage.clone());
    let outcomes = Program::of(&args.acts).perform(&stage, screen).await;
    screen.stop().await;
    let seconds = screen.seconds();
    report::write(&args.outcome, &stage, &outcomes, seconds).await?;
    let ok = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.ok);
    println!("{}", report::table(&outcomes));
    let word = if ok { "as expected" } else { "NOT as expected" };
    println!("{word} in {seconds:.0} s; {}", args.outcome.display());
    Ok(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_that_does_not_exist_is_refused_before_anything_starts() {
        let refused = Args::try_parse_from(["demo", "--acts", "good,nosuch"]).err().unwrap().to_string();
        assert!(refused.contains("nosuch") && refused.contains("regression"), "{refused}");
        let some = Args::try_parse_from(["demo", "--acts", "unsigned,good"]).unwrap();
        assert_eq!(some.acts, [Act::Unsigned, Act::Good]);
        assert_eq!(Args::try_parse_from(["demo"]).unwrap().acts, Act::STANDARD);
    }
}
