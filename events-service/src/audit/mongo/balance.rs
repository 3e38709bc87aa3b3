//! The log's side of the ledger, counted by the server: a million records are a few numbers when
//! they come back.

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::{
    COUNTING_MAX, MongoAuditLog,
    documents::{VERSION, date},
    read::{ID_PATTERN, id, integer, received_within},
};
use crate::audit::{
    AuditError, Balance, BalanceQuery, Finding, Older, Status,
    balance::{Group, Kind, NAMED_MAX},
};

impl MongoAuditLog {
    pub(super) async fn balanced(&self, query: &BalanceQuery) -> Result<Balance, AuditError> {
        let kinds = vec![ours(query), doc! { "$set": { "kind": kind(query) } }];
        let of_kind = |kind: Kind| {
            let mut those = kinds.clone();
            those.push(doc! { "$match": { "kind": kind.as_str() } });
            those
        };
        let mut balance = Balance::default();
        for group in self.aggregate(then(&kinds, by_kind())).await? {
            balance.add(read_group(&group));
        }
        for (kind, finding) in [
            (Kind::Overdue, &mut balance.overdue),
            (Kind::Contradictory, &mut balance.contradictory),
        ] {
            finding.first = self.first(&of_kind(kind), finding.count).await?;
        }
        balance.without_response = self.found(&without_response(query), "$records").await?;
        balance.recorded_twice = self.found(&recorded_twice(query), 1).await?;
        balance.older = self.older(query).await?;
        Ok(balance)
    }

    /// How much a pipeline finds, and the first of it.
    async fn found(
        &self,
        pipeline: &[Document],
        each: impl Into<mongodb::bson::Bson>,
    ) -> Result<Finding, AuditError> {
        let counting = doc! { "$group": { "_id": null, "count": { "$sum": each.into() } } };
        let counted = self.aggregate(then(pipeline, counting)).await?;
        let count = counted.first().map_or(0, |group| whole(group, "count"));
        let first = self.first(pipeline, count).await?;
        Ok(Finding { count, first })
    }

    /// The first of what a pipeline finds, if it finds anything.
    async fn first(&self, pipeline: &[Document], count: u64) -> Result<Vec<String>, AuditError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut pipeline = then(pipeline, doc! { "$limit": i64::from(NAMED_MAX) });
        pipeline.push(doc! { "$project": { "name": { "$ifNull": ["$name", "$_id"] } } });
        let found = self.aggregate(pipeline).await?;
        let name = |found: &Document| {
            let name = found.get("name");
            let text = || name?.as_str().map(str::to_owned);
            id(name).or_else(text).unwrap_or_default()
        };
        Ok(found.iter().map(name).collect())
    }

    async fn older(&self, query: &BalanceQuery) -> Result<Older, AuditError> {
        let those = doc! { "$match": within(query, doc! { "v": { "$ne": VERSION } }) };
        let names_a_response = doc! { "$or": [
            { "$eq": [{ "$type": "$toResponseBodyId" }, "objectId"] },
            { "$and": [
                { "$eq": [{ "$type": "$toResponseBodyId" }, "string"] },
                { "$regexMatch": { "input": "$toResponseBodyId", "regex": ID_PATTERN } },
            ] },
        ] };
        let counting = doc! { "$group": {
            "_id": null,
            "records": { "$sum": 1 },
            "answered": { "$sum": { "$cond": [names_a_response, 1, 0] } },
        } };
        let counted = self.aggregate(vec![those, counting]).await?;
        let counted = counted.first();
        let number = |field| counted.map_or(0, |group| whole(group, field));
        Ok(Older {
            records: number("records"),
            answered: number("answered"),
        })
    }

    async fn aggregate(&self, pipeline: Vec<Document>) -> Result<Vec<Document>, AuditError> {
        let tasks = self.database().await?.collection::<Document>("tasks");
        let counting = tasks
            .aggregate(pipeline)
            .allow_disk_use(true)
            .max_time(COUNTING_MAX);
        let counted = async { counting.await?.try_collect().await };
        counted.await.map_err(|error| self.failure(&error))
    }
}

fn then(pipeline: &[Document], stage: Document) -> Vec<Document> {
    let mut pipeline = pipeline.to_vec();
    pipeline.push(stage);
    pipeline
}

