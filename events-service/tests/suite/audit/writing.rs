//! What is written, and what is not.

use events_service::audit::{
    Filter, Outcome, Overdue, Record, Status, StoredRecord, Write, Written,
};
use shared::contract::{Address, FailureCode};

use super::{Place, complete, insert, show};
use crate::suite::records::*;

pub(crate) async fn an_open_record_is_completed_once(place: &impl Place) {
    let log = place.ready().await;
    let record = open();
    assert_eq!(insert(&*log, &record).await, Written::Done);
    assert_eq!(show(&*log, &record).await, stored(&record));

    let first = ended(record.clone(), Outcome::Answered("1".into()));
    assert_eq!(complete(&*log, &first).await, Written::Done);
    assert_eq!(show(&*log, &record).await, stored(&first));

    let second = ended(record.clone(), Outcome::Answered("2".into()));
    assert_eq!(complete(&*log, &second).await, Written::AlreadyEnded);
    let late = ended(record.clone(), failed(FailureCode::DeadlineExceeded));
    assert_eq!(complete(&*log, &late).await, Written::AlreadyEnded);
    assert_eq!(show(&*log, &record).await, stored(&first));
}

pub(crate) async fn an_ended_record_is_one_insert(place: &impl Place) {
    let log = place.ready().await;
    let record = answered("42");
    assert_eq!(insert(&*log, &record).await, Written::Done);
    assert_eq!(show(&*log, &record).await, stored(&record));
    let other = ended(record.clone(), Outcome::Answered("43".into()));
    assert_eq!(complete(&*log, &other).await, Written::AlreadyEnded);
    assert_eq!(show(&*log, &record).await, stored(&record));
}

pub(crate) async fn a_repeated_insert_is_done_and_changes_nothing(place: &impl Place) {
    let log = place.ready().await;
    let (one, other) = (open(), answered("x"));
    for _ in 0..3 {
        let written = log
            .write(&inserts(&[one.clone(), other.clone()]))
            .await
            .unwrap();
        assert_eq!(written, [Written::Done; 2]);
    }
    let end = ended(one.clone(), Outcome::Answered("y".into()));
    assert_eq!(complete(&*log, &end).await, Written::Done);
    // It is not open any more: whoever offers the request again is told so.
    assert_eq!(insert(&*log, &one).await, Written::DuplicateRequest);
    assert_eq!(show(&*log, &one).await, stored(&end));
    assert_eq!(place.count("tasks").await, 2);
}

pub(crate) async fn a_repeated_completion_is_told_from_another_one(place: &impl Place) {
    let log = place.ready().await;
    let records: Vec<_> = (0..3).map(|_| open()).collect();
    log.write(&inserts(&records)).await.unwrap();
    let end = |record: &Record, text: &str| {
        Write::Complete(ended(record.clone(), Outcome::Answered(text.into())))
    };
    log.write(&[end(&records[0], "first"), end(&records[1], "first")])
        .await
        .unwrap();
    let batch = [
        end(&records[0], "first"),
        end(&records[1], "other"),
        end(&records[2], "first"),
    ];
    let expected = [Written::Done, Written::AlreadyEnded, Written::Done];
    assert_eq!(log.write(&batch).await.unwrap(), expected);
    assert_eq!(log.write(&batch).await.unwrap(), expected);
}

pub(crate) async fn a_record_that_is_not_there_is_not_completed(place: &impl Place) {
    let log = place.ready().await;
    let record = answered("x");
    assert_eq!(complete(&*log, &record).await, Written::AlreadyEnded);
    assert_eq!(place.count("tasks").await, 0);
}

pub(crate) async fn a_request_has_one_record(place: &impl Place) {
    let log = place.ready().await;
    let first = open();
    let second = Record {
        request_id: first.request_id.clone(),
        ..answered("x")
    };
    let third = Record {
        request_id: first.request_id.clone(),
        ..open()
    };
    let other = open();
    let batch = inserts(&[first.clone(), second.clone(), other.clone()]);
    let expected = [Written::Done, Written::DuplicateRequest, Written::Done];
    assert_eq!(log.write(&batch).await.unwrap(), expected);
    assert_eq!(insert(&*log, &third).await, Written::DuplicateRequest);
    assert_eq!(log.write(&batch).await.unwrap(), expected);
    assert_eq!(show(&*log, &first).await, stored(&first));
    assert_eq!(log.show(second.id).await.unwrap(), None);
    assert_eq!(place.count("tasks").await, 2);
}

