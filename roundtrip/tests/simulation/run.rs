//! One run: the services are started, asked, disturbed, mended, and held to their promises.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    deployment::{Deployment, FRONTENDS, Kind, PLACES},
    dice::Dice,
    faults::{Fault, MENDED_BY, deaths, faults, update},
    history::History,
    network::Network,
    promises,
    store::Store,
    weather::Weather,
    work::{Ask, Effects, Work, Workshop, asks},
};

/// By then the processes have found one another.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// What is open after its deadline is closed within this time: 2 s later at the next sweep, which is
/// every 2 s, and up to 2 s later where the log was away.
const GRACE: Duration = Duration::from_secs(8);

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Nothing goes wrong.
    Fair,
    /// What goes wrong is as the seed has it.
    Foul,
    /// Every message arrives twice.
    Doubled,
    /// One process of a kind after the other dies.
    Deaths(Kind),
    /// Every service is updated.
    Update,
    /// No backend ever answers.
    Overload,
}

/// How a request ended for its caller.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) ask: Ask,
    pub(crate) frontend: String,
    pub(crate) took: Duration,
    pub(crate) patience: Duration,
    pub(crate) outcome: Outcome,
    /// Whether the log held this very answer at that moment.
    pub(crate) was_recorded: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Result(String),
    Problem {
        code: String,
        status: u16,
    },
    /// An answer that is neither.
    Nonsense(String),
    /// The frontend died, or was not there.
    NoConnection,
    /// The caller did not wait for it.
    HungUp,
    /// Nothing at all.
    Hung,
}

/// What has come of a run.
pub(crate) struct Report {
    pub(crate) violations: Vec<String>,
    pub(crate) counts: promises::Counts,
    pub(crate) history: History,
}

/// Runs one seed, in simulated time, on this thread.
pub(crate) fn run(seed: u64, scenario: Scenario, is_noted: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(simulate(seed, scenario, is_noted))
}

async fn simulate(seed: u64, scenario: Scenario, is_noted: bool) -> Report {
    let (dice, history) = (Dice::new(seed), History::new(is_noted));
    let (weather, faults, work) = match scenario {
        Scenario::Fair => (Weather::fair(), Vec::new(), Work::Swift),
        Scenario::Foul => (Weather::of(dice), faults(dice), Work::Mixed),
        Scenario::Doubled => (Weather::doubling(), Vec::new(), Work::Swift),
        Scenario::Deaths(kind) => (Weather::fair(), deaths(dice, kind), Work::Swift),
        Scenario::Update => (Weather::fair(), update(dice), Work::Swift),
        Scenario::Overload => (Weather::fair(), Vec::new(), Work::Endless),
    };
    history.note(|| format!("{weather:?}"));
    let deadline = match work {
        Work::Mixed => dice.on("deadline").one_of(&[1_000, 2_000, 5_000]),
        Work::Swift | Work::Endless => 5_000,
    };
    let deadline = Duration::from_millis(deadline);
    let network = Network::new(dice, weather.clone(), history.clone());
    let store = Store::new(dice, weather.clone(), history.clone());
    let effects = Arc::new(Effects::default());
    let workshop = Workshop {
        effects: effects.clone(),
        store: store.clone(),
        history: history.clone(),
        work,
        dice,
    };
    let deployment = Deployment::new(network, store, workshop, deadline, history.clone());
    for place in 0..PLACES.len() {
        deployment.start(place).await;
    }
    tokio::time::sleep(SETTLED_AFTER).await;

    let mut callers = JoinSet::new();
    for ask in asks(dice, work, FRONTENDS) {
        callers.spawn(call(ask, deadline, deployment.clone()));
    }
    let mended_at = Instant::now() + MENDED_BY;
    let mut striking: JoinSet<()> = faults
        .into_iter()
        .map(|fault: Fault| fault.strike(deployment.clone()))
        .collect();
    let all_mended = async { while striking.join_next().await.is_some() {} };
    let is_all = tokio::time::timeout_at(mended_at, all_mended).await;
    tokio::time::sleep_until(mended_at).await;
    history.note(|| format!("all is mended ({})", is_all.is_ok()));
    drop(striking);
    weather.calm_down();
    deployment.store.set_down(false);
    deployment.store.set_slowness(Duration::ZERO);
    for place in 0..PLACES.len() {
        deployment.start(place).await;
        if let Some(name) = deployment.name(place) {
            deployment.network.mend(&name);
        }
    }
    let mut answered = Vec::new();
    while let Some(ended) = callers.join_next().await {
        answered.push(ended.unwrap());
    }
    tokio::time::sleep(GRACE).await;
    promises::report(&deployment, &effects, answered, history).await
}

/// Makes a request, and waits for its end.
async fn call(ask: Ask, deadline: Duration, deployment: Arc<Deployment>) -> Answered {
    tokio::time::sleep(ask.at).await;
    let patience = ask.patience.map_or(deadline, |ask| ask.min(deadline));
    let begun = Instant::now();
    let mut answered = Answered {
        frontend: String::new(),
        took: Duration::ZERO,
        patience,
        outcome: Outcome::NoConnection,
        was_recorded: false,
        ask,
    };
    let Some(door) = deployment.door(answered.ask.frontend) else {
        return answered;
    };
    let ask = &answered.ask;
    answered.frontend = door.frontend.clone();
    let mut request = Request::post(ask.path).header("x-request-id", &ask.id);
    if let Some(patience) = ask.patience {
        request = request.header("x-request-timeout-ms", patience.as_millis().to_string());
    }
    let request = request.body(Body::from(ask.body.clone())).unwrap();
    let hung_up = async {
        match ask.hangs_up_after {
            Some(after) => tokio::time::sleep(after).await,
            None => std::future::pending().await,
        }
    };
    // Ten times as long as may be: to tell late from never.
    let limit = patience * 10 + Duration::from_secs(10);
    let asking = door.callers.track_future(async {
        let response = door.requests.answer(request).await;
        let status = response.status().as_u16();
        let shown = response.headers().get("x-request-id").cloned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        match shown {
            Some(shown) if shown == *ask.id => outcome(status, &body),
            other => Outcome::Nonsense(format!("the answer of {other:?}")),
        }
    });
    let outcome = tokio::select! {
        outcome = asking => outcome,
        () = door.life.ended() => Outcome::NoConnection,
        () = hung_up => Outcome::HungUp,
        () = tokio::time::sleep(limit) => Outcome::Hung,
    };
    answered.took = begun.elapsed();
    deployment
        .history
        .note(|| format!("{} of {} ends: {outcome:?}", ask.id, door.frontend));
    answered.was_recorded = promises::is_recorded(&deployment.store, ask, &outcome);
    answered.outcome = outcome;
    answered
}

fn outcome(status: u16, body: &[u8]) -> Outcome {
    let nonsense = || Outcome::Nonsense(format!("{status} {}", String::from_utf8_lossy(body)));
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
        return nonsense();
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    match (status, text("result"), text("code")) {
        (200, Some(result), None) => Outcome::Result(result),
        (400.., None, Some(code)) if fields["status"] == status => {
            Outcome::Problem { code, status }
        }
        _ => nonsense(),
    }
}
