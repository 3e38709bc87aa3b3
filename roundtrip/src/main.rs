//! Roundtrip in one binary: the three services in one process, and the command line.

mod audit;
mod call;
mod cli;
mod http;
mod moment;
mod out;
mod up;

use std::process::ExitCode;

use clap::CommandFactory;
use shared::settings;

use crate::cli::{Cli, Command};

/// Everything in one process allocates on one thread and frees much of it on the log's. A service by
/// itself gains less, and has a bound on its memory (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match settings::read::<Cli>() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(error.report()),
    };
    match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Up(options) => settings::exit_code(up::up(options)),
        Command::Call(options) => settings::exit_code(call::call(&options)),
        Command::Audit(options) => settings::exit_code(audit::audit(options)),
        Command::Completions { shell } => {
            // Into memory first: `generate` panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "roundtrip", &mut script);
            settings::exit_code(out::print(script))
        }
    }
}
