//! `roundtrip`: everything in one process, and the command line.

mod ledger;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    bodies::{FIVE, awkward, empty, quoted},
    case::{Case, free_port, run},
    environment, http, load,
    process::{Launch, Output, Process, Signal},
    until::{SOON, until},
};
use serde_json::Value;

/// Commands answer at once; the limit is for a machine that is busy with other tests.
const COMMAND: Duration = Duration::from_secs(20);

/// A graceful stop without work to end.
const STOP: Duration = Duration::from_secs(15);

struct Laptop {
    process: Process,
    http: SocketAddr,
    database: PathBuf,
}

impl Laptop {
    async fn up(case: &Case) -> Result<Self> {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let database = case.folder().join("audit.db");
        let process = roundtrip(case, "up")?
            .args(["up", "--port", &http.port().to_string(), "--database"])
            .args([&database])
            .start()?;
        let mut laptop = Self {
            process,
            http,
            database,
        };
        until("roundtrip to answer", SOON, async || {
            laptop.process.ensure_running()?;
            let answer = http::get(http, "/readyz").await?;
            Ok((answer.status == 200).then_some(()))
        })
        .await?;
        Ok(laptop)
    }

    fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn database(&self) -> String {
        self.database.to_string_lossy().into_owned()
    }
}

fn roundtrip(case: &Case, log: &str) -> Result<Launch> {
    Ok(Launch::new(case, log, &environment::binary("roundtrip")?))
}

async fn command(case: &Case, arguments: &[&str]) -> Result<Output> {
    roundtrip(case, "command")?
        .args(arguments)
        .output(COMMAND)
        .await
}

#[test]
fn the_five_bodies_answer_exactly() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        for (body, answer) in FIVE {
            http::task(laptop.http, body).await?.expect_body(answer)?;
        }
        http::get(laptop.http, "/")
            .await?
            .expect_body(r#"{"message":"OK"}"#)
    });
}

#[test]
fn strings_and_numbers_that_are_easily_spoilt_come_back_right() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        for question in awkward().into_iter().chain(quoted()).chain([empty()]) {
            let answer = http::task(laptop.http, question.body.clone()).await?;
            ensure!(answer.status == 200, "{question:?}: {}", answer.text());
            ensure!(
                answer.json()?["result"] == question.result,
                "{question:?}: {}",
                answer.text()
            );
        }
        Ok(())
    });
}

#[test]
fn two_hundred_at_once_are_all_right() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        load::ask(&[laptop.http], 0, 200, 200)
            .await?
            .ensure_all_right()
    });
}

#[test]
fn it_says_where_it_listens_and_what_to_try() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let log = laptop.process.log();
        ensure!(
            log.contains(&laptop.http.port().to_string()),
            "no port in: {log}"
        );
        let curl = log
            .lines()
            .find(|line| line.contains("curl"))
            .context("no curl line")?;
        ensure!(curl.contains("/task"), "{curl}");
        Ok(())
    });
}

