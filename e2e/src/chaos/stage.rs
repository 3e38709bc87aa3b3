//! What a scenario acts on: a deployment, the load it is under, and the seed that decides.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Context, Result};
use rand::{RngExt, rngs::StdRng};
use tokio::time::sleep;

use super::{
    Length, Settings,
    deployment::{Deployment, Receivers},
    load::Load,
    verdict::Fault,
};
use crate::{bare::Kind, http};

/// After a fault, everybody is subscribed again within this.
const SUBSCRIBED_AGAIN: Duration = Duration::from_secs(15);

/// How often the number of requests is looked at where a scenario waits for it.
const OFFERED_LOOK: Duration = Duration::from_millis(10);

/// A scenario at work.
#[derive(Debug)]
pub struct Stage<'c> {
    /// Servers and services.
    pub deployment: Deployment<'c>,
    /// The load they are under.
    pub load: Load,
    /// What chance decides: the same for the same seed.
    pub seed: StdRng,
    /// How long faults last.
    pub length: Length,
    /// Requests that are to be offered at least.
    requests: u32,
    pub(super) faults: Vec<Fault>,
    pub(super) notes: Vec<String>,
    pub(super) failures: Vec<String>,
}

impl<'c> Stage<'c> {
    pub(super) fn new(
        deployment: Deployment<'c>,
        load: Load,
        seed: StdRng,
        settings: Settings,
    ) -> Self {
        Self {
            deployment,
            load,
            seed,
            length: settings.length,
            requests: settings.requests,
            faults: Vec::new(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Lets the load go on for a time between the two, by the seed. This is the schedule, not a
    /// wait for something to happen.
    pub async fn pass(&mut self, at_least: Duration, at_most: Duration) {
        let span = u64::try_from((at_most - at_least).as_millis()).unwrap_or(u64::MAX);
        let more = Duration::from_millis(self.seed.random_range(0..=span));
        sleep(at_least + more).await;
    }

    /// Some load before the first fault and between faults.
    pub async fn calm(&mut self) {
        self.pass(Duration::from_millis(700), Duration::from_millis(1_300))
            .await;
    }

    /// Lets the load go on until this share of the requests that are asked for has been offered: so
    /// faults are spread over all of them.
    pub async fn offered(&self, nth: u32, of: u32) {
        let share = u64::from(self.requests) * u64::from(nth) / u64::from(of);
        while u64::from(self.load.offered()) < share {
            sleep(OFFERED_LOOK).await;
        }
    }

    /// A fault begins now, and is over at once unless [`over`](Self::over) says otherwise.
    pub fn fault(&mut self, what: impl fmt::Display) {
        let now = self.load.elapsed();
        self.faults.push(Fault {
            what: what.to_string(),
            begun: now,
            over: now,
        });
    }

    /// The last fault is over.
    pub fn over(&mut self) {
        let now = self.load.elapsed();
        if let Some(fault) = self.faults.last_mut() {
            fault.over = now;
        }
    }

    /// Something that was measured.
    pub fn note(&mut self, what: impl fmt::Display) {
        self.notes.push(what.to_string());
    }

    /// Something that must be so.
    pub fn check(&mut self, holds: bool, what: impl fmt::Display) {
        if !holds {
            self.failures.push(what.to_string());
        }
    }

    /// The subscriptions as they are now.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn receivers(&self) -> Result<Receivers> {
        self.deployment.receivers().await
    }

    /// Waits until the subscriptions are as they were; that they are not is a failure of the
    /// scenario.
    pub async fn receivers_are(&mut self, before: &Receivers) {
        let seen = self
            .deployment
            .receivers_are(before, SUBSCRIBED_AGAIN)
            .await;
        if let Err(error) = seen {
            self.check(false, format!("{error:#}"));
        }
    }

    /// Kills one of a kind and answers where it was.
    ///
    /// # Errors
    /// When there is none.
    pub async fn kill(&mut self, kind: Kind) -> Result<()> {
        let victim = self.deployment.choose(kind, &mut self.seed)?;
        self.kill_member(victim).await
    }

    /// Kills the member of this index.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn kill_member(&mut self, victim: usize) -> Result<()> {
        // Before, so that no caller can see the closed connection earlier than it is expected.
        self.load
            .killed(self.deployment.members[victim].service.http);
        self.deployment.kill(victim).await.map(drop)
    }

    /// Starts one more of a kind; a frontend gets its share of the load.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add(&mut self, kind: Kind) -> Result<()> {
        let address = self.deployment.add(kind).await?;
        if kind == Kind::Frontend {
            self.load.add(address);
        }
        Ok(())
    }

    /// Starts one more of a kind, whose clock is so many seconds off and can be set, and answers
    /// which member it is.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn add_with_clock(&mut self, kind: Kind, seconds: i64) -> Result<usize> {
        let index = self.deployment.add_with_clock(kind, seconds).await?;
        if kind == Kind::Frontend {
            self.load.add(self.deployment.members[index].service.http);
        }
        Ok(index)
    }

    /// A metric, added over all services of a kind and over all labels.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn metric(&self, kind: Kind, name: &str) -> Result<f64> {
        let mut sum = 0.0;
        for member in self.deployment.of(kind) {
            let metrics: BTreeMap<_, _> = http::metrics(member.service.http)
                .await
                .with_context(|| format!("metrics of a {kind:?}"))?;
            sum += metrics
                .iter()
                .filter(|(key, _)| key.split('{').next() == Some(name))
                .map(|(_, value)| value)
                .sum::<f64>();
        }
        Ok(sum)
    }
}