/// The one place that says which records a balance is about.
fn within(query: &BalanceQuery, which: Document) -> Document {
    match received_within(query.since_unix_ms, query.until_unix_ms) {
        Some(received) => doc! { "$and": [which, received] },
        None => which,
    }
}

fn ours(query: &BalanceQuery) -> Document {
    doc! { "$match": within(query, doc! { "v": VERSION }) }
}

/// What a record counts as: see [`Balance`].
fn kind(query: &BalanceQuery) -> Document {
    let is = |status: Status| doc! { "$eq": ["$status", status.as_str()] };
    // `null`, and with it what is absent, comes before every value that we write.
    let has = |field: &str| doc! { "$gt": [format!("${field}"), null] };
    let known: Vec<&str> = Status::ALL.iter().map(|status| status.as_str()).collect();
    let failed = [Status::Failed, Status::TimedOut, Status::Abandoned].map(Status::as_str);
    let is_contradictory = doc! { "$or": [
        { "$not": [{ "$in": ["$status", known] }] },
        { "$eq": [is(Status::Open), has("toReceivedTime")] },
        { "$ne": [{ "$in": ["$status", failed.to_vec()] }, has("reason")] },
        { "$and": [has("toResponseBodyId"), { "$not": [is(Status::Answered)] }] },
    ] };
    let settled_before = date(query.settled_before_unix_ms);
    let is_overdue = doc! { "$and": [is(Status::Open), { "$lt": ["$deadline", settled_before] }] };
    let is_repeated = doc! { "$and": [is(Status::Answered), has("answeredFromId")] };
    let branches = [
        (is_contradictory, Kind::Contradictory),
        (is_overdue, Kind::Overdue),
        (is(Status::Open), Kind::InFlight),
        (is_repeated, Kind::Repeated),
        (is(Status::Answered), Kind::Answered),
        (is(Status::Failed), Kind::Failed),
        (is(Status::TimedOut), Kind::TimedOut),
    ];
    let branches: Vec<Document> = branches
        .into_iter()
        .map(|(case, kind)| doc! { "case": case, "then": kind.as_str() })
        .collect();
    doc! { "$switch": { "branches": branches, "default": Kind::Abandoned.as_str() } }
}

fn by_kind() -> Document {
    let code = doc! { "$cond": [{ "$eq": ["$kind", Kind::Failed.as_str()] }, "$reason", null] };
    let attempts = doc! { "$ifNull": ["$attempts", 0] };
    let repeated = doc! { "$max": [{ "$subtract": [attempts.clone(), 1] }, 0] };
    doc! { "$group": {
        "_id": { "kind": "$kind", "code": code },
        "records": { "$sum": 1 },
        "attempts": { "$sum": attempts },
        "repeated": { "$sum": repeated },
    } }
}

fn read_group(group: &Document) -> Group {
    let by = group.get_document("_id").ok();
    let text = |field| by.and_then(|by| by.get_str(field).ok());
    Group {
        kind: Kind::from_name(text("kind").unwrap_or_default()),
        code: text("code").map(str::to_owned),
        records: whole(group, "records"),
        attempts: whole(group, "attempts"),
        attempts_repeated: whole(group, "repeated"),
    }
}

/// Each response is looked for once, however many records name it.
fn without_response(query: &BalanceQuery) -> Vec<Document> {
    let answered = doc! {
        "v": VERSION,
        "status": Status::Answered.as_str(),
        "toReceivedTime": { "$lt": date(query.settled_before_unix_ms) },
    };
    vec![
        doc! { "$match": within(query, answered) },
        doc! { "$group": {
            "_id": "$toResponseBodyId",
            "records": { "$sum": 1 },
            "name": { "$min": "$_id" },
        } },
        doc! { "$set": { "response": { "$convert": {
            "input": "$_id", "to": "objectId", "onError": null, "onNull": null,
        } } } },
        doc! { "$lookup": {
            "from": "responses", "localField": "response", "foreignField": "_id", "as": "found",
        } },
        doc! { "$match": { "found": { "$size": 0 } } },
    ]
}

fn recorded_twice(query: &BalanceQuery) -> Vec<Document> {
    vec![
        ours(query),
        doc! { "$group": { "_id": "$fromRequestId", "records": { "$sum": 1 } } },
        doc! { "$match": { "records": { "$gt": 1 } } },
    ]
}

fn whole(group: &Document, field: &str) -> u64 {
    let number = integer(group.get(field)).unwrap_or_default();
    u64::try_from(number).unwrap_or_default()
}
