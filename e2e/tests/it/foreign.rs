//! Our images beside stand-ins for the older ones, as containers found through the engine.

use anyhow::{Context, Result, ensure};
use e2e::{
    bodies::{FIVE, Question, awkward, quoted},
    case::{Case, run_on_engine},
    containers::{Containers, Maker, Role},
    http, load,
};
use serde_json::Value;

/// How an answer must come back.
#[derive(Clone, Copy)]
enum Expect {
    /// To the byte: our frontend answers.
    Exact,
    /// In the words of the backend that computed it: a foreign frontend passes them on.
    AnyDialect,
}

async fn deployment<'c>(case: &'c Case, parts: &[(Maker, Role, usize)]) -> Result<Containers<'c>> {
    let mut containers = Containers::new(case).await?;
    for (maker, role, count) in parts {
        containers.start(*maker, *role, *count).await?;
    }
    containers.answers().await?;
    Ok(containers)
}

/// Asks every frontend everything.
async fn ask_everything(containers: &Containers<'_>, expect: Expect) -> Result<()> {
    ask_questions(containers, expect, awkward()).await
}

async fn ask_questions(
    containers: &Containers<'_>,
    expect: Expect,
    questions: Vec<Question>,
) -> Result<()> {
    for address in containers.addresses() {
        http::get(address, "/")
            .await?
            .expect_body(r#"{"message":"OK"}"#)?;
        for (body, expected) in FIVE {
            let answer = http::task(address, body).await.context(body)?;
            match expect {
                Expect::Exact => answer.expect_body(expected)?,
                Expect::AnyDialect => {
                    let expected: Value = serde_json::from_str(expected)?;
                    let expected = expected["result"].as_str().unwrap_or_default().to_owned();
                    ensure_same(
                        &Question {
                            body: body.to_owned(),
                            result: expected,
                        },
                        &answer,
                        expect,
                    )?;
                }
            }
        }
        for question in &questions {
            let answer = http::task(address, question.body.clone())
                .await
                .with_context(|| question.body.clone())?;
            ensure_same(question, &answer, expect)?;
        }
    }
    containers.ensure_all_running().await
}

fn ensure_same(question: &Question, answer: &http::Answer, expect: Expect) -> Result<()> {
    ensure!(
        answer.status == 200,
        "{question:?}: {} {}",
        answer.status,
        answer.text()
    );
    let answered = answer.json()?;
    let result = answered["result"].as_str().unwrap_or("no text");
    let same = match expect {
        Expect::Exact => result == question.result,
        Expect::AnyDialect => same_in_any_dialect(question, result),
    };
    ensure!(same, "{question:?} was answered {}", answer.text());
    Ok(())
}

fn same_in_any_dialect(question: &Question, result: &str) -> bool {
    let is_text = serde_json::from_str::<Value>(&question.body).is_ok_and(|body| {
        body.as_object()
            .is_some_and(|body| body.values().all(Value::is_string))
    });
    if is_text {
        let unquoted = serde_json::from_str::<String>(result).ok();
        return result == question.result || unquoted.as_ref() == Some(&question.result);
    }
    match (result.parse::<f64>(), question.result.parse::<f64>()) {
        (Ok(answered), Ok(expected)) => answered.to_bits() == expected.to_bits(),
        _ => false,
    }
}

/// The strings that begin and end with a quote. Where a foreign backend of a family that does not
/// quote its results computed them, nobody can know whether the quotes belong to the text.
async fn ask_quoted(containers: &Containers<'_>, or_stripped: bool) -> Result<()> {
    for address in containers.addresses() {
        for question in quoted() {
            let answer = http::task(address, question.body.clone())
                .await
                .with_context(|| question.body.clone())?;
            ensure!(answer.status == 200, "{question:?}: {}", answer.text());
            let answered = answer.json()?;
            let result = answered["result"].as_str().unwrap_or("no text");
            let stripped = serde_json::from_str::<String>(&question.result).ok();
            let accepted = result == question.result
                || or_stripped && stripped.is_some_and(|stripped| result == stripped);
            ensure!(accepted, "{question:?} was answered {}", answer.text());
        }
    }
    Ok(())
}

fn foreign_backends(maker: Maker) {
    run_on_engine(async |case| {
        let parts = [
            (maker, Role::Backend, 3),
            (Maker::Ours, Role::Events, 2),
            (Maker::Ours, Role::Frontend, 2),
        ];
        let containers = deployment(case, &parts).await?;
        ask_everything(&containers, Expect::Exact).await?;
        ask_quoted(&containers, maker != Maker::Node).await?;
        load::ask(&containers.addresses(), 1000, 300, 16)
            .await?
            .ensure_all_right()?;
        containers.ensure_all_running().await?;

        let records = containers.records().await?;
        let used = records.distinct("toContainerId").await?;
        ensure!(used.len() == 3, "not every backend was used: {used:?}");
        for task in records.asked().await? {
            records.check_answered(&task).await?;
        }
        records.discard().await
    });
}

#[test]
fn go_backends_work_behind_our_services() {
    foreign_backends(Maker::Go);
}

#[test]
fn node_backends_work_behind_our_services() {
    foreign_backends(Maker::Node);
}

#[test]
fn java_backends_work_behind_our_services() {
    foreign_backends(Maker::Java);
}

fn foreign_events_services(maker: Maker) {
    run_on_engine(async |case| {
        let parts = [
            (Maker::Ours, Role::Backend, 2),
            (maker, Role::Events, 2),
            (Maker::Ours, Role::Frontend, 2),
        ];
        let containers = deployment(case, &parts).await?;
        ask_everything(&containers, Expect::Exact).await?;
        // The mark that a result is final is dropped on the way.
        ask_quoted(&containers, true).await?;
        load::ask(&containers.addresses(), 1000, 300, 16)
            .await?
            .ensure_all_right()?;
        containers.ensure_all_running().await
    });
}

#[test]
fn go_events_services_work_between_our_services() {
    foreign_events_services(Maker::Go);
}

#[test]
fn node_events_services_work_between_our_services() {
    foreign_events_services(Maker::Node);
}

#[test]
fn java_events_services_work_between_our_services() {
    foreign_events_services(Maker::Java);
}

fn foreign_frontends(maker: Maker) {
    run_on_engine(async |case| {
        let parts = [
            (Maker::Ours, Role::Backend, 2),
            (Maker::Ours, Role::Events, 2),
            (maker, Role::Frontend, 2),
        ];
        let containers = deployment(case, &parts).await?;
        // All behind it is ours, so its caller sees exactly what ours would.
        ask_everything(&containers, Expect::Exact).await?;
        ask_quoted(&containers, false).await?;
        load::ask(&containers.addresses(), 1000, 300, 16)
            .await?
            .ensure_all_right()?;
        containers.ensure_all_running().await?;
        let records = containers.records().await?;
        for task in records.asked().await? {
            records.check_answered(&task).await?;
        }
        records.discard().await
    });
}

#[test]
fn go_frontends_work_before_our_services() {
    foreign_frontends(Maker::Go);
}

#[test]
fn node_frontends_work_before_our_services() {
    foreign_frontends(Maker::Node);
}

#[test]
fn java_frontends_work_before_our_services() {
    foreign_frontends(Maker::Java);
}

/// Ours in one position, one family in the two others: the first swap, or the last.
fn ours_alone(ours: Role, others: Maker) {
    run_on_engine(async |case| {
        let maker = |role| if role == ours { Maker::Ours } else { others };
        let roles = [Role::Backend, Role::Events, Role::Frontend];
        let parts = roles.map(|role| (maker(role), role, 2));
        let containers = deployment(case, &parts).await?;
        // Our backend's text is final, and our frontend makes any text so; our events service
        // alone has nobody who would tell it how the frontend's caller wants it.
        let expect = match ours {
            Role::Backend | Role::Frontend => Expect::Exact,
            Role::Events => Expect::AnyDialect,
        };
        ask_everything(&containers, expect).await
    });
}

#[test]
fn our_backends_work_among_go_services() {
    ours_alone(Role::Backend, Maker::Go);
}

#[test]
fn our_backends_work_among_node_services() {
    ours_alone(Role::Backend, Maker::Node);
}

#[test]
fn our_backends_work_among_java_services() {
    ours_alone(Role::Backend, Maker::Java);
}

#[test]
fn our_events_services_work_among_go_services() {
    ours_alone(Role::Events, Maker::Go);
}

#[test]
fn our_events_services_work_among_node_services() {
    ours_alone(Role::Events, Maker::Node);
}

#[test]
fn our_events_services_work_among_java_services() {
    ours_alone(Role::Events, Maker::Java);
}

#[test]
fn our_frontends_work_among_go_services() {
    ours_alone(Role::Frontend, Maker::Go);
}

#[test]
fn our_frontends_work_among_node_services() {
    ours_alone(Role::Frontend, Maker::Node);
}

#[test]
fn our_frontends_work_among_java_services() {
    ours_alone(Role::Frontend, Maker::Java);
}

#[test]
fn backends_of_every_family_work_side_by_side() {
    run_on_engine(async |case| {
        let mut parts = vec![(Maker::Ours, Role::Backend, 2)];
        parts.extend(Maker::FOREIGN.map(|maker| (maker, Role::Backend, 2)));
        parts.extend([
            (Maker::Ours, Role::Events, 2),
            (Maker::Ours, Role::Frontend, 2),
        ]);
        let containers = deployment(case, &parts).await?;
        ask_everything(&containers, Expect::Exact).await?;
        load::ask(&containers.addresses(), 1000, 600, 24)
            .await?
            .ensure_all_right()?;
        let used = containers
            .records()
            .await?
            .distinct("toContainerId")
            .await?;
        ensure!(used.len() == 8, "not every backend was used: {used:?}");
        containers.ensure_all_running().await
    });
}

#[test]
fn every_position_mixed_at_once() {
    run_on_engine(async |case| {
        // NodeJS leaves out fields that Java cannot do without: these two never worked next to
        // each other on one channel, with or without us.
        let parts = [
            (Maker::Go, Role::Backend, 2),
            (Maker::Node, Role::Backend, 2),
            (Maker::Ours, Role::Backend, 1),
            (Maker::Go, Role::Events, 1),
            (Maker::Ours, Role::Events, 1),
            (Maker::Go, Role::Frontend, 1),
            (Maker::Node, Role::Frontend, 1),
            (Maker::Ours, Role::Frontend, 1),
        ];
        let containers = deployment(case, &parts).await?;
        // Go writes DEL as `\x7f`, which NodeJS cannot read.
        let questions = awkward().into_iter();
        let questions = questions.filter(|question| !question.result.contains('\x7f'));
        ask_questions(&containers, Expect::AnyDialect, questions.collect()).await
    });
}

#[test]
fn a_backend_that_dies_is_replaced_by_one_of_another_family() {
    run_on_engine(async |case| {
        let parts = [
            (Maker::Go, Role::Backend, 1),
            (Maker::Java, Role::Backend, 1),
            (Maker::Ours, Role::Events, 1),
            (Maker::Ours, Role::Frontend, 1),
        ];
        let containers = deployment(case, &parts).await?;
        let killed = containers.of(Role::Backend).next();
        let tally = load::ask_while(&containers.addresses(), 0, 8, async |progress| {
            progress.wait_for_right(100).await?;
            if let Some(container) = killed {
                container.kill().await?;
            }
            progress.wait_for_right(200).await
        })
        .await?;
        tally.ensure_right_or_clear(std::time::Duration::from_secs(6))
    });
}

#[test]
fn rubbish_on_the_channels_stops_nobody() {
    run_on_engine(async |case| {
        let parts = [
            (Maker::Ours, Role::Backend, 1),
            (Maker::Ours, Role::Events, 1),
            (Maker::Ours, Role::Frontend, 1),
        ];
        let containers = deployment(case, &parts).await?;
        let mut redis = containers.redis().await?;
        let deep = "[".repeat(100_000);
        let long = "x".repeat(1 << 20);
        let rubbish: [&[u8]; 12] = [
            b"",
            b"\"",
            b"null",
            b"7",
            b"[]",
            b"{}",
            b"\xff\xfe\x00",
            br#"{"requestId":7}"#,
            br#"{"containerId":"nobody","service":"nobody","recordId":"not hex"}"#,
            br#""\q""#,
            deep.as_bytes(),
            long.as_bytes(),
        ];
        for channel in [containers.event_channel(), containers.consuming_channel()] {
            for payload in rubbish {
                let receivers = redis.publish(&channel, payload).await?;
                ensure!(receivers > 0, "nobody hears {channel}");
            }
        }
        ask_everything(&containers, Expect::Exact).await
    });
}

fn all_foreign(maker: Maker) {
    run_on_engine(async |case| {
        let parts = [
            (maker, Role::Backend, 3),
            (maker, Role::Events, 2),
            (maker, Role::Frontend, 2),
        ];
        let containers = deployment(case, &parts).await?;
        ask_everything(&containers, Expect::AnyDialect).await
    });
}

// These hold the stand-ins themselves to the contract.

#[test]
fn go_stand_ins_work_among_themselves() {
    all_foreign(Maker::Go);
}

#[test]
fn node_stand_ins_work_among_themselves() {
    all_foreign(Maker::Node);
}

#[test]
fn java_stand_ins_work_among_themselves() {
    all_foreign(Maker::Java);
}
