//! `make demo` and `make up`: the fleet in a network namespace of its own, the acts through real traffic, a live view,
//! and at the end what was expected beside what came out. Exits non-zero when they differ.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod report;
mod rollbacks;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tidegate_tests::acts::{self, Outcome, gate, play, ship, trouble};
use tidegate_tests::parts::Parts;
use tidegate_tests::rig::cluster::ADMIN;
use tidegate_tests::stage::manifests::Shipping;
use tidegate_tests::stage::{Stage, spec};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::{netns, parts};
use tokio::time::Instant;

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
    /// Play only these acts (good, regression, dead, unsigned, sbom, intruder, crash, island).
    #[arg(long, value_delimiter = ',', default_value = "good,regression,dead,unsigned,sbom,intruder,crash")]
    acts: Vec<String>,
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
    // Outside: what has to be built or fetched. Inside there is no route out.
    let parts = parts::ensure()?;
    netns::enter()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        netns::end_on_signal();
        let dir = std::path::absolute(&args.dir)?;
        if args.up { up(&args, &dir, parts).await } else { demo(&args, &dir, parts).await }
    })
}

async fn demo(args: &Args, dir: &std::path::Path, parts: Parts) -> Result<bool> {
    let started = Instant::now();
    let screen = Screen::new(args.plain);
    let shipping = Shipping::through(&["staging", "prod-east", "prod-west"]);
    let mut stage = Stage::start(dir, parts, &shipping, &|line| screen.say(line)).await?;
    stage.start_load()?;
    if let Some(count) = args.rollbacks {
        return rollbacks::run(&stage, count, &args.outcome).await;
    }
    let stage = Arc::new(stage);
    acts::follow(stage.clone());
    screen.show(stage.clone());
    let outcomes = perform(&stage, &args.acts, &screen).await;
    screen.stop().await;
    report::write(&args.outcome, &stage, &outcomes).await?;
    let ok = !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.ok);
    println!("{}", report::table(&outcomes));
    println!(
        "{} in {:.0} s; {}",
        if ok { "as expected" } else { "NOT as expected" },
        started.elapsed().as_secs_f64(),
        args.outcome.display()
    );
    Ok(ok)
}

/// The acts in their order; the gates are tried while the first canaries run.
async fn perform(stage: &Stage, wanted: &[String], screen: &Screen) -> Vec<Outcome> {
    let wants = |name: &str| wanted.iter().any(|wanted| wanted == name);
    let mut outcomes = Vec::new();
    let mut running = stage.first.clone();
    let (good, gates) = tokio::join!(
        async {
            if !wants("good") {
                return None;
            }
            screen.act("good", ship::GOOD);
            let mut shipped = None;
            let outcome = play(stage, "good", ship::GOOD, async {
                let (published, seen) = ship::good(stage, "v1").await?;
                shipped = Some(published);
                Ok(seen)
            })
            .await;
            screen.done(&outcome);
            Some((outcome, shipped))
        },
        gates(stage, &wants, screen),
    );
    if let Some((outcome, shipped)) = good {
        outcomes.push(outcome);
        running = shipped.unwrap_or(running);
    }
    if wants("regression") {
        screen.act("regression", ship::REGRESSION);
        outcomes.push(play(stage, "regression", ship::REGRESSION, ship::regression(stage, "v2", &running)).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    if wants("dead") {
        screen.act("dead", ship::DEAD);
        outcomes.push(play(stage, "dead", ship::DEAD, ship::dead(stage, "v3")).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    outcomes.extend(gates);
    if wants("crash") {
        screen.act("crash", trouble::CRASH);
        outcomes.push(play(stage, "crash", trouble::CRASH, trouble::crash(stage, "v7")).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    if wants("island") {
        screen.act("island", trouble::ISLAND);
        outcomes.push(play(stage, "island", trouble::ISLAND, trouble::island(stage, "v8")).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    outcomes
}

async fn gates(stage: &Stage, wants: &impl Fn(&str) -> bool, screen: &Screen) -> Vec<Outcome> {
    // Let the first canary begin: these are tried beside it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut outcomes = Vec::new();
    if wants("unsigned") {
        screen.act("unsigned", gate::UNSIGNED);
        outcomes.push(play(stage, "unsigned", gate::UNSIGNED, gate::unsigned(stage, "v4")).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    if wants("sbom") {
        screen.act("sbom", gate::SBOM);
        outcomes.push(play(stage, "sbom", gate::SBOM, gate::sbom(stage, "v5")).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    if wants("intruder") {
        screen.act("intruder", gate::INTRUDER);
        let act = async {
            let older = stage.publish(&spec("v0-older", Behavior::version("v0-older"))).await?;
            gate::intruder(stage, "prod-west", &older).await
        };
        outcomes.push(play(stage, "intruder", gate::INTRUDER, act).await);
        screen.done(&outcomes[outcomes.len() - 1]);
    }
    outcomes
}

async fn up(args: &Args, dir: &std::path::Path, parts: Parts) -> Result<bool> {
    let screen = Screen::new(true);
    let shipping = Shipping::through(&["staging", "prod-east", "prod-west"]);
    let mut stage = Stage::start(dir, parts, &shipping, &|line| screen.say(line)).await?;
    stage.start_load()?;
    let stage = Arc::new(stage);
    acts::follow(stage.clone());
    let next = stage.publish(&spec("v1", Behavior::version("v1").errors(0.04))).await.context("an image to ship")?;
    let enter = dir.join("enter");
    let kubectl = stage.fleet.parts.kubectl.parent().context("kubectl lies in a directory")?;
    netns::write_enter_script(&enter, kubectl)?;
    println!("\nThe fleet is up. Inside of its namespace:");
    println!("  hub          {}", stage.fleet.hub.kubeconfig_for(ADMIN)?.display());
    for environment in &stage.fleet.environments {
        let kubeconfig = environment.cluster.kubeconfig_for(ADMIN)?;
        println!("  {:<12} {}   gateway {}", environment.name(), kubeconfig.display(), environment.gateway_url);
    }
    let tidegate = stage.roles.tidegate.display().to_string();
    let hub = stage.fleet.hub.kubeconfig_for(ADMIN)?.display().to_string();
    let enter = enter.display();
    println!("\nThree commands to try, each in another terminal:");
    println!(
        "  {enter} {tidegate} release {} --revision {} --kubeconfig {hub} -n portal",
        next.by_tag(),
        next.revision
    );
    println!("  {enter} {tidegate} watch portal --kubeconfig {hub} -n portal");
    println!("  {enter} {tidegate} describe portal --kubeconfig {hub} -n portal");
    println!("\nCtrl-C ends all of it. Logs: {}", args.dir.join("logs").display());
    std::future::pending().await
}