pub(crate) async fn a_request_has_one_record_also_under_one_id(place: &impl Place) {
    let log = place.ready().await;
    let other = |record: &Record| Record {
        events_service: Address::new("another", "app_events-service").unwrap(),
        ..record.clone()
    };
    let opened = open();
    assert_eq!(insert(&*log, &opened).await, Written::Done);
    for twin in [
        other(&opened),
        ended(opened.clone(), failed(FailureCode::TaskFailed)),
    ] {
        assert_eq!(insert(&*log, &twin).await, Written::DuplicateRequest);
    }
    assert_eq!(insert(&*log, &opened).await, Written::Done);
    assert_eq!(show(&*log, &opened).await, stored(&opened));

    let ended = answered("x");
    assert_eq!(insert(&*log, &ended).await, Written::Done);
    let reopened = Record {
        end: None,
        ..ended.clone()
    };
    for twin in [other(&ended), reopened] {
        assert_eq!(insert(&*log, &twin).await, Written::DuplicateRequest);
    }
    assert_eq!(insert(&*log, &ended).await, Written::Done);
    assert_eq!(show(&*log, &ended).await, stored(&ended));
    assert_eq!(place.count("tasks").await, 2);
}

pub(crate) async fn an_open_record_is_taken_over_once(place: &impl Place) {
    let log = place.ready().await;
    let record = open();
    insert(&*log, &record).await;
    let heirs = ["heir1", "heir2"].map(|id| Address::new(id, "app_events-service").unwrap());
    let take = |from: &Address, by: &Address| Write::Reassign {
        id: record.id,
        from: from.container.clone(),
        by: by.clone(),
        backend: None,
    };
    let first = take(&record.events_service, &heirs[0]);
    let second = take(&record.events_service, &heirs[1]);
    // Repeating it is harmless: the acknowledgement may have been lost.
    for (write, expected) in [
        (&first, Written::Done),
        (&second, Written::AlreadyEnded),
        (&first, Written::Done),
    ] {
        assert_eq!(
            log.write(std::slice::from_ref(write)).await.unwrap(),
            [expected]
        );
    }
    let taken = Record {
        events_service: heirs[0].clone(),
        ..record.clone()
    };
    assert_eq!(show(&*log, &taken).await, stored(&taken));
    let end = ended(taken, Outcome::Answered("x".into()));
    assert_eq!(complete(&*log, &end).await, Written::Done);
    let late = take(&heirs[0], &heirs[1]);
    assert_eq!(log.write(&[late]).await.unwrap(), [Written::AlreadyEnded]);
    assert_eq!(show(&*log, &end).await, stored(&end));
}

pub(crate) async fn an_open_record_says_which_backend_is_asked(place: &impl Place) {
    let log = place.ready().await;
    let record = open();
    insert(&*log, &record).await;
    let holder = &record.events_service;
    let moved = Write::Reassign {
        id: record.id,
        from: holder.container.clone(),
        by: holder.clone(),
        backend: Some(Address::new("other", "app_backend").unwrap()),
    };
    for _ in 0..2 {
        let written = log.write(std::slice::from_ref(&moved)).await.unwrap();
        assert_eq!(written, [Written::Done]);
    }
    let shown = show(&*log, &record).await;
    assert_eq!(shown.status, "open");
    assert_eq!(shown.backend_container.as_deref(), Some("other"));
    assert_eq!(shown.backend_service.as_deref(), Some("app_backend"));
    assert_eq!(shown.events_container, stored(&record).events_container);
}

pub(crate) async fn texts_are_stored_once(place: &impl Place) {
    let (log, other) = (place.ready().await, place.ready().await);
    let same = |n: u64| {
        let record = Record {
            body: long("the same body"),
            received_unix_ms: THEN + n,
            ..open()
        };
        ended(record, Outcome::Answered(long("the same answer")))
    };
    for log in [&log, &other, &log] {
        let records: Vec<_> = (0..10).map(same).collect();
        assert_eq!(
            log.write(&inserts(&records)).await.unwrap(),
            [Written::Done; 10]
        );
        assert_eq!(show(&**log, &records[9]).await, stored(&records[9]));
    }
    let record = Record {
        body: long("another body"),
        ..open()
    };
    insert(&*log, &record).await;
    let end = ended(record, Outcome::Answered(long("the same body")));
    complete(&*other, &end).await;
    assert_eq!(show(&*log, &end).await, stored(&end));
    let counts = [place.count("tasks").await, place.count("requests").await];
    assert_eq!((counts, place.count("responses").await), ([31, 2], 2));
}

pub(crate) async fn a_failed_record_says_why(place: &impl Place) {
    let log = place.ready().await;
    for &code in FailureCode::ALL {
        let at_once = ended(open(), failed(code));
        assert_eq!(insert(&*log, &at_once).await, Written::Done);
        let later = open();
        insert(&*log, &later).await;
        let later = ended(later, failed(code));
        assert_eq!(complete(&*log, &later).await, Written::Done);
        assert_eq!(complete(&*log, &later).await, Written::Done);
        for record in [at_once, later] {
            let read = show(&*log, &record).await;
            assert_eq!(read, stored(&record));
            let status = match code {
                FailureCode::DeadlineExceeded => Status::TimedOut,
                FailureCode::Abandoned => Status::Abandoned,
                _ => Status::Failed,
            };
            assert_eq!(read.status, status.as_str());
        }
    }
    assert_eq!(place.count("responses").await, 0);
}

