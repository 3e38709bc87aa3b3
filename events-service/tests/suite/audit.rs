//! What holds for every audit log.

pub(crate) mod counting;
pub(crate) mod reading;
pub(crate) mod together;
pub(crate) mod writing;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use events_service::audit::{AuditLog, Filter, Record, StoredRecord, Write, Written};
use futures_util::FutureExt;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Where a test's records are: a database or a file of its own.
pub(crate) trait Place {
    /// Another instance of the log, as another service would have.
    fn log(&self) -> Arc<dyn AuditLog>;
    /// How many documents or rows there are.
    async fn count(&self, collection: &str) -> u64;
    /// Changes a text in a record past the log.
    async fn tamper(&self, record: &Record, field: &str, value: &str);
    /// Removes the indexes of the records, and with them what they forbid.
    async fn drop_indexes(&self);
    /// Removes all documents or rows.
    async fn empty(&self, collection: &str);
    /// Removes all that the test has left.
    async fn remove(self);

    /// Another instance, prepared.
    async fn ready(&self) -> Arc<dyn AuditLog> {
        let log = self.log();
        log.prepare().await.unwrap();
        log
    }
}

/// Runs a case and cleans up, however it ends.
pub(crate) async fn check<P: Place>(place: P, case: impl AsyncFnOnce(&P)) {
    let running = AssertUnwindSafe(case(&place)).catch_unwind();
    let outcome = tokio::time::timeout(LIMIT, running).await;
    place.remove().await;
    if let Err(panic) = outcome.expect("a case that ends") {
        std::panic::resume_unwind(panic);
    }
}

/// One test for each case, on places as the function makes them.
macro_rules! audit_suite {
    ($place:path, $part:ident: $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                let case = crate::suite::audit::$part::$case;
                crate::suite::audit::check($place().await, case).await;
            }
        )*
    };
    ($place:path) => {
        crate::suite::audit::audit_suite! { $place, writing:
            an_open_record_is_completed_once
            an_ended_record_is_one_insert
            a_repeated_insert_is_done_and_changes_nothing
            a_repeated_completion_is_told_from_another_one
            a_record_that_is_not_there_is_not_completed
            a_request_has_one_record
            a_request_has_one_record_also_under_one_id
            an_open_record_is_taken_over_once
            an_open_record_says_which_backend_is_asked
            texts_are_stored_once
            a_failed_record_says_why
            records_past_their_deadline_are_closed
            a_large_batch_is_answered_in_order
            a_batch_of_large_texts_is_written
        }
        crate::suite::audit::audit_suite! { $place, reading:
            answers_come_from_what_a_backend_answered
            answers_are_for_the_same_question
            a_lost_response_answers_nobody
            lists_are_filtered_and_newest_first
            a_record_that_is_not_there_is_not_shown
            texts_of_all_kinds_are_kept
            what_is_written_is_read_back
        }
        crate::suite::audit::audit_suite! { $place, counting:
            an_empty_log_is_balanced
            every_record_counts_once_as_what_became_of_it
            what_is_open_past_its_deadline_is_overdue_until_it_is_closed
            an_answer_whose_response_is_gone_is_found
            records_that_contradict_themselves_are_found
            a_request_with_two_records_is_found
            only_what_was_received_in_the_window_counts
        }
        crate::suite::audit::audit_suite! { $place, together:
            instances_that_start_at_once_agree
            instances_that_write_at_once_do_not_disturb_each_other
            nothing_works_unprepared_or_closed_and_nothing_hangs
        }
    };
}
pub(crate) use audit_suite;

async fn write(log: &dyn AuditLog, write: Write) -> Written {
    let written = log.write(&[write]).await.unwrap();
    assert_eq!(written.len(), 1);
    written[0]
}

async fn insert(log: &dyn AuditLog, record: &Record) -> Written {
    write(log, Write::Insert(record.clone())).await
}

async fn complete(log: &dyn AuditLog, record: &Record) -> Written {
    write(log, Write::Complete(record.clone())).await
}

async fn show(log: &dyn AuditLog, record: &Record) -> StoredRecord {
    log.show(record.id).await.unwrap().expect("a stored record")
}

/// The ids of what is listed.
async fn list(log: &dyn AuditLog, filter: Filter) -> Vec<String> {
    let listed = log.list(&filter).await.unwrap();
    listed.into_iter().map(|record| record.id).collect()
}
