//! `TEXT_DOCUMENTS=long`: short texts stand in their records only.

use anyhow::{Result, ensure};
use e2e::{
    bare::{Bare, Kind},
    case::run,
    load,
    process::Signal,
    records::Records,
    until::{SOON, until_true},
};
use mongodb::bson::Document;

#[test]
fn what_was_left_out_answers_and_is_written_once_it_is_wanted() {
    run(async |case| {
        let mut bare = Bare::new(case)?.with("TEXT_DOCUMENTS", "long");
        let mut up = bare.up(1, 1, 1).await?;
        let records = bare.records().await?;
        // The first have documents, until it is marked where they begin to be left out.
        let mut asked = 0;
        until_true("texts to be left out", SOON, async || {
            let before = texts(&records).await?;
            load::ask(&up.addresses(), asked, 20, 4)
                .await?
                .ensure_all_right()?;
            asked += 20;
            Ok(texts(&records).await? == before)
        })
        .await?;

        bare.set("TEXT_DOCUMENTS", "all");
        up.events_services.push(bare.start(Kind::EventsService)?);
        up.ready().await?;
        let mut old = up.events_services.remove(0);
        old.process.signal(Signal::TERM)?;
        ensure!(old.process.exit_code(SOON).await? == 0, "it ended badly");

        // The newcomer has nothing in mind: what it answers with stands in the log.
        load::ask(&up.addresses(), asked - 20, 20, 4)
            .await?
            .ensure_all_right()?;
        let tasks = records.tasks().await?;
        let from_log = tasks
            .iter()
            .filter(|task| task.contains_key("answeredFromId"));
        ensure!(from_log.count() >= 20, "asked backends again: {tasks:?}");
        let requests = records.distinct("requestBodyId").await?.len();
        until_true("every text to have its document", SOON, async || {
            Ok(texts(&records).await? == requests)
        })
        .await?;
        for task in records.asked().await? {
            records.check_answered(&task).await?;
        }
        up.ensure_all_running()
    });
}

async fn texts(records: &Records) -> Result<usize> {
    Ok(records.all::<Document>("requests").await?.len())
}
