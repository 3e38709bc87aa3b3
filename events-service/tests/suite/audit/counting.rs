//! The log's side of the ledger.

use std::collections::BTreeMap;

use events_service::audit::{AuditLog, Balance, BalanceQuery, Finding, Outcome, Record};
use shared::contract::FailureCode;

use super::Place;
use crate::suite::records::*;

/// As one asks for all records a second after the deadline of [`open`] ones.
const ALL: BalanceQuery = BalanceQuery {
    since_unix_ms: None,
    until_unix_ms: None,
    settled_before_unix_ms: THEN + 4_000,
};

/// A record dispatched so many times.
fn attempts(attempts: u32, mut record: Record) -> Record {
    record.progress.attempts = attempts;
    record
}

async fn count(log: &dyn AuditLog, query: &BalanceQuery) -> Balance {
    log.balance(query).await.unwrap()
}

fn found(of: &[&Record]) -> Finding {
    let mut first: Vec<_> = of.iter().map(|record| record.id.to_string()).collect();
    first.sort_unstable();
    Finding {
        count: of.len() as u64,
        first,
    }
}

fn sorted(mut finding: Finding) -> Finding {
    finding.first.sort_unstable();
    finding
}

pub(crate) async fn an_empty_log_is_balanced(place: &impl Place) {
    let log = place.ready().await;
    assert_eq!(count(&*log, &ALL).await, Balance::default());
}

pub(crate) async fn every_record_counts_once_as_what_became_of_it(place: &impl Place) {
    let log = place.ready().await;
    let original = attempts(2, answered("15"));
    let repeated = Outcome::Repeated {
        text: "15".into(),
        from: original.id,
    };
    let failures = [
        FailureCode::DivisionByZero,
        FailureCode::DivisionByZero,
        FailureCode::UnknownTask,
        FailureCode::DeadlineExceeded,
        FailureCode::Abandoned,
    ];
    let mut records = vec![
        original,
        answered(""),
        attempts(7, ended(open(), repeated.clone())),
        ended(open(), repeated),
        open(),
        attempts(3, open()),
    ];
    records.extend(failures.map(|code| ended(open(), failed(code))));
    log.write(&inserts(&records)).await.unwrap();

    let balance = count(&*log, &ALL).await;
    let expected = Balance {
        records: 11,
        answered: 2,
        repeated: 2,
        failed: BTreeMap::from([("division_by_zero".into(), 2), ("unknown_task".into(), 1)]),
        timed_out: 1,
        abandoned: 1,
        in_flight: 2,
        // Those of what was answered from another record are that one's.
        attempts: 2 + 1 + 3 + 5,
        attempts_repeated: 1 + 2,
        ..Balance::default()
    };
    assert_eq!(balance, expected);
    assert_eq!((balance.answered_in_all(), balance.executions()), (4, 4));
}

pub(crate) async fn what_is_open_past_its_deadline_is_overdue_until_it_is_closed(
    place: &impl Place,
) {
    let log = place.ready().await;
    let due = |ms| Record {
        deadline_unix_ms: ALL.settled_before_unix_ms + ms - 10,
        ..open()
    };
    let (late, later, in_time) = (due(0), due(9), due(10));
    log.write(&inserts(&[late.clone(), in_time, later.clone()]))
        .await
        .unwrap();
    let balance = count(&*log, &ALL).await;
    assert_eq!((balance.records, balance.in_flight), (3, 1));
    assert_eq!(sorted(balance.overdue), found(&[&late, &later]));

    let before = ALL.settled_before_unix_ms;
    assert_eq!(
        log.close_overdue(&overdue(before, before)).await.unwrap(),
        2
    );
    let balance = count(&*log, &ALL).await;
    assert_eq!((balance.abandoned, balance.in_flight), (2, 1));
    assert_eq!(balance.overdue, Finding::default());
}

