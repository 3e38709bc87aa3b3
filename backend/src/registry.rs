//! Handlers by task and subtask.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use serde::de::DeserializeOwned;
use shared::contract::{Failure, FailureCode};

/// What a handler is given.
#[derive(Debug, Clone)]
pub struct Job {
    /// Name of the task.
    pub task: String,
    /// Name of the subtask.
    pub subtask: String,
    /// The HTTP request body as JSON text.
    pub text: String,
    /// 1 when it is dispatched for the first time, as far as the events service says so.
    pub attempt: Option<u32>,
}

impl Job {
    /// The request body as a type of the handler's own.
    ///
    /// # Errors
    /// [`FailureCode::BadOperands`] that says what is wrong, and where.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::new(
                FailureCode::BadOperands,
                format!(
                    "the body is not what {}/{} takes: {error}",
                    self.task, self.subtask
                ),
            )
        })
    }
}

/// The answer of a handler.
pub(crate) type Answer = Result<String, Failure>;

/// A handler that computes.
type Compute = Arc<dyn Fn(&Job) -> Answer + Send + Sync>;
/// A handler that awaits something.
type Await = Arc<dyn Fn(Job) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

#[derive(Clone)]
pub(crate) enum Handler {
    /// Runs at once, between two messages.
    Quick(Compute),
    /// Waits for something; runs beside others.
    Waiting(Await),
    /// Computes for long; runs on a thread of its own.
    Long(Compute),
}

/// A backend in the making: its handlers.
#[derive(Clone, Default)]
pub struct Worker {
    handlers: HashMap<String, HashMap<String, Handler>>,
}

impl Worker {
    /// A backend that can do nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handler that computes for less than a millisecond. It runs between two messages: while it
    /// runs, nothing else does.
    #[must_use]
    pub fn on<F>(self, task: &str, subtask: &str, handler: F) -> Self
    where
        F: Fn(&Job) -> Result<String, Failure> + Send + Sync + 'static,
    {
        self.with(task, subtask, Handler::Quick(Arc::new(handler)))
    }

    /// A handler that awaits something: a database, another service, time.
    #[must_use]
    pub fn on_async<F, R>(self, task: &str, subtask: &str, handler: F) -> Self
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, Failure>> + Send + 'static,
    {
        let handler = move |job| Box::pin(handler(job)) as Pin<Box<_>>;
        self.with(task, subtask, Handler::Waiting(Arc::new(handler)))
    }

    /// A handler that computes for long; it gets a thread of its own.
    #[must_use]
    pub fn on_blocking<F>(self, task: &str, subtask: &str, handler: F) -> Self
    where
        F: Fn(&Job) -> Result<String, Failure> + Send + Sync + 'static,
    {
        self.with(task, subtask, Handler::Long(Arc::new(handler)))
    }

    fn with(mut self, task: &str, subtask: &str, handler: Handler) -> Self {
        self.handlers
            .entry(task.to_owned())
            .or_default()
            .insert(subtask.to_owned(), handler);
        self
    }

    /// The handler of a task.
    ///
    /// # Errors
    /// [`FailureCode::UnknownTask`] that names what there is.
    pub(crate) fn handler(&self, task: &str, subtask: &str) -> Result<&Handler, Failure> {
        let of_task = self.handlers.get(task);
        of_task
            .and_then(|subtasks| subtasks.get(subtask))
            .ok_or_else(|| {
                let mut known: Vec<_> = match of_task {
                    Some(subtasks) => subtasks
                        .keys()
                        .map(|name| format!("{task}/{name}"))
                        .collect(),
                    None => self.handlers.keys().cloned().collect(),
                };
                known.sort();
                Failure::new(
                    FailureCode::UnknownTask,
                    format!(
                        "this backend has no handler for {task}/{subtask}; it has {}",
                        known.join(", ")
                    ),
                )
            })
    }
}
