//! What is read back.

use events_service::audit::{Filter, Outcome, Record, Status, StoredRecord, Write, Written};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use shared::contract::FailureCode;

use super::{Place, complete, insert, list, show};
use crate::suite::records::*;

pub(crate) async fn answers_come_from_what_a_backend_answered(place: &impl Place) {
    let log = place.ready().await;
    let original = answered("15");
    let not_pure = Record {
        pure: false,
        ..answered("1")
    };
    let still_open = open();
    let without_result = ended(open(), failed(FailureCode::DivisionByZero));
    let repeated = Outcome::Repeated {
        text: "15".into(),
        from: original.id,
    };
    let only_repeated = ended(open(), repeated.clone());
    let completed = open();
    let unknown = open();
    assert!(!log.has_answers().await.unwrap());
    let none = [not_pure, still_open, without_result, only_repeated];
    log.write(&inserts(&none)).await.unwrap();
    assert!(!log.has_answers().await.unwrap());

    let again = Record {
        body: original.body.clone(),
        ..open()
    };
    let again = ended(again, repeated);
    log.write(&inserts(&[
        again.clone(),
        original.clone(),
        completed.clone(),
    ]))
    .await
    .unwrap();
    complete(
        &*log,
        &ended(completed.clone(), Outcome::Answered(String::new())),
    )
    .await;
    assert!(log.has_answers().await.unwrap());

    let asked = none
        .iter()
        .chain([&original, &unknown, &completed, &original]);
    let questions: Vec<_> = asked.map(question).collect();
    let answers = log.find_answers(&questions).await.unwrap();
    let found: Vec<_> = answers
        .iter()
        .map(|a| a.as_ref().map(|a| (a.record, a.text.as_str())))
        .collect();
    let (first, last) = (Some((original.id, "15")), Some((completed.id, "")));
    assert_eq!(found, [None, None, None, None, first, None, last, first]);
    assert_eq!(show(&*log, &again).await, stored(&again));
    assert!(log.find_answers(&[]).await.unwrap().is_empty());
}

pub(crate) async fn answers_are_for_the_same_question(place: &impl Place) {
    let log = place.ready().await;
    let names = ["A", "B", "a", ""];
    let mut records = Vec::new();
    for (task, subtask) in [("A", "B"), ("B", "A"), ("A", "A"), ("a", ""), ("", "a")] {
        for service in ["s", "S", "t"] {
            let text = format!("{task}-{subtask}-{service}");
            let mut record = answered(&text);
            record.body = "{}".into();
            (record.task, record.subtask) = (task.into(), subtask.into());
            record.frontend.service = service.parse().unwrap();
            records.push(record);
        }
    }
    log.write(&inserts(&records)).await.unwrap();
    let mut questions = Vec::new();
    for (task, subtask) in names.iter().flat_map(|a| names.map(|b| (*a, b))) {
        for (service, body) in [
            ("s", "{}"),
            ("S", "{}"),
            ("t", "{}"),
            ("u", "{}"),
            ("s", "{} "),
        ] {
            let record = &records[0];
            let mut asked = question(record);
            (asked.task, asked.subtask) = (task.into(), subtask.into());
            (asked.from_service, asked.body) = (service.into(), body.into());
            questions.push(asked);
        }
    }
    let answers = log.find_answers(&questions).await.unwrap();
    let mut found = 0;
    for (asked, answer) in questions.iter().zip(answers) {
        let record = records.iter().find(|record| question(record) == *asked);
        assert_eq!(
            answer.as_ref().map(|answer| answer.record),
            record.map(|record| record.id)
        );
        let text = format!("{}-{}-{}", asked.task, asked.subtask, asked.from_service);
        assert!(answer.is_none_or(|answer| answer.text == text), "{asked:?}");
        found += usize::from(record.is_some());
    }
    assert_eq!(found, records.len());
}

pub(crate) async fn a_lost_response_answers_nobody(place: &impl Place) {
    let log = place.ready().await;
    let record = answered(&long("15"));
    insert(&*log, &record).await;
    place.empty("responses").await;
    assert_eq!(
        log.find_answers(&[question(&record)]).await.unwrap(),
        [None]
    );
    let read = show(&*log, &record).await;
    assert_eq!(
        read,
        StoredRecord {
            response: None,
            ..stored(&record)
        }
    );
    // Whoever starts anew stores it again.
    let again = answered(&long("15"));
    insert(&*place.ready().await, &again).await;
    let found = log.find_answers(&[question(&record)]).await.unwrap();
    assert_eq!(found[0].as_ref().unwrap().text, long("15"));
}

