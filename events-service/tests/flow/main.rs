//! The events service between a frontend and backends that the test plays itself, on the bus in
//! memory and in simulated time: what happens to a task whatever the others do.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on, it fails")]

mod memory_log;
mod stage;

use std::time::Duration;

use events_service::audit::{End, Outcome, Progress, Record, Written};
use memory_log::NOT_WRITTEN_YET;
use shared::{
    clock::Clock,
    contract::{Address, Dispatch, Ended, Failure, FailureCode},
};
use stage::{Backend, Stage, ended_text};

const PURE: &str = "NUMBER";
const EFFECT: &str = "PAYMENT";

#[tokio::test(start_paused = true)]
async fn a_task_is_recorded_dispatched_completed_and_answered() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    assert_eq!(
        (
            dispatch.task.as_str(),
            dispatch.body.as_str(),
            dispatch.attempt
        ),
        (PURE, "{}", Some(1))
    );
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("15".into()));
    let record = stage.log.only();
    assert_eq!(record.id, dispatch.record_id);
    assert_eq!(record.end.unwrap().outcome, Outcome::Answered("15".into()));
    assert_eq!(record.progress.attempts, 1);
    assert_eq!(stage.log.inserts(), 1, "a quick pure task is written once");
}

#[tokio::test(start_paused = true)]
async fn a_task_with_an_effect_is_dispatched_only_when_its_record_is_durable() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.log.hold(true);
    stage.ask("r1", EFFECT, "{}").await;
    assert!(backend.nothing_for(Duration::from_millis(500)).await);
    stage.log.hold(false);
    let dispatch = backend.dispatch().await;
    assert!(stage.log.only().end.is_none());
    backend.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("paid".into()));
    assert!(stage.log.only().end.is_some());
}

#[tokio::test(start_paused = true)]
async fn no_reply_goes_out_before_the_record_is_durable() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    stage.log.hold(true);
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert!(stage.no_reply_for(Duration::from_millis(300)).await);
    stage.log.hold(false);
    assert_eq!(stage.reply("r1").await, Ended::Final("15".into()));
}

