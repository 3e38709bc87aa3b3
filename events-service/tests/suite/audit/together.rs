//! Several instances on one store, and an instance before and after its time.

use events_service::audit::{AuditError, Outcome, Record, Write, Written};
use futures_util::future::join_all;

use super::{Place, insert, show};
use crate::suite::records::*;

pub(crate) async fn instances_that_start_at_once_agree(place: &impl Place) {
    let logs: Vec<_> = (0..8).map(|_| place.log()).collect();
    let preparing = logs.iter().map(async |log| {
        while let Err(error) = log.prepare().await {
            assert!(matches!(error, AuditError::Unavailable { .. }), "{error}");
        }
    });
    join_all(preparing).await;
    let record = Record {
        body: long("a body"),
        ..answered(&long("15"))
    };
    insert(&*logs[0], &record).await;
    for log in &logs {
        log.prepare().await.unwrap();
        let answers = log.find_answers(&[question(&record)]).await.unwrap();
        assert_eq!(
            answers[0].as_ref().map(|answer| answer.record),
            Some(record.id)
        );
        let again = Record {
            body: record.body.clone(),
            ..answered(&long("15"))
        };
        insert(&**log, &again).await;
    }
    assert_eq!(
        (
            place.count("requests").await,
            place.count("responses").await
        ),
        (1, 1)
    );
}

pub(crate) async fn instances_that_write_at_once_do_not_disturb_each_other(place: &impl Place) {
    const ROUNDS: usize = 20;
    let logs = [place.ready().await, place.ready().await];
    // Both write the same texts, and both write each request: one of them is told of the other.
    let batches = |_| -> Vec<Vec<Record>> {
        let record = |n: usize| {
            let request_id = format!("request {n}").parse().unwrap();
            let body = long(&format!("{}", n % 7));
            ended(
                Record {
                    request_id,
                    body,
                    ..open()
                },
                Outcome::Answered(long(&format!("{}", n % 5))),
            )
        };
        (0..ROUNDS)
            .map(|round| (0..50).map(|n| record(round * 50 + n)).collect())
            .collect()
    };
    let batches: Vec<_> = (0..logs.len()).map(batches).collect();
    let writing = logs.iter().zip(&batches).map(|(log, batches)| {
        join_all(
            batches
                .iter()
                .map(async |batch| log.write(&inserts(batch)).await.unwrap()),
        )
    });
    let written = join_all(writing).await;
    for (round, n) in (0..ROUNDS).flat_map(|round| (0..50).map(move |n| (round, n))) {
        let both = [written[0][round][n], written[1][round][n]];
        assert!(both.contains(&Written::Done), "{both:?}");
        assert!(both.contains(&Written::DuplicateRequest), "{both:?}");
    }
    assert_eq!(place.count("tasks").await, 50 * ROUNDS as u64);
    assert_eq!(
        (
            place.count("requests").await,
            place.count("responses").await
        ),
        (7, 5)
    );

    // Both complete the same open records, differently: each has one end.
    let opened: Vec<_> = (0..200).map(|_| open()).collect();
    logs[0].write(&inserts(&opened)).await.unwrap();
    let ends = ["one", "two"].map(|text| -> Vec<Write> {
        let end = |record: &Record| ended(record.clone(), Outcome::Answered(text.into()));
        opened
            .iter()
            .map(|record| Write::Complete(end(record)))
            .collect()
    });
    let (one, two) = tokio::join!(logs[0].write(&ends[0]), logs[1].write(&ends[1]));
    for ((one, two), record) in one.unwrap().into_iter().zip(two.unwrap()).zip(&opened) {
        let response = show(&*logs[0], record).await.response.unwrap();
        let expected = match response.as_str() {
            "one" => (Written::Done, Written::AlreadyEnded),
            _ => (Written::AlreadyEnded, Written::Done),
        };
        assert_eq!((one, two), expected);
    }
}

pub(crate) async fn nothing_works_unprepared_or_closed_and_nothing_hangs(place: &impl Place) {
    let log = place.log();
    let record = answered("x");
    let refused = log.write(&inserts(std::slice::from_ref(&record))).await;
    assert!(
        matches!(refused, Err(AuditError::Unavailable { .. })),
        "{refused:?}"
    );
    let refused = log.find_answers(&[question(&record)]).await;
    assert!(
        matches!(refused, Err(AuditError::Unavailable { .. })),
        "{refused:?}"
    );
    log.prepare().await.unwrap();
    assert_eq!(insert(&*log, &record).await, Written::Done);
    log.close().await;
    log.close().await;
    let refused = log.ping().await;
    assert!(
        matches!(refused, Err(AuditError::Unavailable { .. })),
        "{refused:?}"
    );
    let refused = log.write(&inserts(std::slice::from_ref(&record))).await;
    assert!(
        matches!(refused, Err(AuditError::Unavailable { .. })),
        "{refused:?}"
    );
    let other = place.ready().await;
    assert_eq!(show(&*other, &record).await, stored(&record));
}
