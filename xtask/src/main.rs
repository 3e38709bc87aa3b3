//! Chores of the project: the test command, servers for tests, images. `cargo xtask --help`.
//!
//! Start reading at [`mod@test`], which uses everything else: [`servers`] finds or starts Redis, a
//! MongoDB-protocol server and a Docker engine, [`images`] makes the images for the swarm tests,
//! [`install`] fetches what a fresh machine lacks, and [`process`] runs other programs such that
//! Ctrl-C stops them and the servers too.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to the terminal"
)]

mod deny;
mod images;
mod install;
mod peers;
mod process;
mod servers;
mod summary;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Chores of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Get and start what the tests need, run all of them, stop what was started.
    ///
    /// Redis, a MongoDB-protocol server and a Docker engine are taken, in this order, from the
    /// environment (ROUNDTRIP_TEST_REDIS=host:port, ROUNDTRIP_TEST_MONGO=mongodb://..., DOCKER_HOST),
    /// from `cargo xtask servers up`, from programs on this machine, from Docker images, or, on
    /// Debian as root, from packages. One that cannot be had is an error, never a skipped test.
    Test(TestArgs),
    /// Servers for tests that stay up between runs of `cargo xtask test` or `cargo test -p e2e`.
    Servers {
        #[command(subcommand)]
        action: ServersAction,
    },
    /// Get the programs from which tests, measurements and the chaos harness start servers of their
    /// own, and print where they are, for the shell: eval "$(cargo xtask programs)"
    Programs,
    /// Get the programs that `bench peers` measures beside ours: nats-server, node and npm.
    Peers,
    /// Build the images that the swarm tests use, in the engine of the tests.
    Images(ImagesArgs),
    /// Check the dependencies with cargo-deny (bans, licences, sources, advisories), which is
    /// installed if it is not there.
    Deny,
}

/// What `cargo xtask test` is told.
#[derive(Args)]
struct TestArgs {
    /// Only the tests that need nothing but cargo.
    #[arg(long)]
    fast: bool,
    /// Leave out the tests that need a Docker engine: those of the swarm and of foreign services.
    #[arg(long, conflicts_with = "fast")]
    no_swarm: bool,
    /// Test what is built with the release profile.
    #[arg(long)]
    release: bool,
    /// Passed on to the test programs: name filters and their options.
    #[arg(last = true)]
    filters: Vec<String>,
}

#[derive(Subcommand)]
enum ServersAction {
    /// Start them, wait until they answer, and print their addresses for the shell:
    /// eval "$(cargo xtask servers up)"
    Up {
        /// Without the Docker engine.
        #[arg(long)]
        no_swarm: bool,
    },
    /// Print the addresses of those that are up.
    Env,
    /// Stop them.
    Down,
}

/// What `cargo xtask images` is told.
#[derive(Args)]
struct ImagesArgs {
    /// Tag of the services' images.
    #[arg(long, default_value = images::TEST_TAG)]
    tag: String,
    /// Build the binaries with the release profile.
    #[arg(long)]
    release: bool,
    /// Only the base images and the stand-ins, not the services.
    #[arg(long)]
    base_only: bool,
}

fn main() -> ExitCode {
    let outcome = process::watch_interrupts().and_then(|()| match Cli::parse().chore {
        Chore::Test(args) => test::run(&args),
        Chore::Servers { action } => match action {
            ServersAction::Up { no_swarm } => servers::up(!no_swarm),
            ServersAction::Env => servers::env(),
            ServersAction::Down => servers::down(),
        }
        .map(|()| ExitCode::SUCCESS),
        Chore::Programs => servers::print_programs().map(|()| ExitCode::SUCCESS),
        Chore::Peers => peers::get().map(|()| ExitCode::SUCCESS),
        Chore::Images(args) => images::chore(&args).map(|()| ExitCode::SUCCESS),
        Chore::Deny => deny::run(),
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