#[test]
fn a_taken_port_ends_it_with_a_sentence() {
    run(async |case| {
        let taken = std::net::TcpListener::bind("0.0.0.0:0")?;
        let port = taken.local_addr()?.port().to_string();
        let database = case
            .folder()
            .join("audit.db")
            .to_string_lossy()
            .into_owned();
        let output = command(case, &["up", "--port", &port, "--database", &database]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        ensure!(
            output.stderr.contains(&port),
            "the port is not named: {output:?}"
        );
        ensure_no_backtrace(&output)
    });
}

#[test]
fn a_file_that_cannot_be_written_ends_it_with_a_sentence() {
    run(async |case| {
        let port = free_port()?.to_string();
        // Root may write everywhere; into a folder that is none, nobody can.
        let file = case.write("no-folder", "")?;
        let database = file.join("audit.db").to_string_lossy().into_owned();
        let output = command(case, &["up", "--port", &port, "--database", &database]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        ensure!(
            output.stderr.contains("audit.db"),
            "the file is not named: {output:?}"
        );
        ensure_no_backtrace(&output)
    });
}

#[test]
fn a_file_that_is_no_database_ends_it_with_a_sentence_and_is_left_alone() {
    run(async |case| {
        let port = free_port()?.to_string();
        let text = "a letter, not a database. ".repeat(100);
        let file = case.write("letter.txt", &text)?;
        let path = file.to_string_lossy().into_owned();
        let output = command(case, &["up", "--port", &port, "--database", &path]).await?;
        ensure!(output.code == Some(1), "{output:?}");
        ensure!(
            output.stderr.contains("letter.txt"),
            "the file is not named: {output:?}"
        );
        ensure!(
            std::fs::read_to_string(&file)? == text,
            "the file was changed"
        );
        ensure_no_backtrace(&output)
    });
}

#[test]
fn a_stop_signal_ends_it_with_exit_code_0() {
    run(async |case| {
        for signal in [Signal::TERM, Signal::INT] {
            let mut laptop = Laptop::up(case).await?;
            http::task(laptop.http, FIVE[0].0)
                .await?
                .expect_body(FIVE[0].1)?;
            laptop.process.signal(signal)?;
            let code = laptop.process.exit_code(STOP).await?;
            ensure!(code == 0, "exit code {code}");
        }
        Ok(())
    });
}

#[test]
fn its_records_survive_a_restart() {
    run(async |case| {
        let mut laptop = Laptop::up(case).await?;
        http::task(laptop.http, FIVE[3].0)
            .await?
            .expect_body(FIVE[3].1)?;
        laptop.process.kill().await?;
        let again = Laptop::up(case).await?;
        http::task(again.http, FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)?;
        let listed = list(case, &again.database()).await?;
        ensure!(listed.len() == 2, "{listed:?}");
        Ok(())
    });
}

#[test]
fn call_prints_the_answer() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let url = laptop.url();
        let answer = command(case, &["call", "--url", &url, FIVE[0].0])
            .await?
            .success()?;
        ensure!(answer.trim() == "15", "{answer:?}");
        let answer = command(case, &["call", "--url", &url, "-o", "json", FIVE[0].0])
            .await?
            .success()?;
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["result"] == "15", "{answer}");
        Ok(())
    });
}

#[test]
fn a_call_that_fails_says_why_and_exits_with_1() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let url = laptop.url();
        let refused = command(case, &["call", "--url", &url, r#"{"d1": 1, "d2": 0}"#]).await?;
        ensure!(refused.code == Some(1), "{refused:?}");
        ensure!(refused.stdout.is_empty(), "an error on stdout: {refused:?}");
        ensure!(refused.stderr.contains("zero"), "{refused:?}");
        let nobody = format!("http://127.0.0.1:{}", free_port()?);
        let unreachable = command(case, &["call", "--url", &nobody, FIVE[0].0]).await?;
        ensure!(unreachable.code == Some(1), "{unreachable:?}");
        ensure!(unreachable.stderr.contains("127.0.0.1"), "{unreachable:?}");
        Ok(())
    });
}

#[test]
fn the_audit_log_is_listed_and_shown() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        http::task_with(laptop.http, FIVE[0].0, ("x-request-id", "my-own-id")).await?;
        http::task(laptop.http, r#"{"d1": 1, "d2": 0}"#).await?;
        let database = laptop.database();

        let listed = list(case, &database).await?;
        ensure!(listed.len() == 2, "{listed:?}");
        let status = |record: &Value| record["status"].as_str().map(str::to_owned);
        // Newest first.
        ensure!(
            status(&listed[0]).as_deref() == Some("failed"),
            "{listed:?}"
        );
        ensure!(listed[0]["reason"] == "division_by_zero", "{listed:?}");
        ensure!(
            status(&listed[1]).as_deref() == Some("answered"),
            "{listed:?}"
        );
        ensure!(listed[1]["callerRequestId"] == "my-own-id", "{listed:?}");

        let id = listed[1]["id"].as_str().context("a record without id")?;
        let arguments = ["audit", "show", "--database", &database, "-o", "json", id];
        let shown: Value = serde_json::from_str(&command(case, &arguments).await?.success()?)?;
        ensure!(shown["id"] == id && shown["response"] == "15", "{shown}");
        let request: Value = serde_json::from_str(shown["request"].as_str().unwrap_or_default())?;
        ensure!(request == serde_json::json!({"a1": 5, "a2": 10}), "{shown}");

        let table = command(case, &["audit", "list", "--database", &database])
            .await?
            .success()?;
        ensure!(table.contains(id) && table.contains("failed"), "{table}");
        let text = command(case, &["audit", "show", "--database", &database, id])
            .await?
            .success()?;
        ensure!(text.contains("my-own-id"), "{text}");
        Ok(())
    });
}

