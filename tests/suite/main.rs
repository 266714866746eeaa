//! The suite against real parts: `main` makes what is missing outside, enters a network namespace of the run's own and
//! runs the cases there, one after another (`--test-threads` for more; names filter as with `cargo test`).
//! A case never builds or downloads anything, and leaves nothing behind that another one could trip over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

mod acts;
mod api_objects;
mod case;
mod must_hold;
mod world;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Trial};
use tidegate_tests::{netns, parts};

use case::Case;
use world::World;

/// In this order: an API server alone first, since the stage takes its address.
fn cases() -> Vec<Case> {
    let mut cases = api_objects::cases();
    cases.extend(acts::cases());
    cases.extend(must_hold::cases());
    cases
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("the suite cannot run: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let listed = |case: &Case| Trial::test(case.name, || Ok(())).with_ignored_flag(case.slow);
    let runs = |case: &Case| !arguments.is_filtered_out(&listed(case));
    let wanted = cases().iter().any(runs);
    let environments = if cases().iter().any(|case| case.name.starts_with(acts::PREFIX) && runs(case)) {
        3
    } else {
        1 + usize::from(cases().iter().any(|case| case.wide && runs(case)))
    };
    if arguments.list || !wanted {
        return Ok(libtest_mimic::run(arguments, cases().iter().map(listed).collect()).exit_code());
    }
    let tidegate = world::built_binary()?;
    let parts = parts::ensure()?;
    netns::enter()?;

    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let _inside = runtime.enter();
    netns::end_on_signal();
    let world = Arc::new(World::new(parts, tidegate, environments));
    let trials = cases()
        .into_iter()
        .map(|case| {
            let (world, handle) = (world.clone(), runtime.handle().clone());
            let (run, slow) = (case.run, case.slow);
            Trial::test(case.name, move || handle.block_on(run(world)).map_err(|error| format!("{error:#}").into()))
                .with_ignored_flag(slow)
        })
        .collect();
    Ok(libtest_mimic::run(arguments, trials).exit_code())
}
