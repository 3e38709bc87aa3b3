//! The registry of those who wait for a reply.
//!
//! Its tests are in `tests/registry`, which also compiles this very file with another map under it,
//! to try every order in which its callers may meet.

use std::sync::Arc;

use dashmap::DashMap;
use shared::contract::{ContainerId, Ended, RequestId, Task};
use tokio::sync::oneshot;

/// Requests that wait, by their id. Every entry is removed exactly once: by its reply, or by the
/// guard's `Drop` when its deadline passes or the client hangs up.
#[derive(Debug, Default)]
pub struct PendingRegistry {
    waiting: DashMap<RequestId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Ended>,
    /// What was asked, to be offered again when it got lost.
    task: Arc<Task>,
}

/// One request's place in the registry.
#[derive(Debug)]
pub struct Pending {
    registry: Arc<PendingRegistry>,
    id: RequestId,
    /// The reply, once it is there. The sender is dropped only with the registry's entry.
    pub answer: oneshot::Receiver<Ended>,
}

impl PendingRegistry {
    /// Makes a place for a task's reply.
    pub fn register(self: &Arc<Self>, task: Arc<Task>) -> Pending {
        let (sender, answer) = oneshot::channel();
        let id = task.request_id.clone();
        self.waiting.insert(
            id.clone(),
            Waiting {
                answer: sender,
                task,
            },
        );
        Pending {
            registry: self.clone(),
            id,
            answer,
        }
    }

    /// Resolves a request. What it asked, if it still waited: whoever gets the task here, or from
    /// [`Pending::leave`], is the only one to get it.
    pub fn resolve(&self, id: &RequestId, ended: Ended) -> Option<Arc<Task>> {
        let (_, waiting) = self.waiting.remove(id)?;
        // The receiver lives as long as the guard, which has not removed the entry. Should it end
        // this moment, the client has hung up and nobody misses the reply.
        drop(waiting.answer.send(ended));
        Some(waiting.task)
    }

    /// What a request asked, while it waits.
    pub fn task(&self, id: &RequestId) -> Option<Arc<Task>> {
        self.waiting.get(id).map(|waiting| waiting.task.clone())
    }

    /// The request is offered to another events service. Whether it still waits.
    pub fn offered(&self, task: Arc<Task>) -> bool {
        let waiting = self.waiting.get_mut(&task.request_id);
        let waits = waiting.is_some();
        if let Some(mut waiting) = waiting {
            waiting.task = task;
        }
        waits
    }

    /// What waits, of those whose events service fulfils the condition.
    pub fn tasks(&self, of: impl Fn(&ContainerId) -> bool) -> Vec<Arc<Task>> {
        self.waiting
            .iter()
            .filter(|waiting| of(&waiting.task.to.container))
            .map(|waiting| waiting.task.clone())
            .collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Pending {
    /// Gives up the place. What was asked, if it was not resolved before.
    pub fn leave(&self) -> Option<Arc<Task>> {
        self.registry
            .waiting
            .remove(&self.id)
            .map(|(_, waiting)| waiting.task)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.leave();
    }
}