#[test]
fn a_record_that_is_not_there_is_an_error() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let database = laptop.database();
        let unknown = "5f1e0c9ab3d4e5f60718293a";
        let output = command(case, &["audit", "show", "--database", &database, unknown]).await?;
        ensure!(
            output.code == Some(1) && output.stderr.contains(unknown),
            "{output:?}"
        );
        let nowhere = case.folder().join("nowhere.db");
        let nowhere_text = nowhere.to_string_lossy().into_owned();
        let output = command(case, &["audit", "list", "--database", &nowhere_text]).await?;
        ensure!(
            output.code == Some(1) && output.stderr.contains("nowhere.db"),
            "{output:?}"
        );
        ensure!(!nowhere.exists(), "reading made a file");
        Ok(())
    });
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_is_wrong() {
    run(async |case| {
        for (arguments, named) in [
            (&["upp"][..], "upp"),
            (&["up", "--port", "seventy"], "seventy"),
            (&["up", "--port", "70000"], "70000"),
            (&["audit", "list", "-o", "yaml"], "yaml"),
            (&["audit", "show"], "RECORD"),
            (&["audit", "balance", "--since", "yesterday"], "15m"),
        ] {
            let output = command(case, arguments).await?;
            ensure!(output.code == Some(2), "{arguments:?}: {output:?}");
            let named_upper = output.stderr.to_uppercase().contains(&named.to_uppercase());
            ensure!(named_upper, "{arguments:?}: {output:?}");
            ensure!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        }
        Ok(())
    });
}

#[test]
fn a_malformed_setting_stops_the_start_and_is_named() {
    run(async |case| {
        let database = case.folder().join("audit.db");
        let output = roundtrip(case, "command")?
            .args(["up", "--port", &free_port()?.to_string(), "--database"])
            .args([&database])
            .env("DEADLINE_MS", "soon")
            .output(COMMAND)
            .await?;
        ensure!(matches!(output.code, Some(1 | 2)), "{output:?}");
        for named in ["soon", "deadline"] {
            ensure!(output.stderr.to_lowercase().contains(named), "{output:?}");
        }
        Ok(())
    });
}

#[test]
fn every_help_has_an_example() {
    run(async |case| {
        for arguments in [
            &["--help"][..],
            &["up", "--help"],
            &["call", "--help"],
            &["audit", "--help"],
            &["audit", "list", "--help"],
            &["audit", "show", "--help"],
            &["audit", "balance", "--help"],
            &["completions", "--help"],
        ] {
            let help = command(case, arguments).await?.success()?;
            ensure!(help.contains("Example"), "{arguments:?}: {help}");
            ensure!(help.contains("roundtrip "), "{arguments:?}: {help}");
        }
        Ok(())
    });
}

#[test]
fn the_services_list_their_settings() {
    run(async |case| {
        let common = [
            "REDIS_HOST",
            "REDIS_PORT",
            "EVENT_SERVICE_EVENT",
            "CONSUMING_SERVICE_EVENT",
        ];
        for (service, own) in [
            (
                "frontend",
                &["PORT", "DEADLINE_MS", "BODY_BYTES_MAX", "IN_FLIGHT_MAX"][..],
            ),
            (
                "events-service",
                &["MONGOURI", "MONGOPORT", "MONGODATABASE", "TASK_MAPS"],
            ),
            ("backend", &["OPS_PORT", "DRAIN_TIMEOUT_MS"]),
        ] {
            let program = environment::binary(service)?;
            let output = Launch::new(case, service, &program)
                .args(["--help"])
                .output(COMMAND)
                .await?;
            let help = output.success()?;
            for setting in common.iter().chain(own) {
                ensure!(
                    help.contains(setting),
                    "{service} --help does not name {setting}: {help}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn completions_are_made_for_every_shell() {
    run(async |case| {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let script = command(case, &["completions", shell]).await?.success()?;
            ensure!(script.contains("roundtrip"), "{shell}: {script}");
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_closed_the_pipe_is_no_error() {
    run(async |_| {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let output = std::process::Command::new(environment::binary("roundtrip")?)
            .args(["completions", "zsh"])
            .stdout(writer)
            .output()?;
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        Ok(())
    });
}

async fn list(case: &Case, database: &str) -> Result<Vec<Value>> {
    let arguments = ["audit", "list", "--database", database, "-o", "json"];
    let listed = command(case, &arguments).await?.success()?;
    let listed: Value = serde_json::from_str(&listed).with_context(|| listed.clone())?;
    Ok(listed.as_array().context("no list")?.clone())
}

fn ensure_no_backtrace(output: &Output) -> Result<()> {
    ensure!(!output.stderr.contains("panicked"), "{output:?}");
    ensure!(output.stdout.is_empty(), "an error on stdout: {output:?}");
    Ok(())
}