pub(crate) async fn lists_are_filtered_and_newest_first(place: &impl Place) {
    let log = place.ready().await;
    let outcomes = [
        None,
        Some(Outcome::Answered("x".into())),
        Some(failed(FailureCode::TaskFailed)),
        Some(failed(FailureCode::DeadlineExceeded)),
        Some(failed(FailureCode::Abandoned)),
    ];
    // Written in another order than received; six records, of which the last has the first's status.
    let mut records = Vec::new();
    for n in [3usize, 0, 5, 1, 4, 2] {
        let record = Record {
            received_unix_ms: THEN + n as u64 * 1_000,
            caller_request_id: (n == 2).then(|| "the caller's".into()),
            ..open()
        };
        let record = match &outcomes[n % outcomes.len()] {
            Some(outcome) => ended(record, outcome.clone()),
            None => record,
        };
        records.push(record);
    }
    log.write(&inserts(&records)).await.unwrap();
    records.sort_by_key(|record| std::cmp::Reverse(record.received_unix_ms));
    let ids: Vec<String> = records.iter().map(|record| record.id.to_string()).collect();
    let all = Filter {
        records_max: 100,
        ..Filter::default()
    };

    let listed = log.list(&all).await.unwrap();
    assert_eq!(listed, records.iter().map(stored).collect::<Vec<_>>());
    assert_eq!(
        list(
            &*log,
            Filter {
                records_max: 2,
                ..all.clone()
            }
        )
        .await,
        ids[..2]
    );
    assert!(log.list(&Filter::default()).await.unwrap().is_empty());

    for (n, status) in Status::ALL.into_iter().enumerate() {
        let expected: Vec<_> = match n {
            0 => vec![ids[0].clone(), ids[5].clone()],
            _ => vec![ids[5 - n].clone()],
        };
        let filter = Filter {
            status: Some(status),
            ..all.clone()
        };
        assert_eq!(list(&*log, filter).await, expected, "{status:?}");
    }
    let within = |since: Option<u64>, until: Option<u64>| Filter {
        since_unix_ms: since.map(|ms| THEN + ms),
        until_unix_ms: until.map(|ms| THEN + ms),
        ..all.clone()
    };
    assert_eq!(list(&*log, within(Some(2_000), None)).await, ids[..4]);
    assert_eq!(list(&*log, within(None, Some(2_000))).await, ids[4..]);
    assert_eq!(
        list(&*log, within(Some(1_001), Some(4_000))).await,
        ids[2..4]
    );
    let of = |request: &str| Filter {
        request_id: Some(request.into()),
        ..all.clone()
    };
    assert_eq!(
        list(&*log, of(records[1].request_id.as_str())).await,
        ids[1..2]
    );
    assert_eq!(list(&*log, of("the caller's")).await, ids[3..4]);
    assert!(list(&*log, of("nobody's")).await.is_empty());
    let both = Filter {
        status: Some(Status::Open),
        ..of("the caller's")
    };
    assert!(list(&*log, both).await.is_empty());
}

pub(crate) async fn a_record_that_is_not_there_is_not_shown(place: &impl Place) {
    let log = place.ready().await;
    assert_eq!(log.show(open().id).await.unwrap(), None);
    log.ping().await.unwrap();
}

pub(crate) async fn texts_of_all_kinds_are_kept(place: &impl Place) {
    let log = place.ready().await;
    for text in [
        "",
        "\0",
        "a\0",
        "\0a",
        "\u{FEFF}",
        "é",
        "e\u{301}",
        "\u{1F600}",
        "\"",
        "'; --",
    ] {
        let record = Record {
            body: text.into(),
            task: text.into(),
            subtask: text.into(),
            request_id: format!("r{text}").parse().unwrap(),
            caller_request_id: Some(text.into()),
            ..open()
        };
        let record = ended(record, Outcome::Answered(text.into()));
        assert_eq!(insert(&*log, &record).await, Written::Done, "{text:?}");
        assert_eq!(show(&*log, &record).await, stored(&record));
        let found = log.find_answers(&[question(&record)]).await.unwrap();
        let found = found[0]
            .as_ref()
            .map(|answer| (answer.record, answer.text.as_str()));
        assert_eq!(found, Some((record.id, text)));
        let by_request = Filter {
            request_id: Some(record.request_id.to_string()),
            records_max: 9,
            ..Filter::default()
        };
        assert_eq!(list(&*log, by_request).await, [record.id.to_string()]);
    }
}

pub(crate) async fn what_is_written_is_read_back(place: &impl Place) {
    let log = place.ready().await;
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..20 {
        // (The runner's own loop is not async.)
        let batch = proptest::collection::vec(records(), 0..30);
        let batch = batch.new_tree(&mut runner).unwrap().current();
        let written = log.write(&inserts(&batch)).await.unwrap();
        assert_eq!(written, vec![Written::Done; batch.len()]);
        for record in &batch {
            assert_eq!(show(&*log, record).await, stored(record), "{record:?}");
        }
        // The open ones, completed.
        let ends =
            proptest::collection::vec(records().prop_filter("ended", |r| r.end.is_some()), 30);
        let ends = ends.new_tree(&mut runner).unwrap().current();
        let open = batch.iter().filter(|record| record.end.is_none());
        let completed: Vec<_> = open
            .zip(ends)
            .map(|(record, other)| Record {
                progress: other.progress,
                end: other.end,
                ..record.clone()
            })
            .collect();
        let completions: Vec<_> = completed.iter().cloned().map(Write::Complete).collect();
        let written = log.write(&completions).await.unwrap();
        assert_eq!(written, vec![Written::Done; completions.len()]);
        for record in &completed {
            let read = show(&*log, record).await;
            // What the completion does not say stays as it was.
            let before = batch.iter().find(|before| before.id == record.id).unwrap();
            let mut expected = record.clone();
            let (was, is) = (&before.progress, &mut expected.progress);
            is.dispatched_unix_ms = is.dispatched_unix_ms.or(was.dispatched_unix_ms);
            is.backend = is.backend.take().or(was.backend.clone());
            is.image = is.image.take().or(was.image.clone());
            assert_eq!(read, stored(&expected), "{record:?}");
        }
    }
}
