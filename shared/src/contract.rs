//! The wire contract: types, codec and classification of messages. Pure: no I/O, no async.
//!
//! Four messages travel between the services; each has a type here that holds no `Option` for what
//! must be set: [`Task`], [`Dispatch`], [`TaskResult`], [`Reply`]. An [`Addressee`] turns
//! the bytes of any known dialect into them, and `encode` makes the
//! one form that every known receiver takes.
//!
//! Source: the wire contract, sections "Address", "Event" and "Extensions".

mod event;
mod failure;
mod go_quoted;
mod ids;
mod number;

pub use event::{
    Addressee, ConsumingMessage, Dispatch, Ended, EventMessage, Rejected, Reply, Task, TaskResult,
    Timing,
};
pub use failure::{Failure, FailureCode};
pub use ids::{Address, BadId, ContainerId, RecordId, RequestId, ServiceName};
pub use number::{ecmascript, normalize_number};

/// Name of the task whose operands are two numbers.
pub const NUMBER: &str = "NUMBER";
/// Name of the task whose operands are two strings.
pub const STRING: &str = "STRING";

/// The direct channel of a container: `<channel name>:<its container id>` (contract, "Direct channel").
pub fn direct_channel(channel: &str, container: &ContainerId) -> String {
    format!("{channel}:{container}")
}

/// The final text of a result that its backend did not mark as final: what the HTTP caller sees is
/// the same whichever backend computed it (contract, "Results as text").
///
/// # Errors
/// A `NUMBER` result that is no finite number is [`FailureCode::ResultNotFinite`].
pub fn normalize_result(task: &str, text: String) -> Result<String, Failure> {
    match task {
        NUMBER => normalize_number(&text).ok_or_else(|| {
            Failure::new(
                FailureCode::ResultNotFinite,
                format!(
                    "the result of the backend is not a finite number: {}",
                    excerpt(&text)
                ),
            )
        }),
        STRING => Ok(unquote_json(text)),
        _ => Ok(text),
    }
}

/// `"ab"`, with the quotes, becomes `ab`; anything that is not one JSON string stays as it is.
fn unquote_json(text: String) -> String {
    if text.len() >= 2 && text.starts_with('"') && text.ends_with('"') {
        serde_json::from_str::<String>(&text).unwrap_or(text)
    } else {
        text
    }
}

/// The first characters of a text that came from outside, for messages and debug logs.
pub fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut cut: String = text.chars().take(CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

#[cfg(test)]
mod tests;
