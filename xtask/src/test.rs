//! The test command.
//!
//! Everything is compiled at once and the test programs are run from here, one after the other, rather
//! than by one `cargo test` per kind of test: each of those chooses features of the dependencies anew
//! and would compile half of them again.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::summary::Summary;
use crate::{TestArgs, images, process, servers::Servers, workspace};

/// Another tag of the same services, for tests that update one to a new image.
const NEXT_TAG: &str = "test-next";

/// The package whose tests see the product from outside. They share one swarm and measure times, so
/// they run one at a time.
const END_TO_END: &str = "e2e";
/// Package and beginning of the names of tests that need a Docker engine.
const NEED_DOCKER: [(&str, &str); 3] = [
    (END_TO_END, "swarm::"),
    (END_TO_END, "foreign::"),
    ("shared", "docker::the_docker_engine_is_a_discovery"),
];

/// Runs of the simulation. Plain `cargo test` makes fewer, to stay quick; all of these take a minute or
/// two. A number in the environment comes first.
const SIMULATION_SEEDS: (&str, &str) = ("SIMULATION_SEEDS", "10000");

/// How long one test program may run. The longest, of the swarm, is expected to take some ten minutes;
/// without a limit a test that hangs would say nothing at all.
const PROGRAM_MAX: Duration = Duration::from_secs(45 * 60);

/// How long compiling may take: some minutes from nothing on two cores.
const BUILD_MAX: Duration = Duration::from_secs(45 * 60);

/// What `cargo xtask test` does.
///
/// # Errors
/// Something does not compile, a server cannot be had, or we are interrupted. A failed test is not an
/// error but the exit code.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let mut run = Run {
        summary: Summary::default(),
        args,
    };
    if args.fast {
        run.cargo_test(&[])?;
    } else {
        let built = build(args.release)?;
        let servers = Servers::get(!args.no_swarm)?;
        let mut environment = servers.environment()?;
        environment.push((
            "ROUNDTRIP_TEST_BIN_DIR",
            built.bin_dir.display().to_string(),
        ));
        if std::env::var_os(SIMULATION_SEEDS.0).is_none() {
            environment.push((SIMULATION_SEEDS.0, SIMULATION_SEEDS.1.to_owned()));
        }
        if let Some(host) = servers.docker_host() {
            images::make_base_images(host)?;
            images::make_service_images(host, &built.bin_dir, &[images::TEST_TAG, NEXT_TAG])?;
            environment.push(("ROUNDTRIP_TEST_IMAGE_TAG", images::TEST_TAG.to_owned()));
            environment.push(("ROUNDTRIP_TEST_IMAGE_TAG_NEXT", NEXT_TAG.to_owned()));
        }
        for program in built.in_order() {
            run.test_program(program, &environment)?;
        }
        run.cargo_test(&["--workspace", "--doc", SERVERS_FEATURES])?;
        // Before the summary, which is to be the last line.
        drop(servers);
    }
    println!("\n{}", run.summary);
    Ok(if run.summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Adds the tests of ports on real servers, which plain `cargo test` leaves out.
const SERVERS_FEATURES: &str = "--features=shared/servers,events-service/servers";

/// A run of tests.
struct Run<'a> {
    summary: Summary,
    args: &'a TestArgs,
}

