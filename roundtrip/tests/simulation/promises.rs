//! What must hold after every run, whatever went wrong in it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use axum::{body::Body, http::Request};
use events_service::audit::Record;
use http_body_util::BodyExt;
use shared::contract::FailureCode;

use crate::{
    deployment::{Deployment, Door, Trouble},
    history::History,
    run::{Answered, Outcome, Report},
    store::Store,
    work::{Ask, Effect, Effects, Right},
};

/// What runs have in them, summed up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) runs: u64,
    /// Requests by how they ended.
    pub(crate) ended: BTreeMap<String, u64>,
    /// Effects that were executed more than once.
    pub(crate) executed_twice: u64,
    pub(crate) dispatches_first: u64,
    pub(crate) dispatches_repeated: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.runs += other.runs;
        self.executed_twice += other.executed_twice;
        self.dispatches_first += other.dispatches_first;
        self.dispatches_repeated += other.dispatches_repeated;
        for (how, count) in other.ended {
            *self.ended.entry(how).or_default() += count;
        }
    }
}

/// Whether the log holds a record of this request, ended with this answer, and the answer's text.
pub(crate) fn is_recorded(store: &Store, ask: &Ask, outcome: &Outcome) -> bool {
    let Outcome::Result(result) = outcome else {
        return false;
    };
    store.has_response(result)
        && store.any(|record| {
            let end = record.end.as_ref();
            record.caller_request_id.as_ref() == Some(&ask.id)
                && end.and_then(|end| end.outcome.text()) == Some(result)
        })
}

/// Holds a run to the promises.
pub(crate) async fn report(
    deployment: &Deployment,
    effects: &Effects,
    answered: Vec<Answered>,
    history: History,
) -> Report {
    let mut violations = Vec::new();
    let mut counts = Counts {
        runs: 1,
        ..Counts::default()
    };
    let records = deployment.store.all();
    for answered in &answered {
        let how = match &answered.outcome {
            Outcome::Result(_) => "result".to_owned(),
            Outcome::Problem { code, .. } => code.clone(),
            other => format!("{other:?}"),
        };
        *counts.ended.entry(how).or_default() += 1;
        violations.extend(broken_to_caller(answered, &records));
    }
    violations.extend(broken_by_records(&records));
    violations.extend(broken_by_effects(deployment, &effects.all(), &mut counts));
    violations.extend(broken_by_dispatches(deployment, &mut counts));
    for door in deployment.open_doors() {
        violations.extend(broken_in_ledger(&door, &answered).await);
    }
    Report {
        violations,
        counts,
        history,
    }
}

/// Every request ends in time, with its own right answer or an error that says why; what was
/// answered is recorded once, as it was answered, and was so before the answer.
fn broken_to_caller(answered: &Answered, records: &[Record]) -> Vec<String> {
    let Answered { ask, took, .. } = answered;
    let mut broken = Vec::new();
    let mut breaks = |what: String| broken.push(format!("{}: {what}: {answered:?}", ask.id));
    if *took > answered.patience + Duration::from_secs(1) {
        breaks("ended late".into());
    }
    let own = records
        .iter()
        .filter(|record| record.caller_request_id.as_ref() == Some(&ask.id));
    let own: Vec<_> = own.collect();
    if own.len() > 1 {
        breaks(format!("{} records", own.len()));
    }
    match &answered.outcome {
        Outcome::Result(result) => {
            if ask.right != Right::Result(result.clone()) {
                breaks("a wrong answer".into());
            }
            if !answered.was_recorded {
                breaks(format!("answered unrecorded: {own:?}"));
            }
            let recorded = own.first().and_then(|record| record.end.as_ref());
            if recorded.and_then(|end| end.outcome.text()) != Some(result) {
                breaks(format!("recorded otherwise: {own:?}"));
            }
        }
        Outcome::Problem { code, .. } => {
            let is_own = matches!(ask.right, Right::Code(right) if right == code);
            let is_of_faults = FailureCode::from_name(code).is_some_and(FailureCode::is_retryable);
            if !is_own && !is_of_faults {
                breaks("a wrong error".into());
            }
            let is_answered = |record: &&Record| {
                let end = record.end.as_ref();
                end.is_some_and(|end| end.outcome.text().is_some())
            };
            if code == FailureCode::Abandoned.as_str() && own.iter().any(is_answered) {
                breaks(format!("told as abandoned, recorded as answered: {own:?}"));
            }
        }
        Outcome::Nonsense(_) | Outcome::Hung => breaks("no proper answer".into()),
        Outcome::NoConnection | Outcome::HungUp => {}
    }
    broken
}