#[tokio::test(start_paused = true)]
async fn a_slow_pure_task_is_opened_first_and_completed_later() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(stage.log.only().end.is_none());
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("15".into()));
    assert!(stage.log.only().end.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_result_wins_and_a_late_one_changes_nothing() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("1".into())).await;
    backend.answer(&dispatch, Ended::Final("2".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("1".into()));
    assert!(stage.no_reply_for(Duration::from_secs(10)).await);
    assert_eq!(
        stage.log.only().end.unwrap().outcome,
        Outcome::Answered("1".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_foreign_result_is_normalized() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Raw("5e+07".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("50000000".into()));
    stage.ask("r2", PURE, "{\"other\":1}").await;
    let dispatch = backend.dispatch().await;
    backend
        .answer(&dispatch, Ended::Raw("Infinity".into()))
        .await;
    assert_eq!(stage.failure("r2").await, FailureCode::ResultNotFinite);
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_is_recorded_with_its_reason() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    let failure = Failure::new(FailureCode::DivisionByZero, "the second number is zero");
    backend
        .answer(&dispatch, Ended::Failed(failure.clone()))
        .await;
    assert_eq!(stage.reply("r1").await, Ended::Failed(failure.clone()));
    assert_eq!(
        stage.log.only().end.unwrap().outcome,
        Outcome::Failed(failure)
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_at_once() {
    let mut stage = Stage::new().await;
    stage.ask("r1", PURE, "{}").await;
    let begun = tokio::time::Instant::now();
    assert_eq!(stage.failure("r1").await, FailureCode::NoBackend);
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(stage.log.only().end.is_some());
    stage.ask("r2", "UNHEARD_OF", "{}").await;
    assert_eq!(stage.failure("r2").await, FailureCode::UnknownTask);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_gone_is_passed_over_and_the_open_record_names_the_other() {
    let mut stage = Stage::new().await;
    // Announced, and not listening.
    stage.ghost("b0").await;
    stage.ghost("b1").await;
    let mut backend = stage.backend("b2").await;
    for n in 0..10 {
        let request = format!("r{n}");
        stage.ask(&request, EFFECT, "{}").await;
        let dispatch = backend.dispatch().await;
        // Whoever takes the open record over will ask where the task has run.
        let all = stage.log.all();
        let record = all
            .into_iter()
            .find(|record| record.id == dispatch.record_id);
        let record = record.unwrap();
        let asked = record.progress.backend.unwrap();
        assert_eq!((asked.container.as_str(), record.end), ("b2", None));
        backend.answer(&dispatch, Ended::Final("done".into())).await;
        assert_eq!(stage.reply(&request).await, Ended::Final("done".into()));
    }
}

/// Asks for a task where there are two backends: its first dispatch, the backend that has it, and the
/// other one.
async fn first_of_two(task: &str) -> (Stage, Dispatch, Backend, Backend) {
    let stage = Stage::new().await;
    let mut one = stage.backend("b1").await;
    let mut two = stage.backend("b2").await;
    stage.ask("r1", task, "{}").await;
    tokio::select! {
        dispatch = one.dispatch() => (stage, dispatch, one, two),
        dispatch = two.dispatch() => (stage, dispatch, two, one),
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_loses_a_pure_task_to_another() {
    let (mut stage, first, _silent, mut other) = first_of_two(PURE).await;
    let second = other.dispatch().await;
    assert_eq!(
        (second.record_id, second.attempt),
        (first.record_id, Some(2))
    );
    other.answer(&second, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("15".into()));
    assert_eq!(stage.log.only().progress.attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_with_an_effect_is_repeated_to_the_same_backend_only() {
    let (mut stage, first, mut same, mut other) = first_of_two(EFFECT).await;
    let second = same.dispatch().await;
    assert_eq!(
        (second.record_id, second.attempt),
        (first.record_id, Some(2))
    );
    assert!(other.nothing_for(Duration::from_millis(100)).await);
    same.answer(&second, Ended::Final("done".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("done".into()));
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_result_ends_at_its_deadline() {
    let mut stage = Stage::new().await;
    let _backend = stage.backend("b1").await;
    for (request, task) in [("r1", PURE), ("r2", EFFECT)] {
        let begun = tokio::time::Instant::now();
        stage.ask(request, task, "{}").await;
        assert_eq!(stage.failure(request).await, FailureCode::DeadlineExceeded);
        let took = begun.elapsed();
        assert!((4_900..5_300).contains(&took.as_millis()), "{took:?}");
    }
    assert!(stage.log.all().iter().all(|record| record.end.is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_meant_by_the_clock_of_the_frontend() {
    let clock = Clock::start();
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    for (request, off_ms) in [("r1", -20_000), ("r2", 20_000)] {
        let now_there = clock.now_unix_ms().saturating_add_signed(off_ms);
        stage.announce_time(now_there).await;
        let asked = tokio::time::Instant::now();
        let due = Some(now_there + 2_000);
        stage.ask_until(due, request, EFFECT, "{}").await;
        backend.dispatch().await;
        assert_eq!(stage.failure(request).await, FailureCode::DeadlineExceeded);
        let took = asked.elapsed().as_millis();
        assert!((1_900..2_200).contains(&took), "{took} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn identical_pure_tasks_in_flight_share_one_dispatch() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    for n in 0..10 {
        stage.ask(&format!("r{n}"), PURE, "{}").await;
    }
    let dispatch = backend.dispatch().await;
    assert!(backend.nothing_for(Duration::from_millis(50)).await);
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    for n in 0..10 {
        assert_eq!(
            stage.reply(&format!("r{n}")).await,
            Ended::Final("15".into())
        );
    }
    let repeated = |outcome: &Outcome| matches!(outcome, Outcome::Repeated { from, .. } if *from == dispatch.record_id);
    let records = stage.log.all();
    assert_eq!(records.len(), 10);
    let attempts: u32 = records.iter().map(|r| r.progress.attempts).sum();
    assert_eq!(attempts, 1, "it was dispatched once");
    let repeats = records
        .iter()
        .filter(|r| repeated(&r.end.as_ref().unwrap().outcome))
        .count();
    assert_eq!(repeats, 9);
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_a_task_go_on_when_the_first_gives_up() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    backend.dispatch().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.ask("r2", PURE, "{}").await;
    assert_eq!(stage.failure("r1").await, FailureCode::DeadlineExceeded);
    let dispatch = loop {
        let dispatch = backend.dispatch().await;
        if dispatch.attempt == Some(1) {
            break dispatch;
        }
    };
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r2").await, Ended::Final("15".into()));
}

#[tokio::test(start_paused = true)]
async fn those_who_joined_a_task_go_on_when_its_backend_had_no_time_for_it() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let first = backend.dispatch().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stage.ask("r2", PURE, "{}").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let late = Failure::new(FailureCode::DeadlineExceeded, "it waited too long");
    backend.answer(&first, Ended::Failed(late)).await;
    assert_eq!(stage.failure("r1").await, FailureCode::DeadlineExceeded);
    let second = backend.dispatch().await;
    assert_ne!(second.record_id, first.record_id);
    backend.answer(&second, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r2").await, Ended::Final("15".into()));
}

#[tokio::test(start_paused = true)]
async fn a_pure_task_is_answered_from_the_log() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    stage.reply("r1").await;
    stage.ask("r2", PURE, "{}").await;
    assert_eq!(stage.reply("r2").await, Ended::Final("15".into()));
    assert!(backend.nothing_for(Duration::from_millis(100)).await);
    assert_eq!(
        stage.log.all().len(),
        2,
        "the repeated answer has a record of its own"
    );
    // Not a task with an effect.
    for n in 3..5 {
        let request = format!("r{n}");
        stage.ask(&request, EFFECT, "{}").await;
        let dispatch = backend.dispatch().await;
        backend.answer(&dispatch, Ended::Final("paid".into())).await;
        stage.reply(&request).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_holds_answers_from_before_is_asked() {
    let mut stage = Stage::with(|log| log.remember(PURE, "{}", "15")).await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, "{}").await;
    assert_eq!(stage.reply("r1").await, Ended::Final("15".into()));
    stage.ask("r2", PURE, "{\"new\":1}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("1".into())).await;
    assert_eq!(stage.reply("r2").await, Ended::Final("1".into()));
}

/// Asks so many questions that are new, and answers them. How many of them the log was asked.
async fn ask_new(stage: &mut Stage, backend: &mut Backend, numbers: std::ops::Range<u32>) -> usize {
    let before = stage.log.questions();
    for n in numbers {
        stage.ask(&format!("r{n}"), PURE, &format!("[{n}]")).await;
        let dispatch = backend.dispatch().await;
        backend.answer(&dispatch, Ended::Final("1".into())).await;
        stage.reply(&format!("r{n}")).await;
    }
    stage.log.questions() - before
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_asked_in_vain_is_asked_less_until_it_knows_an_answer() {
    let mut stage = Stage::with(|log| log.remember(PURE, "{}", "15")).await;
    let mut backend = stage.backend("b1").await;
    assert_eq!(ask_new(&mut stage, &mut backend, 0..1_024).await, 1_024);
    assert_eq!(ask_new(&mut stage, &mut backend, 2_000..3_023).await, 0);
    stage.ask("known", PURE, "{}").await;
    assert_eq!(stage.reply("known").await, Ended::Final("15".into()));
    assert_eq!(ask_new(&mut stage, &mut backend, 4_000..4_010).await, 10);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_in_memory_any_more_is_looked_for_in_the_log() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    assert_eq!(ask_new(&mut stage, &mut backend, 0..3).await, 0);
    stage.ask("large", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend
        .answer(&dispatch, Ended::Final("x".repeat(1 << 20)))
        .await;
    stage.reply("large").await;
    assert_eq!(ask_new(&mut stage, &mut backend, 3..6).await, 3);
}

#[tokio::test(start_paused = true)]
async fn while_the_log_is_down_tasks_are_refused_and_afterwards_done() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.log.break_down(true);
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.failure("r1").await, FailureCode::AuditUnavailable);
    stage.ask("r2", PURE, "{}").await;
    assert_eq!(stage.failure("r2").await, FailureCode::AuditUnavailable);
    assert!(backend.nothing_for(Duration::from_millis(100)).await);
    stage.log.break_down(false);
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.ask("r3", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.reply("r3").await, Ended::Final("15".into()));
    // What could not be written is written all the same: it may have been written by half.
    let records = stage.log.all();
    let first = records.iter().find(|r| r.request_id.as_str() == "r1");
    let end = first.unwrap().end.as_ref().unwrap();
    assert_eq!(end.outcome, Outcome::Answered("15".into()));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_behind_a_batch_that_is_given_up_waits_no_longer() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r0", EFFECT, "{}").await;
    let dispatch = backend.dispatch().await;
    stage.log.break_down(true);
    let asked = tokio::time::Instant::now();
    stage.ask("r1", EFFECT, "{}").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.ask("r2", EFFECT, "{}").await;
    for request in ["r1", "r2"] {
        assert_eq!(stage.failure(request).await, FailureCode::AuditUnavailable);
        assert!(asked.elapsed() < Duration::from_secs(2));
    }
    // By now it is known to be down: there is no second try for what comes.
    let answered = tokio::time::Instant::now();
    backend.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.failure("r0").await, FailureCode::AuditUnavailable);
    assert!(answered.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_during_an_outage_of_the_log_is_not_recorded_as_abandoned() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", EFFECT, "{}").await;
    let dispatch = backend.dispatch().await;
    stage.log.break_down(true);
    backend.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.failure("r1").await, FailureCode::AuditUnavailable);
    tokio::time::sleep(Duration::from_secs(20)).await;
    stage.log.break_down(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let end = stage.log.only().end.unwrap();
    assert_eq!(end.outcome, Outcome::Answered("paid".into()));
}

/// Longer than a third of the usual deadline.
const TOO_LONG: Duration = Duration::from_millis(1_800);

/// Asks for a task whose open record the log keeps back for too long.
async fn ask_of_a_slow_log(stage: &mut Stage, request: &str) {
    stage.log.hold(true);
    stage.ask(request, EFFECT, "{}").await;
    tokio::time::sleep(TOO_LONG).await;
}

#[tokio::test(start_paused = true)]
async fn while_the_log_is_behind_tasks_are_refused_at_once() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    ask_of_a_slow_log(&mut stage, "r1").await;
    stage.log.hold(false);
    let first = backend.dispatch().await;
    ask_of_a_slow_log(&mut stage, "r2").await;
    let asked = tokio::time::Instant::now();
    stage.ask("r3", EFFECT, "{}").await;
    assert_eq!(stage.failure("r3").await, FailureCode::Overloaded);
    assert!(asked.elapsed() < Duration::from_millis(20));
    stage.log.hold(false);
    backend.answer(&first, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("paid".into()));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_away_for_a_moment_is_waited_for() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    ask_of_a_slow_log(&mut stage, "r1").await;
    stage.ask("r2", EFFECT, "{}").await;
    stage.log.hold(false);
    for _ in 0..2 {
        let dispatch = backend.dispatch().await;
        backend.answer(&dispatch, Ended::Final("paid".into())).await;
    }
    for request in ["r1", "r2"] {
        assert_eq!(stage.reply(request).await, Ended::Final("paid".into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_batch_of_a_busy_service_waits_for_what_is_still_at_backends() {
    let mut stage = Stage::with(|log| log.gather_for_ms(5)).await;
    let mut backend = stage.backend("b1").await;
    let mut dispatches = Vec::new();
    for request in ["r1", "r2", "r3", "r4", "r5", "r6"] {
        stage.ask(request, PURE, &format!("\"{request}\"")).await;
        dispatches.push(backend.dispatch().await);
    }
    let right = || Ended::Final("15".into());
    // It is not busy yet: this one waits for nobody.
    backend.answer(&dispatches[0], right()).await;
    stage.reply("r1").await;
    assert_eq!(stage.log.batches(), [1]);
    backend.answer(&dispatches[1], right()).await;
    backend.answer(&dispatches[2], right()).await;
    stage.reply("r3").await;
    assert_eq!(stage.log.batches(), [1, 2]);
    // The fourth and the fifth come together, and do not wait for ever for the sixth.
    backend.answer(&dispatches[3], right()).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    backend.answer(&dispatches[4], right()).await;
    stage.reply("r5").await;
    assert_eq!(stage.log.batches(), [1, 2, 2]);
    // Nothing is at a backend any more.
    backend.answer(&dispatches[5], right()).await;
    stage.reply("r6").await;
    assert_eq!(stage.log.batches(), [1, 2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_task_offered_twice_is_done_once() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", EFFECT, "{}").await;
    stage.ask("r1", EFFECT, "{}").await;
    let dispatch = backend.dispatch().await;
    assert!(backend.nothing_for(Duration::from_millis(100)).await);
    backend.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("paid".into()));
    // Once more, after it was answered: the log has the answer.
    stage.ask("r1", EFFECT, "{}").await;
    assert_eq!(stage.reply("r1").await, Ended::Final("paid".into()));
    assert!(backend.nothing_for(Duration::from_millis(100)).await);
    assert_eq!(stage.log.all().len(), 1);
}

/// An id as our frontends make them: that of its record.
const REQUEST: &str = "65530a5066ef23a1b2c3d4e5";

/// The open record of a request that was dispatched to `b1` by another events service.
fn held_by_another() -> Record {
    let (_, record) = memory_log::example();
    Record {
        id: REQUEST.parse().unwrap(),
        request_id: REQUEST.parse().unwrap(),
        events_service: Address::new("events0", "events-service").unwrap(),
        // No sweep closes it.
        deadline_unix_ms: u64::MAX,
        progress: Progress {
            backend: Some(Address::new("b1", "backend").unwrap()),
            ..Progress::default()
        },
        ..record
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_events_service_held_is_finished_at_the_same_backend() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let mut asked = stage.backend("b1").await;
    let mut others = [stage.backend("b2").await, stage.backend("b3").await];
    stage.ask(REQUEST, EFFECT, "{}").await;
    let dispatch = asked.dispatch().await;
    assert_eq!(
        (dispatch.record_id.to_string().as_str(), dispatch.attempt),
        (REQUEST, Some(2))
    );
    asked.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("paid".into()));
    assert_eq!(others[0].count() + others[1].count(), 0);
    let record = stage.log.only();
    assert_eq!(
        record.end.unwrap().outcome,
        Outcome::Answered("paid".into())
    );
    assert_eq!(record.events_service.container.as_str(), "events1");
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_asks_the_same_backend_also_before_it_has_heard_of_it() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let mut asked = stage.unheard_of_backend("b1").await;
    let mut other = stage.backend("b2").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    assert_eq!(asked.dispatch().await.record_id.to_string(), REQUEST);
    // That others come and go does not mean that it has gone, nor does its silence.
    stage.ghost("b3").await;
    let dispatch = asked.dispatch().await;
    asked.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("paid".into()));
    assert_eq!(other.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_takes_over_asks_another_backend_where_the_first_is_gone() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let mut other = stage.backend("b2").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    let dispatch = other.dispatch().await;
    other.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("paid".into()));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_found_after_its_deadline_is_left_to_the_sweep() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let mut asked = stage.backend("b1").await;
    stage.log.hold(true);
    stage.log.hold_reads(true);
    stage.ask(REQUEST, EFFECT, "{}").await;
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    stage.log.hold(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stage.log.hold_reads(false);
    assert!(asked.nothing_for(Duration::from_secs(1)).await);
    // Nothing of it is left in flight: it is taken when it comes again.
    stage.ask(REQUEST, EFFECT, "{}").await;
    let dispatch = asked.dispatch().await;
    asked.answer(&dispatch, Ended::Final("paid".into())).await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("paid".into()));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_does_not_keep_others_from_their_answers() {
    let prepare = |log: &memory_log::MemoryLog| {
        log.hold_record(held_by_another());
        log.remember(PURE, "{}", "15");
    };
    let mut stage = Stage::with(prepare).await;
    let _backend = stage.backend("b1").await;
    stage.log.hold_reads(true);
    stage.ask(REQUEST, EFFECT, "{}").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    stage.ask("r2", PURE, "{}").await;
    assert_eq!(stage.reply("r2").await, Ended::Final("15".into()));
    assert_eq!(stage.failure(REQUEST).await, FailureCode::AuditUnavailable);
}

#[tokio::test(start_paused = true)]
async fn what_a_living_events_service_holds_is_left_to_it() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let _listens = stage.listen("Event_Service:events0").await;
    let mut backend = stage.backend("b1").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    assert!(backend.nothing_for(Duration::from_secs(1)).await);
    assert!(stage.no_reply_for(Duration::from_millis(10)).await);
    assert_eq!(
        stage.log.only().events_service.container.as_str(),
        "events0"
    );
}

#[tokio::test(start_paused = true)]
async fn what_another_has_answered_is_answered_the_same() {
    let mut ended = held_by_another();
    ended.end = Some(End {
        outcome: Outcome::Answered("paid".into()),
        at_unix_ms: 1,
        waited_us: None,
        ran_us: None,
    });
    let mut stage = Stage::with(|log| log.hold_record(ended)).await;
    let mut backend = stage.backend("b1").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("paid".into()));
    assert!(backend.nothing_for(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn what_another_is_just_writing_is_left_to_it() {
    let mut ended = held_by_another();
    ended.end = Some(End {
        outcome: Outcome::Answered(NOT_WRITTEN_YET.into()),
        at_unix_ms: 1,
        waited_us: None,
        ran_us: None,
    });
    let mut stage = Stage::with(|log| log.hold_record(ended)).await;
    let _backend = stage.backend("b1").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    assert!(stage.no_reply_for(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn a_pure_task_that_another_holds_is_completed_by_whoever_is_first() {
    let mut stage = Stage::with(|log| log.hold_record(held_by_another())).await;
    let _listens = stage.listen("Event_Service:events0").await;
    let mut backend = stage.backend("b1").await;
    stage.ask(REQUEST, PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(stage.reply(REQUEST).await, Ended::Final("15".into()));
    assert_eq!(
        stage.log.only().end.unwrap().outcome,
        Outcome::Answered("15".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_with_an_effect_has_its_backend_in_its_open_record() {
    let stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask(REQUEST, EFFECT, "{}").await;
    backend.dispatch().await;
    let record = stage.log.only();
    assert_eq!(record.id.to_string(), REQUEST);
    let asked = record.progress.backend.unwrap();
    assert_eq!((asked.container.as_str(), record.end), ("b1", None));
}

#[tokio::test(start_paused = true)]
async fn repeats_stay_within_a_tenth_of_the_dispatches() {
    let mut stage = Stage::new().await;
    let mut backends = vec![stage.backend("b1").await, stage.backend("b2").await];
    for n in 0..1_000 {
        stage
            .ask(&format!("r{n}"), PURE, &format!("{{\"n\":{n}}}"))
            .await;
    }
    for n in 0..1_000 {
        assert_eq!(
            stage.failure(&format!("r{n}")).await,
            FailureCode::DeadlineExceeded
        );
    }
    let mut dispatches = 0;
    for backend in &mut backends {
        dispatches += backend.count();
    }
    assert!(
        (1_000..=1_121).contains(&dispatches),
        "{dispatches} dispatches"
    );
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_backend_is_relieved_by_another() {
    let (mut stage, first, refusing, mut other) = first_of_two(EFFECT).await;
    let full = Failure::new(FailureCode::Overloaded, "full");
    refusing.answer(&first, Ended::Failed(full)).await;
    let second = other.dispatch().await;
    other.answer(&second, Ended::Final("done".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("done".into()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_what_is_at_another_backend_by_now_changes_nothing() {
    let (mut stage, first, refusing, mut other) = first_of_two(EFFECT).await;
    let full = Ended::Failed(Failure::new(FailureCode::Overloaded, "full"));
    refusing.answer(&first, full.clone()).await;
    let second = other.dispatch().await;
    refusing.answer(&first, full).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    other.answer(&second, Ended::Final("done".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("done".into()));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_every_backend_refuses_ends() {
    let mut stage = Stage::new().await;
    let mut one = stage.backend("b1").await;
    let mut two = stage.backend("b2").await;
    stage.ask("r1", PURE, "{}").await;
    let full = Ended::Failed(Failure::new(FailureCode::Overloaded, "full"));
    for nth in 1..=4 {
        let (dispatch, refusing) = tokio::select! {
            dispatch = one.dispatch() => (dispatch, &one),
            dispatch = two.dispatch() => (dispatch, &two),
        };
        assert_eq!(dispatch.attempt, Some(nth));
        refusing.answer(&dispatch, full.clone()).await;
    }
    assert_eq!(stage.failure("r1").await, FailureCode::Overloaded);
    assert_eq!(one.count() + two.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_finished_before_the_end() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", EFFECT, "{}").await;
    let dispatch = backend.dispatch().await;
    stage.stop();
    tokio::time::sleep(Duration::from_secs(2)).await;
    backend.answer(&dispatch, Ended::Final("done".into())).await;
    assert_eq!(stage.reply("r1").await, Ended::Final("done".into()));
    stage.ended().await;
    assert!(stage.log.only().end.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_no_record_can_hold_is_refused_or_cut() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    stage.ask("r1", PURE, &"x".repeat(9 << 20)).await;
    assert_eq!(stage.failure("r1").await, FailureCode::BadOperands);
    stage.ask("r2", &"T".repeat(1 << 20), "{}").await;
    assert_eq!(stage.failure("r2").await, FailureCode::BadOperands);
    stage.ask("r3", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    let failure = Failure::new(FailureCode::TaskFailed, "é".repeat(9 << 20));
    backend.answer(&dispatch, Ended::Failed(failure)).await;
    assert!(ended_text(&stage.reply("r3").await).len() < 1 << 20);
    assert_eq!(stage.log.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_none_are_dropped() {
    let mut stage = Stage::new().await;
    let mut backend = stage.backend("b1").await;
    for garbage in [
        "",
        "{",
        "[]",
        "\"\\x\"",
        "{\"requestId\":1}",
        "null",
        "{\"a\":\"b\"}",
    ] {
        stage.publish_raw(garbage.as_bytes()).await;
    }
    stage.ask("r1", PURE, "{}").await;
    let dispatch = backend.dispatch().await;
    backend.answer(&dispatch, Ended::Final("15".into())).await;
    assert_eq!(ended_text(&stage.reply("r1").await), "15");
}

#[test]
fn the_log_of_these_tests_keeps_the_ports_promises() {
    let (mut log, record) = memory_log::example();
    assert_eq!(log.insert(&record), Written::Done);
    assert_eq!(log.insert(&record), Written::Done);
    assert_eq!(log.complete(&record), Written::Done);
    assert_eq!(log.complete(&record), Written::AlreadyEnded);
}
