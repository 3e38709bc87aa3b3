//! The benchmark suite: `cargo run --release -p bench -- <scenario>`.
//!
//! Start reading at [`scenario`], one file for each; they put together a [`deployment`], the
//! [`generator`] that offers load and checks every answer, and a [`report`].
//!
//! **Invariant**: as `e2e`, it knows none of our crates: it sees HTTP, Redis, the database, processes
//! and Docker. What measures the inside of a crate is that crate's own benchmark, which is run by name.

mod cli;
mod compare;
mod deployment;
mod generator;
mod measure;
mod metrics;
mod parts;
mod plot;
mod progress;
mod questions;
mod report;
mod scenario;
mod writes;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser as _;

use cli::{Cli, Command};
use scenario::{in_case, in_cases};

fn main() -> ExitCode {
    match try_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn try_main() -> Result<()> {
    let cli = Cli::parse();
    more_connections()?;
    // One thread: the generator must leave the machine to what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            done = command(cli) => done,
            // What was started is ended by being dropped.
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    })
}

async fn command(cli: Cli) -> Result<()> {
    let date = mongodb::bson::DateTime::now().try_to_rfc3339_string()?;
    let (scenario, found) = match &cli.command {
        Command::Task(args) => (
            "task",
            in_cases(1 + args.beside.len(), async |cases| {
                scenario::task::run(cases, args).await
            })
            .await?,
        ),
        Command::Frontend(args) => (
            "frontend",
            in_case(async |case| scenario::frontend::run(case, args).await).await?,
        ),
        Command::Mix(args) => ("mix", scenario::mix::run(args).await?),
        Command::Scale(args) => ("scale", scenario::scale::run(args).await?),
        Command::Audit(args) => ("audit", scenario::audit::run(args).await?),
        Command::Memory(args) => (
            "memory",
            in_case(async |case| scenario::memory::run(case, args).await).await?,
        ),
        Command::Micro(args) => ("micro", scenario::micro::run(args).await?),
        Command::Floor(args) => (
            "floor",
            in_case(async |case| scenario::floor::run(case, args).await).await?,
        ),
        Command::Peers(args) => (
            "peers",
            in_cases(2, async |cases| scenario::peers::run(cases, args).await).await?,
        ),
        Command::Compare { before, after, all } => {
            say(&compare::compare(before, after, *all)?);
            return Ok(());
        }
        Command::Part { part } => return part.run().await,
    };
    let report = found.into_report(scenario, date).await?;
    let folder = cli
        .out
        .unwrap_or_else(|| report::folder(&report, &deployment::target_folder()));
    say(&report::terminal(&report));
    report::write(&report, &folder)?;
    say(&format!("written to {}", folder.display()));
    Ok(())
}

/// A connection is an open file; the usual limit is 1,024.
fn more_connections() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}

#[expect(clippy::print_stdout, reason = "results are for the terminal")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "errors are for the terminal")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