impl Run<'_> {
    fn cargo_test(&mut self, options: &[&str]) -> Result<()> {
        let mut command = workspace::cargo();
        command.args(["test", "--no-fail-fast"]).args(options);
        if self.args.release {
            command.arg("--release");
        }
        command.arg("--").args(&self.args.filters);
        self.count(&mut command, "cargo test")
    }

    fn test_program(
        &mut self,
        program: &TestProgram,
        environment: &[(&'static str, String)],
    ) -> Result<()> {
        println!("\n     Running {} {}", program.package, program.source);
        let mut command = Command::new(&program.executable);
        command
            .current_dir(&program.package_dir)
            .env("CARGO_MANIFEST_DIR", &program.package_dir)
            .envs(environment.iter().map(|(name, value)| (name, value)));
        if program.package == END_TO_END {
            command.arg("--test-threads=1");
        }
        for (package, name) in NEED_DOCKER {
            if self.args.no_swarm && program.package == package {
                command.args(["--skip", name]);
            }
        }
        command.args(&self.args.filters);
        self.count(&mut command, &program.package)
    }

    /// Runs a program that runs tests, and adds what it reports to the sum.
    fn count(&mut self, command: &mut Command, name: &str) -> Result<()> {
        let mut summary = self.summary;
        let status = process::run_with_lines(PROGRAM_MAX, command, |line| {
            println!("{line}");
            summary.see(line);
        })?;
        if !status.success() && summary.failed == self.summary.failed {
            // A program that crashed, or did not compile, tells no numbers.
            println!("{name} ended without a report ({status}): counted as one failed test");
            summary.failed += 1;
        }
        self.summary = summary;
        Ok(())
    }
}

/// What the compiler made.
#[derive(Default)]
struct Built {
    tests: Vec<TestProgram>,
    bin_dir: PathBuf,
}

impl Built {
    /// The quick ones first, those of the whole product last.
    fn in_order(&self) -> impl Iterator<Item = &TestProgram> {
        let of = |end_to_end| {
            self.tests
                .iter()
                .filter(move |program| (program.package == END_TO_END) == end_to_end)
        };
        of(false).chain(of(true))
    }
}

/// A program that runs tests.
#[derive(Debug, PartialEq)]
struct TestProgram {
    package: String,
    package_dir: PathBuf,
    /// What it was compiled from, relative to the package.
    source: String,
    executable: PathBuf,
}

/// Compiles everything: services, test programs, examples.
fn build(release: bool) -> Result<Built> {
    let mut command = workspace::cargo();
    command.args([
        "build",
        "--workspace",
        "--all-targets",
        SERVERS_FEATURES,
        "--message-format=json-render-diagnostics",
    ]);
    if release {
        command.arg("--release");
    }
    let mut built = Built {
        bin_dir: workspace::bin_dir(release)?,
        ..Built::default()
    };
    let mut unreadable = None;
    let status =
        process::run_with_lines(BUILD_MAX, &mut command, |line| {
            match serde_json::from_str(line) {
                Ok(message) => built.tests.extend(test_program(&message)),
                Err(error) => unreadable = Some(error),
            }
        })?;
    if !status.success() {
        bail!("it does not compile");
    }
    if let Some(error) = unreadable {
        return Err(error).context("cannot read what cargo build prints");
    }
    Ok(built)
}

/// The test program that a message of cargo's announces, if it does.
fn test_program(message: &Value) -> Option<TestProgram> {
    // Benchmarks are compiled along, so that they stay compilable, and not run.
    let is_bench = message["target"]["kind"] == serde_json::json!(["bench"]);
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true || is_bench {
        return None;
    }
    let package_dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    let source = Path::new(message["target"]["src_path"].as_str()?);
    Some(TestProgram {
        package: package_dir.file_name()?.to_string_lossy().into_owned(),
        package_dir: package_dir.to_owned(),
        source: source
            .strip_prefix(package_dir)
            .unwrap_or(source)
            .display()
            .to_string(),
        executable: message["executable"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages_of_cargo() {
        let mut message = json!({
            "reason": "compiler-artifact",
            "manifest_path": "/src/frontend/Cargo.toml",
            "target": {"kind": ["test"], "name": "it", "src_path": "/src/frontend/tests/it/main.rs"},
            "profile": {"test": true},
            "executable": "/target/debug/deps/it-1"
        });
        let program = test_program(&message).expect("this is a test program");
        assert_eq!(program.package, "frontend");
        assert_eq!(program.source, "tests/it/main.rs");
        message["target"]["kind"] = json!(["bench"]);
        assert_eq!(test_program(&message), None);
        message["target"]["kind"] = json!(["test"]);
        message["profile"]["test"] = json!(false);
        assert_eq!(test_program(&message), None);
        assert_eq!(
            test_program(&json!({"reason": "build-finished", "success": true})),
            None
        );
    }
}
