//! The users' stack file on a real swarm: deployed, called, and changed while requests flow.
//!
//! The kernel of a test machine may have no virtual addresses (IPVS), so the stack is laid over
//! with `e2e/docker-stack-test.yaml`, and callers that must not fail sit inside the network and
//! ask for `tasks.<service>`, as a load balancer would.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, ensure};
use e2e::{
    bodies::{FIVE, awkward, quoted},
    case::run_on_engine,
    http, load,
    stack::Stack,
    until::{SOON, until_true},
};

/// The deadline of the stack's frontends, and what a busy machine adds to it.
const ANSWERED: Duration = Duration::from_millis(5_000 + 1_000);

#[test]
fn the_stack_answers_on_its_port() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        for (body, answer) in FIVE {
            http::task(stack.http(), body).await?.expect_body(answer)?;
        }
        for question in awkward().into_iter().chain(quoted()) {
            let answer = http::task(stack.http(), question.body.clone()).await?;
            ensure!(answer.status == 200, "{question:?}: {}", answer.text());
            ensure!(
                answer.json()?["result"] == question.result,
                "{question:?}: {}",
                answer.text()
            );
        }
        load::ask(&[stack.http()], 0, 200, 200)
            .await?
            .ensure_all_right()?;
        let backends = stack.containers("backend").await?;
        ensure!(backends.len() == 3, "three backends: {backends:?}");
        stack
            .inside()
            .await?
            .ask(1000, 300, 8)
            .await?
            .ensure_all_right()
    });
}

#[test]
fn every_service_is_swapped_without_a_failed_request() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        // A host port is held by one container of a node. Without it the frontend can be updated
        // as the users' stack file says: the new one first.
        let port = "target=4000,mode=host";
        let start_first = ["--publish-rm", port, "--update-order", "start-first"];
        stack.update("frontend", &start_first).await?;
        let inside = stack.inside().await?;
        inside.ask(0, 50, 4).await?.ensure_all_right()?;
        let mut first = 1_000;
        for service in ["backend", "events-service", "frontend"] {
            let calls = inside
                .ask_while(first, 6, async || stack.swap(service).await)
                .await?;
            report(&format!("{service}: update to another image"), &calls);
            calls.ensure_all_right()?;
            first += 1_000_000;
        }
        Ok(())
    });
}

#[test]
fn backends_scale_from_3_to_10_to_1_without_a_failed_request() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        let inside = stack.inside().await?;
        let calls = inside
            .ask_while(1_000, 6, async || {
                stack.scale("backend", 10).await?;
                ensure!(stack.containers("backend").await?.len() == 10);
                stack.scale("backend", 1).await?;
                left(&stack, "backend", 1).await
            })
            .await?;
        report("backend: scale 3, 10, 1", &calls);
        calls.ensure_all_right()?;
        http::task(stack.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)
    });
}

#[test]
fn events_services_scale_from_1_to_3_to_1_without_a_failed_request() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        let inside = stack.inside().await?;
        let calls = inside
            .ask_while(1_000, 6, async || {
                stack.scale("events-service", 3).await?;
                stack.scale("events-service", 1).await?;
                left(&stack, "events-service", 1).await
            })
            .await?;
        report("events-service: scale 1, 3, 1", &calls);
        calls.ensure_all_right()?;
        http::task(stack.http(), FIVE[0].0)
            .await?
            .expect_body(FIVE[0].1)
    });
}

#[test]
fn scaled_to_0_it_says_so_at_once_and_back_it_answers() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        let mut body = 0;
        for (service, code) in [
            ("backend", "no_backend"),
            ("events-service", "no_events_service"),
        ] {
            let tally = load::ask_while(&[stack.http()], body, 4, async |progress| {
                progress.wait_for_right(50).await?;
                stack.scale(service, 0).await?;
                left(&stack, service, 0).await?;
                until_true("a clear refusal", SOON, async || {
                    // A body of its own: an answer from the log would need nobody.
                    body += 1;
                    let asked = format!(r#"{{"a1": "nobody ", "a2": "{service} {body}"}}"#);
                    let answer = http::task(stack.http(), asked).await?;
                    answer.expect_problem(503, code)?;
                    ensure!(answer.header("retry-after").is_some(), "no Retry-After");
                    ensure!(
                        answer.took < Duration::from_secs(1),
                        "took {:?}",
                        answer.took
                    );
                    Ok(true)
                })
                .await?;
                stack.scale(service, 1).await?;
                progress.wait_for_right(50).await
            })
            .await?;
            report(&format!("{service}: scale to 0 and back"), &tally);
            tally.ensure_right_or_clear(ANSWERED)?;
            body += 1_000_000;
        }
        Ok(())
    });
}

#[test]
fn a_frontend_swapped_on_its_port_is_refused_or_right_and_never_wrong() {
    run_on_engine(async |case| {
        let stack = Stack::deploy(case).await?;
        let tally = load::ask_while(&[stack.http()], 0, 4, async |progress| {
            progress.wait_for_right(50).await?;
            stack.swap("frontend").await?;
            progress.wait_for_right(50).await
        })
        .await?;
        report(
            "frontend: update on its host port, the old one first",
            &tally,
        );
        // The port is nobody's for a moment, so connections may fail, but no answer may be wrong.
        ensure!(tally.wrong.is_empty() && tally.hung == 0, "{tally}");
        ensure!(tally.longest <= ANSWERED, "{tally}");
        Ok(())
    });
}

async fn left(stack: &Stack<'_>, service: &str, count: usize) -> Result<()> {
    until_true("the scaled-down containers to be gone", SOON, async || {
        let running = stack.containers(service).await?;
        ensure!(running.len() == count, "{} are running", running.len());
        Ok(true)
    })
    .await
}

/// One line per scenario: these are the outcomes in the README (`--show-output` prints them also
/// when the test succeeds).
#[expect(clippy::print_stdout, reason = "the runner keeps it with the test")]
fn report(scenario: &str, outcome: &impl Display) {
    println!("{scenario}: {outcome}");
}
