//! `cargo run --release -p e2e --bin chaos -- --help`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to the terminal"
)]

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, builder::PossibleValuesParser};
use e2e::{
    case::Case,
    chaos::{
        self, Length, Settings,
        scenarios::{self, Scenario},
        swarm::{self, SwarmScenario},
        verdict::{self, Verdict},
    },
    environment,
};

const EXAMPLES: &str = "\
Examples:
  chaos --seed 7                                     every scenario once
  chaos --seed 7 --minutes 60 --markdown table.md    again and again for an hour
  chaos --seed 7 --scenario database-killed          one alone
  chaos --list
  eval \"$(cargo xtask servers up)\" && cargo xtask images --release && chaos --swarm

Exit codes: 0 all holds, 1 something does not, 2 wrong usage.";

/// Breaks things under load, and checks that nothing is lost, wrong or left hanging.
///
/// Starts Redis, a MongoDB-protocol server, two frontends, two events services and six backends,
/// offers tasks at a fixed rate, injects the faults of the seed's schedule, and compares what
/// callers got with what the audit log says. What it needs it builds or installs.
#[derive(Parser)]
#[command(name = "chaos", after_help = EXAMPLES)]
struct Cli {
    /// Decides what is broken and when; a random one if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Play the scenarios again, with following seeds, until this time is over.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// Only this scenario; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = names())]
    scenario: Vec<String>,
    /// On a Docker swarm: the scenarios of the engine. DOCKER_HOST must name one that has the images
    /// of `cargo xtask images`.
    #[arg(long)]
    swarm: bool,
    /// Requests a second.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    rate: u32,
    /// The load of each scenario goes on until it has offered so many requests.
    #[arg(long, default_value_t = 0)]
    requests: u32,
    /// What lasts ten seconds lasts three, as in the tests.
    #[arg(long)]
    short: bool,
    /// Also write the table as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Say which scenarios there are, and end.
    #[arg(long)]
    list: bool,
}

/// A scenario of either mode.
#[derive(Clone, Copy)]
enum Chosen {
    Processes(&'static Scenario),
    Swarm(&'static SwarmScenario),
}

impl Chosen {
    /// All of a mode, in the order in which they are played.
    fn all(swarm: bool) -> Vec<Self> {
        if swarm {
            swarm::SCENARIOS.iter().map(Self::Swarm).collect()
        } else {
            scenarios::all().map(Self::Processes).collect()
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Processes(scenario) => scenario.name,
            Self::Swarm(scenario) => scenario.name,
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Processes(scenario) => scenario.about,
            Self::Swarm(scenario) => scenario.about,
        }
    }
}

fn names() -> PossibleValuesParser {
    let all = Chosen::all(false).into_iter().chain(Chosen::all(true));
    PossibleValuesParser::new(all.map(Chosen::name))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        list();
        return ExitCode::SUCCESS;
    }
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for swarm in [false, true] {
        if swarm {
            println!("\nwith --swarm:");
        }
        for scenario in Chosen::all(swarm) {
            println!("{:23}  {}", scenario.name(), scenario.about());
        }
    }
}

/// Plays what is asked for, prints the table, and answers whether all holds.
fn run(cli: &Cli) -> Result<bool> {
    environment::provide()?;
    let first_seed = cli.seed.unwrap_or_else(rand::random);
    let chosen: Vec<_> = Chosen::all(cli.swarm)
        .into_iter()
        .filter(|scenario| {
            cli.scenario.is_empty() || cli.scenario.iter().any(|name| name == scenario.name())
        })
        .collect();
    if chosen.is_empty() {
        bail!("these scenarios are those of the other mode: with or without --swarm?");
    }
    let limit = Duration::from_secs(cli.minutes * 60);
    let started = Instant::now();
    let mut verdicts = Vec::new();
    let mut interrupted = None;
    'rounds: for round in 0.. {
        for &scenario in &chosen {
            if round > 0 && started.elapsed() >= limit {
                break 'rounds;
            }
            let settings = Settings {
                seed: first_seed.wrapping_add(round),
                rate: cli.rate,
                length: if cli.short {
                    Length::Short
                } else {
                    Length::Full
                },
                requests: cli.requests,
            };
            match play(scenario, settings) {
                Ok(verdict) => verdicts.push(verdict),
                Err(error) => {
                    interrupted = Some(error);
                    break 'rounds;
                }
            }
        }
    }
    let table = verdict::table(&verdicts);
    println!("{table}");
    if let Some(path) = &cli.markdown {
        std::fs::write(path, verdict::markdown(&verdicts))
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(error) = interrupted {
        return Err(error);
    }
    let holds = verdicts.iter().all(Verdict::holds);
    let outcome = if holds { "all holds" } else { "NOT all holds" };
    println!(
        "{outcome}; {} scenarios from seed {first_seed}",
        verdicts.len()
    );
    Ok(holds)
}

fn play(scenario: Chosen, settings: Settings) -> Result<Verdict> {
    let case = Case::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (name, seed) = (scenario.name(), settings.seed);
    let tell = |line: &str| eprintln!("{name} (seed {seed}) {line}");
    let verdict = runtime.block_on(async {
        let play = async {
            match scenario {
                Chosen::Processes(scenario) => chaos::play(&case, scenario, settings, tell).await,
                Chosen::Swarm(scenario) => swarm::play(&case, scenario, settings, tell).await,
            }
        };
        tokio::select! {
            verdict = play => verdict,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    });
    if !verdict.as_ref().is_ok_and(Verdict::holds) {
        eprintln!(
            "{name} (seed {seed}) FAILED; logs in {}",
            case.keep()?.display()
        );
    }
    verdict
}