pub(crate) async fn records_past_their_deadline_are_closed(place: &impl Place) {
    let (log, other) = (place.ready().await, place.ready().await);
    let due = |ms: u64| Record {
        deadline_unix_ms: THEN + ms,
        ..open()
    };
    let (early, just, late) = (due(1_000), due(2_000), due(3_000));
    let done = ended(due(1_000), Outcome::Answered("x".into()));
    let failed = ended(due(1_000), failed(FailureCode::TaskFailed));
    let all = [
        early.clone(),
        just.clone(),
        late.clone(),
        done.clone(),
        failed.clone(),
    ];
    log.write(&inserts(&all)).await.unwrap();
    let now = THEN + 2_500;
    let living = Overdue {
        spared: vec![open().events_service.container],
        ..overdue(u64::MAX, now)
    };
    assert_eq!(other.close_overdue(&living).await.unwrap(), 0);
    assert_eq!(
        other
            .close_overdue(&overdue(THEN + 2_000, now))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        log.close_overdue(&overdue(THEN + 2_001, now))
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        log.close_overdue(&overdue(THEN + 2_001, now))
            .await
            .unwrap(),
        0
    );
    for (record, is_closed) in [
        (&early, true),
        (&just, true),
        (&late, false),
        (&done, false),
        (&failed, false),
    ] {
        let read = show(&*log, record).await;
        if is_closed {
            assert!(
                read.detail
                    .as_ref()
                    .is_some_and(|detail| !detail.is_empty())
            );
            let expected = StoredRecord {
                status: "abandoned".into(),
                reason: Some("abandoned".into()),
                detail: read.detail.clone(),
                ended_time: Some(shown(now)),
                ..stored(record)
            };
            assert_eq!(read, expected);
        } else {
            assert_eq!(read, stored(record));
        }
    }
    let late_result = ended(early, Outcome::Answered("x".into()));
    assert_eq!(complete(&*log, &late_result).await, Written::AlreadyEnded);
}

pub(crate) async fn a_large_batch_is_answered_in_order(place: &impl Place) {
    let log = place.ready().await;
    let before: Vec<_> = (0..300).map(|_| open()).collect();
    let over: Vec<_> = (0..100).map(|n| answered(&format!("over {n}"))).collect();
    log.write(&inserts(&before)).await.unwrap();
    log.write(&inserts(&over)).await.unwrap();
    let mut batch = Vec::new();
    for n in 0..1_000usize {
        let outcome = Outcome::Answered(format!("{}", n % 50));
        batch.push(match n % 10 {
            0..3 => Write::Complete(ended(before[n / 10 * 3 + n % 10].clone(), outcome)),
            3 => Write::Complete(ended(over[n / 10].clone(), outcome)),
            4 => Write::Insert(Record {
                request_id: over[n / 10].request_id.clone(),
                ..open()
            }),
            5 => Write::Insert(over[n / 10].clone()),
            6 => Write::Insert(ended(open(), failed(FailureCode::TaskFailed))),
            7 => Write::Insert(ended(open(), outcome)),
            _ => Write::Insert(open()),
        });
    }
    let written = log.write(&batch).await.unwrap();
    assert_eq!(written.len(), batch.len());
    for (n, written) in written.into_iter().enumerate() {
        let expected = match n % 10 {
            3 => Written::AlreadyEnded,
            4 => Written::DuplicateRequest,
            _ => Written::Done,
        };
        assert_eq!(written, expected, "write {n}");
    }
    assert_eq!(place.count("tasks").await, 300 + 100 + 400);
    let sample = [&batch[0], &batch[996], &batch[997], &batch[999]];
    for write in sample {
        let (Write::Insert(record) | Write::Complete(record)) = write else {
            continue;
        };
        assert_eq!(show(&*log, record).await, stored(record));
    }
    assert!(log.write(&[]).await.unwrap().is_empty());
}

pub(crate) async fn a_batch_of_large_texts_is_written(place: &impl Place) {
    let log = place.ready().await;
    // More than a message of MongoDB's protocol (48 MB) or a command (16 MiB) can hold.
    let large = |n: usize| format!("{n}{}", "\u{1F600}".repeat((1 << 18) - 1));
    let record = |n: usize| {
        let record = Record {
            body: large(n),
            ..open()
        };
        ended(record, Outcome::Answered(large(n + 1_000)))
    };
    let records: Vec<_> = (0..30).map(record).collect();
    assert_eq!(
        log.write(&inserts(&records)).await.unwrap(),
        [Written::Done; 30]
    );
    assert_eq!(show(&*log, &records[29]).await, stored(&records[29]));
    let listed = log
        .list(&Filter {
            records_max: 30,
            ..Filter::default()
        })
        .await
        .unwrap();
    assert!(
        listed
            .iter()
            .all(|record| record.request.is_some() && record.response.is_some())
    );
    assert_eq!(listed.len(), 30);
}