/// Every record ends, and there is one for a request.
fn broken_by_records(records: &[Record]) -> Vec<String> {
    let open = records.iter().filter(|record| record.end.is_none());
    open.map(|record| format!("a record never ended: {record:?}"))
        .collect()
}

/// Nothing with an effect runs unrecorded, and it runs twice only where one of its backends died or
/// could not be reached before: the first to be asked, which is not always the first to do it.
fn broken_by_effects(
    deployment: &Deployment,
    effects: &HashMap<u64, Vec<Effect>>,
    counts: &mut Counts,
) -> Vec<String> {
    let mut broken = Vec::new();
    let troubles = deployment.troubles();
    for (n, effects) in effects {
        if effects.iter().any(|effect| !effect.was_recorded) {
            broken.push(format!("payment {n} was made unrecorded: {effects:?}"));
        }
        let backends: HashSet<_> = effects.iter().map(|effect| &effect.backend).collect();
        if backends.len() < effects.len() {
            broken.push(format!("one backend paid {n} twice: {effects:?}"));
        }
        counts.executed_twice += u64::from(effects.len() > 1);
        for pair in effects.windows(2) {
            let mut before = troubles.iter().filter(|trouble| trouble.at <= pair[1].at);
            let is_own = |trouble: &Trouble| {
                let mut both = pair.iter().map(|effect| &effect.backend);
                both.any(|backend| trouble.process == *backend)
            };
            if !before.any(is_own) {
                broken.push(format!("payment {n} was made twice: {effects:?}"));
            }
        }
    }
    broken
}

/// Repeats never keep an overload alive.
fn broken_by_dispatches(deployment: &Deployment, counts: &mut Counts) -> Vec<String> {
    let mut broken = Vec::new();
    for (events_service, dispatches) in deployment.network.traffic.dispatches() {
        let (first, repeated) = (dispatches.first.len(), dispatches.repeated.len());
        counts.dispatches_first += first as u64;
        counts.dispatches_repeated += repeated as u64 + dispatches.after_link_is_back;
        if repeated as f64 > 20.0 + 0.1 * first as f64 {
            broken.push(format!(
                "{events_service} repeats too much: {repeated} dispatches beside {first}"
            ));
        }
    }
    broken
}

/// Offered = answered + failed, nothing is in flight any more and nobody waits; and so the callers
/// have seen it.
async fn broken_in_ledger(door: &Door, answered: &[Answered]) -> Vec<String> {
    let name = &door.frontend;
    let mut broken = Vec::new();
    let waiting = door.requests.waiting();
    if waiting > 0 {
        broken.push(format!("{waiting} still wait in {name}"));
    }
    let request = Request::get("/metrics").body(Body::empty()).unwrap();
    let response = door.requests.answer(request).await;
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let sum = |metric: &str| -> u64 {
        let lines = page.lines().filter(|line| {
            line.strip_prefix(metric)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    };
    let offered = sum("roundtrip_requests_offered_total");
    let (done, failed) = (
        sum("roundtrip_requests_answered_total"),
        sum("roundtrip_requests_failed_total"),
    );
    let in_flight = sum("roundtrip_requests_in_flight");
    if offered != done + failed || in_flight != 0 {
        broken.push(format!(
            "the ledger of {name}: {offered} offered, {done} answered, {failed} failed, {in_flight} in flight"
        ));
    }
    let seen = answered
        .iter()
        .filter(|answered| answered.frontend == *name);
    let results = seen
        .clone()
        .filter(|answered| matches!(answered.outcome, Outcome::Result(_)))
        .count() as u64;
    if (offered, done) != (seen.count() as u64, results) {
        broken.push(format!(
            "the ledger of {name} has {offered} offered and {done} answered, its callers saw otherwise"
        ));
    }
    broken
}
