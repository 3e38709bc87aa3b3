//! What is asked for, with the right answers, and the handlers that do it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backend::{Failure, Job, Worker};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    dice::{Dice, Throw},
    history::History,
    store::Store,
};

/// Requests of a run.
const REQUESTS: u64 = 20;
/// They come within this time.
pub(crate) const LOAD_MS: u64 = 6_000;

/// A request to be made.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// What its caller calls it.
    pub(crate) id: String,
    pub(crate) at: Duration,
    /// Which of the frontends is asked.
    pub(crate) frontend: usize,
    pub(crate) path: &'static str,
    pub(crate) body: String,
    /// How long the caller waits, where it says so.
    pub(crate) patience: Option<Duration>,
    /// The caller hangs up after so long.
    pub(crate) hangs_up_after: Option<Duration>,
    pub(crate) right: Right,
}

/// The right answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Right {
    Result(String),
    /// An error by its code.
    Code(&'static str),
}

/// What is asked for in a run, and how long it takes to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Of all kinds; some takes longer than its callers wait, and some of them hang up.
    Mixed,
    /// Of all kinds; its callers wait for longer than it takes.
    Swift,
    /// Much at once, and none of it is ever done.
    Endless,
}

/// The requests of a run.
pub(crate) fn asks(dice: Dice, work: Work, frontends: usize) -> Vec<Ask> {
    let (count, within_ms) = match work {
        Work::Mixed | Work::Swift => (REQUESTS, LOAD_MS),
        Work::Endless => (REQUESTS * 20, 1_000),
    };
    (0..count)
        .map(|n| {
            let mut dice = dice.on(("ask", n));
            let (path, body, right) = question(&mut dice, n);
            let is_mixed = work == Work::Mixed;
            Ask {
                id: format!("ask-{n}"),
                at: dice.ms(0..=within_ms),
                frontend: dice.index(frontends),
                path,
                body,
                patience: (is_mixed && dice.is(0.2)).then(|| dice.ms(50..=3_000)),
                hangs_up_after: (is_mixed && dice.is(0.05)).then(|| dice.ms(1..=2_000)),
                right,
            }
        })
        .collect()
}

/// Half of them have an effect; of the others, some are asked more than once.
fn question(dice: &mut Throw, n: u64) -> (&'static str, String, Right) {
    match dice.number(0..=9) {
        0..=3 => (
            "/task/PAYMENT/SLOW",
            payment(n),
            Right::Result(format!("paid {n}")),
        ),
        4 => (
            "/task/PAYMENT/QUICK",
            payment(n),
            Right::Result(format!("paid {n}")),
        ),
        5 => {
            let word = dice.one_of(&["eins", "zwei", "drei"]);
            let body = format!(r#"{{"word":"{word}"}}"#);
            ("/task/ECHO/SLOW", body, Right::Result(word.into()))
        }
        6 => {
            let (a, b) = (dice.number(0..=2), n);
            let body = format!(r#"{{"s1":{a},"s2":{b}}}"#);
            let difference = i64::try_from(a).unwrap() - i64::try_from(b).unwrap();
            ("/task", body, Right::Result(difference.to_string()))
        }
        7 => {
            let body = format!(r#"{{"d1":{n},"d2":0}}"#);
            ("/task", body, Right::Code("division_by_zero"))
        }
        8 => {
            let body = format!(r#"{{"a1":"{n}","a2":"-"}}"#);
            ("/task", body, Right::Result(format!("{n}-")))
        }
        _ => {
            let body = r#"{"a1":5,"a2":10}"#.to_owned();
            ("/task", body, Right::Result("15".into()))
        }
    }
}

/// The body of a payment.
pub(crate) fn payment(n: u64) -> String {
    format!(r#"{{"n":{n}}}"#)
}

/// What backends have done that has an effect.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    done: Mutex<HashMap<u64, Vec<Effect>>>,
}

/// One execution.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    pub(crate) backend: String,
    pub(crate) at: Instant,
    /// Whether its record was durable before.
    pub(crate) was_recorded: bool,
}

impl Effects {
    pub(crate) fn all(&self) -> HashMap<u64, Vec<Effect>> {
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Deserialize)]
struct Payment {
    n: u64,
}

#[derive(Deserialize)]
struct Echo {
    word: String,
}

/// What a backend needs to do its work and to give an account of it.
#[derive(Clone)]
pub(crate) struct Workshop {
    pub(crate) effects: Arc<Effects>,
    pub(crate) store: Arc<Store>,
    pub(crate) history: History,
    pub(crate) work: Work,
    pub(crate) dice: Dice,
}

impl Workshop {
    /// The handlers of a backend.
    pub(crate) fn worker(&self, backend: &str) -> Worker {
        let (quick, slow, echo) = (self.clone(), self.clone(), self.clone());
        let (quick_backend, backend) = (backend.to_owned(), backend.to_owned());
        backend::tasks::examples()
            .on("PAYMENT", "QUICK", move |job| {
                quick.pay(&quick_backend, job)
            })
            .on_async("PAYMENT", "SLOW", move |job: Job| {
                let paid = slow.pay(&backend, &job);
                let pause = slow.duration(&job);
                async move {
                    tokio::time::sleep(pause).await;
                    paid
                }
            })
            .on_async("ECHO", "SLOW", move |job: Job| {
                let pause = echo.duration(&job);
                async move {
                    tokio::time::sleep(pause).await;
                    Ok(job.body::<Echo>()?.word)
                }
            })
    }

    fn pay(&self, backend: &str, job: &Job) -> Result<String, Failure> {
        let Payment { n } = job.body()?;
        let was_recorded = self.store.any(|record| record.body == job.text);
        self.history
            .note(|| format!("{backend} pays {n}, recorded: {was_recorded}"));
        let effect = Effect {
            backend: backend.to_owned(),
            at: Instant::now(),
            was_recorded,
        };
        let mut done = self
            .effects
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        done.entry(n).or_default().push(effect);
        Ok(format!("paid {n}"))
    }

    /// Most handlers take a moment, some longer than their callers wait.
    fn duration(&self, job: &Job) -> Duration {
        let mut dice = self.dice.on(("handler", &job.text, job.attempt));
        let ms = match (self.work, dice.number(0..=9)) {
            (Work::Endless, _) => 60_000..=60_000,
            (_, 0..=5) => 0..=20,
            (Work::Mixed, 9) => 800..=6_000,
            _ => 20..=800,
        };
        dice.ms(ms)
    }
}