pub(crate) async fn an_answer_whose_response_is_gone_is_found(place: &impl Place) {
    let log = place.ready().await;
    let (gone, gone_too) = (long("gone"), long("gone as well"));
    let before = [answered(&gone), answered(&gone), answered(&gone_too)];
    log.write(&inserts(&before)).await.unwrap();
    place.empty("responses").await;
    // Whoever starts anew does not know the texts that were there.
    let log = place.ready().await;
    let without = ended(open(), failed(FailureCode::TaskFailed));
    log.write(&inserts(&[answered("there"), without, open()]))
        .await
        .unwrap();
    let balance = count(&*log, &ALL).await;
    assert_eq!((balance.records, balance.answered), (6, 4));
    assert_eq!(balance.without_response.count, 3);
    let names: Vec<_> = before.iter().map(|record| record.id.to_string()).collect();
    let first = balance.without_response.first;
    assert!(!first.is_empty(), "names one of {names:?}");
    assert!(first.iter().all(|id| names.contains(id)), "{first:?}");
    // Of what has only just ended, the response may still be on its way.
    let at_once = BalanceQuery {
        settled_before_unix_ms: THEN,
        ..ALL
    };
    let balance = count(&*log, &at_once).await;
    assert_eq!(balance.without_response, Finding::default());
}

pub(crate) async fn records_that_contradict_themselves_are_found(place: &impl Place) {
    let log = place.ready().await;
    let records = [
        answered("1"),
        answered("2"),
        ended(open(), failed(FailureCode::TaskFailed)),
        ended(open(), failed(FailureCode::TaskFailed)),
        open(),
        open(),
        answered("3"),
    ];
    log.write(&inserts(&records)).await.unwrap();
    let any_id = records[0].id.to_string();
    for (record, field, value) in [
        (&records[0], "reason", "task_failed"),
        (&records[1], "status", "done"),
        (&records[2], "toResponseBodyId", any_id.as_str()),
        (&records[3], "status", "answered"),
        (&records[4], "status", "timed_out"),
    ] {
        place.tamper(record, field, value).await;
    }
    let balance = count(&*log, &ALL).await;
    assert_eq!(
        (balance.records, balance.answered, balance.in_flight),
        (7, 1, 1)
    );
    assert!(balance.failed.is_empty());
    let contradictory: Vec<_> = records[..5].iter().collect();
    assert_eq!(sorted(balance.contradictory), found(&contradictory));
}

pub(crate) async fn a_request_with_two_records_is_found(place: &impl Place) {
    let log = place.ready().await;
    let records = [answered("1"), answered("2"), answered("3")];
    log.write(&inserts(&records)).await.unwrap();
    assert_eq!(count(&*log, &ALL).await.recorded_twice, Finding::default());
    place.drop_indexes().await;
    let request = records[0].request_id.as_str();
    place.tamper(&records[2], "fromRequestId", request).await;
    let expected = Finding {
        count: 1,
        first: vec![request.to_owned()],
    };
    assert_eq!(count(&*log, &ALL).await.recorded_twice, expected);
}

pub(crate) async fn only_what_was_received_in_the_window_counts(place: &impl Place) {
    let log = place.ready().await;
    let at = |ms| Record {
        received_unix_ms: THEN + ms,
        deadline_unix_ms: THEN,
        ..open()
    };
    let records = [999, 1_000, 1_001, 1_999, 2_000].map(at);
    log.write(&inserts(&records)).await.unwrap();
    for (since, until, expected) in [
        (None, None, 5),
        (Some(1_000), None, 4),
        (Some(1_001), None, 3),
        (None, Some(2_000), 4),
        (None, Some(1_999), 3),
        (Some(1_000), Some(2_000), 3),
        (Some(2_000), Some(2_000), 0),
        (Some(2_001), None, 0),
    ] {
        let window = BalanceQuery {
            since_unix_ms: since.map(|ms| THEN + ms),
            until_unix_ms: until.map(|ms| THEN + ms),
            ..ALL
        };
        let balance = count(&*log, &window).await;
        let counts = (balance.records, balance.overdue.count);
        assert_eq!(counts, (expected, expected), "{since:?} {until:?}");
    }
}
