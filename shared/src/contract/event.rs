//! The event on the wire and the four messages it carries.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::value::RawValue;

use super::{Address, BadId, Failure, FailureCode, RecordId, RequestId, go_quoted};

/// `v` of a sender that knows our extensions.
const VERSION: u8 = 2;

/// frontend → events service, on the event channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Unique per HTTP request.
    pub request_id: RequestId,
    /// The frontend that awaits the reply.
    pub from: Address,
    /// The events service that is to handle it.
    pub to: Address,
    /// Name of the task, such as `NUMBER`.
    pub task: String,
    /// Name of the subtask, such as `ADD`.
    pub subtask: String,
    /// The HTTP request body as JSON text.
    pub body: String,
    /// Unix time in ms after which nobody waits any more (extension).
    pub deadline_unix_ms: Option<u64>,
    /// The `X-Request-Id` that the HTTP caller chose, for the record (extension).
    pub caller_request_id: Option<String>,
    /// W3C trace context (extension).
    pub traceparent: Option<String>,
}

/// events service → backend, on the consuming channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The audit record; a backend returns it unchanged.
    pub record_id: RecordId,
    /// The backend that is to do it.
    pub to: Address,
    /// The events service that awaits the result.
    pub from: Address,
    /// Name of the task.
    pub task: String,
    /// Name of the subtask.
    pub subtask: String,
    /// The HTTP request body as JSON text.
    pub body: String,
    /// Unix time in ms after which nobody waits any more (extension).
    pub deadline_unix_ms: Option<u64>,
    /// 1 for the first dispatch of the record, then 2, 3, … (extension).
    pub attempt: Option<u32>,
    /// W3C trace context (extension).
    pub traceparent: Option<String>,
}

/// backend → events service, on the event channel.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// The audit record of the dispatch.
    pub record_id: RecordId,
    /// The backend that did it.
    pub from: Address,
    /// The events service that awaits it.
    pub to: Address,
    /// How it ended.
    pub ended: Ended,
    /// How long the backend took, where it says so (extension).
    pub timing: Option<Timing>,
}

/// How a backend ended a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// The text is what the HTTP caller gets: a backend of ours says so by `v`.
    Final(String),
    /// The text is in the backend's own dialect, to be normalized.
    Raw(String),
    /// It could not be done.
    Failed(Failure),
}

/// How long a task waited in the backend and ran. Durations: clock times do not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// Microseconds between arrival and start.
    pub waited_us: u64,
    /// Microseconds in the handler.
    pub ran_us: u64,
}

/// events service → frontend, on the consuming channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The request that it answers.
    pub request_id: RequestId,
    /// The frontend that awaits it.
    pub to: Address,
    /// How the task ended. A reply of a foreign events service is [`Ended::Raw`].
    pub ended: Ended,
}

/// What an events service hears.
#[derive(Debug, Clone, PartialEq)]
pub enum EventMessage {
    /// From a frontend: `recordId` not set.
    Task(Task),
    /// From a backend: `recordId` set.
    Result(TaskResult),
}

/// What frontends and backends hear.
#[derive(Debug, Clone, PartialEq)]
pub enum ConsumingMessage {
    /// For a backend: `recordId` set.
    Dispatch(Dispatch),
    /// For a frontend: `recordId` not set.
    Reply(Reply),
}

/// Why a receiver does not take a message. Never an error: counted and dropped.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// Addressed to another container.
    #[error("addressed to another container")]
    NotForMe,
    /// Not JSON, not an object, or wrong types.
    #[error("not an event: {0}")]
    NotAnEvent(#[from] serde_json::Error),
    /// A string literal that does not hold an object.
    #[error("not an event: a string with a broken escape")]
    BadLiteral,
    /// A field that this message must have is not set.
    #[error("the field `{0}` is not set")]
    NotSet(&'static str),
    /// A field holds what cannot be an id.
    #[error(transparent)]
    BadId(#[from] BadId),
}

/// A receiver on the broadcast and direct channels: takes what is addressed to it.
#[derive(Debug, Clone)]
pub struct Addressee {
    me: Address,
    my_id: memchr::memmem::Finder<'static>,
}

impl Addressee {
    /// The receiver with this address.
    pub fn new(me: Address) -> Self {
        let my_id = memchr::memmem::Finder::new(me.container.as_str()).into_owned();
        Self { me, my_id }
    }

    /// The address.
    pub fn address(&self) -> &Address {
        &self.me
    }

    /// Reads a message of the event channel.
    ///
    /// # Errors
    /// [`Rejected`] for whatever is not a task or a result for this container.
    ///
    /// ```
    /// use shared::contract::{Address, Addressee, EventMessage};
    /// let me = Addressee::new(Address::new("e1", "events")?);
    /// let payload = br#"{"requestId":"r","containerId":"f1","service":"front","task":"NUMBER",
    ///     "subtask":"ADD","requestBody":"{}","serviceContainerId":"e1",
    ///     "serviceContainerService":"events"}"#;
    /// assert!(matches!(me.event(payload), Ok(EventMessage::Task(task)) if task.subtask == "ADD"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn event(&self, payload: &[u8]) -> Result<EventMessage, Rejected> {
        self.reject_by_sight(payload)?;
        with_event(payload, |mut event| {
            self.check(
                &event.service_container_id,
                &event.service_container_service,
            )?;
            let from = Address::new(
                event.container_id.set("containerId")?,
                event.service.set("service")?,
            )?;
            let to = self.me.clone();
            let Some(record_id) = event.record_id.get() else {
                return Ok(EventMessage::Task(Task {
                    request_id: event.request_id.set("requestId")?.parse()?,
                    from,
                    to,
                    task: event.task.take("task")?,
                    subtask: event.subtask.take("subtask")?,
                    body: event.request_body.take("requestBody")?,
                    deadline_unix_ms: event.deadline,
                    caller_request_id: event.caller_request_id.map(Cow::into_owned),
                    traceparent: event.traceparent.map(Cow::into_owned),
                }));
            };
            Ok(EventMessage::Result(TaskResult {
                record_id: record_id.parse()?,
                from,
                to,
                timing: event.timing,
                ended: event.into_ended(),
            }))
        })
    }

    /// Reads a message of the consuming channel.
    ///
    /// # Errors
    /// [`Rejected`] for whatever is not a dispatch or a reply for this container.
    pub fn consuming(&self, payload: &[u8]) -> Result<ConsumingMessage, Rejected> {
        self.reject_by_sight(payload)?;
        with_event(payload, |mut event| {
            self.check(&event.container_id, &event.service)?;
            let to = self.me.clone();
            let Some(record_id) = event.record_id.get() else {
                return Ok(ConsumingMessage::Reply(Reply {
                    request_id: event.request_id.set("requestId")?.parse()?,
                    to,
                    ended: event.into_ended(),
                }));
            };
            Ok(ConsumingMessage::Dispatch(Dispatch {
                record_id: record_id.parse()?,
                to,
                from: Address::new(
                    event.service_container_id.set("serviceContainerId")?,
                    event
                        .service_container_service
                        .set("serviceContainerService")?,
                )?,
                task: event.task.take("task")?,
                subtask: event.subtask.take("subtask")?,
                body: event.request_body.take("requestBody")?,
                deadline_unix_ms: event.deadline,
                attempt: event.attempt,
                traceparent: event.traceparent.map(Cow::into_owned),
            }))
        })
    }

    /// Most of what a container hears on a broadcast channel is for others: what looks like an
    /// object or a literal, and does not contain our id, is not parsed. An id can only hide behind
    /// escapes, so a message with a `\u` or `\x` is always parsed.
    fn reject_by_sight(&self, payload: &[u8]) -> Result<(), Rejected> {
        let looks_whole = matches!(payload, [b'{', .., b'}'] | [b'"', .., b'"']);
        let has_escape = || {
            memchr::memchr_iter(b'\\', payload)
                .any(|at| matches!(payload.get(at + 1), Some(b'u' | b'U' | b'x')))
        };
        if looks_whole && self.my_id.find(payload).is_none() && !has_escape() {
            return Err(Rejected::NotForMe);
        }
        Ok(())
    }

    fn check(&self, container: &Field<'_>, service: &Field<'_>) -> Result<(), Rejected> {
        if container.get() == Some(self.me.container.as_str())
            && service.get() == Some(self.me.service.as_str())
        {
            Ok(())
        } else if container.get().is_none() {
            Err(Rejected::NotSet("containerId or serviceContainerId"))
        } else {
            Err(Rejected::NotForMe)
        }
    }
}

impl Task {
    /// The message on the wire.
    pub fn encode(&self) -> Vec<u8> {
        Event {
            request_id: Field::of(self.request_id.as_str()),
            task: Field::of(&self.task),
            subtask: Field::of(&self.subtask),
            request_body: Field::of(&self.body),
            deadline: self.deadline_unix_ms,
            caller_request_id: self.caller_request_id.as_deref().map(Cow::Borrowed),
            traceparent: self.traceparent.as_deref().map(Cow::Borrowed),
            ..Event::between(&self.from, &self.to)
        }
        .encode()
    }
}

impl Dispatch {
    /// The message on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let record_id = self.record_id.to_string();
        Event {
            record_id: Field::of(&record_id),
            task: Field::of(&self.task),
            subtask: Field::of(&self.subtask),
            request_body: Field::of(&self.body),
            deadline: self.deadline_unix_ms,
            attempt: self.attempt,
            traceparent: self.traceparent.as_deref().map(Cow::Borrowed),
            ..Event::between(&self.to, &self.from)
        }
        .encode()
    }
}

impl TaskResult {
    /// The message on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let record_id = self.record_id.to_string();
        Event {
            record_id: Field::of(&record_id),
            timing: self.timing,
            ..Event::between(&self.from, &self.to)
        }
        .with_ended(&self.ended)
        .encode()
    }
}

impl Reply {
    /// The message on the wire; `from` is the events service that answers.
    pub fn encode(&self, from: &Address) -> Vec<u8> {
        Event {
            request_id: Field::of(self.request_id.as_str()),
            ..Event::between(&self.to, from)
        }
        .with_ended(&self.ended)
        .encode()
    }
}

/// Parses the payload in whichever encoding it came and hands the event on.
fn with_event<T>(
    payload: &[u8],
    read: impl FnOnce(Event<'_>) -> Result<T, Rejected>,
) -> Result<T, Rejected> {
    if payload.first() == Some(&b'"') {
        let text = go_quoted::unquote(payload).ok_or(Rejected::BadLiteral)?;
        if let Ok(event) = serde_json::from_slice(&text) {
            return read(event);
        }
        // An object put together by hand may hold control characters, which JSON wants escaped.
        let text = go_quoted::escape_controls(&text);
        read(serde_json::from_slice(&text)?)
    } else {
        read(serde_json::from_slice(payload)?)
    }
}

/// The contract's ten fields and our extensions.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(borrow, default)]
    request_id: Field<'a>,
    #[serde(borrow, default)]
    container_id: Field<'a>,
    #[serde(borrow, default)]
    service: Field<'a>,
    #[serde(borrow, default)]
    service_container_id: Field<'a>,
    #[serde(borrow, default)]
    service_container_service: Field<'a>,
    #[serde(borrow, default)]
    record_id: Field<'a>,
    #[serde(borrow, default)]
    task: Field<'a>,
    #[serde(borrow, default)]
    subtask: Field<'a>,
    #[serde(borrow, default)]
    request_body: Field<'a>,
    #[serde(borrow, default)]
    response_body: Field<'a>,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    v: Option<u8>,
    #[serde(
        borrow,
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    error: Option<WireError<'a>>,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    deadline: Option<u64>,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    attempt: Option<u32>,
    #[serde(
        borrow,
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    traceparent: Option<Cow<'a, str>>,
    #[serde(
        borrow,
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    caller_request_id: Option<Cow<'a, str>>,
    #[serde(
        default,
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    timing: Option<Timing>,
}

impl<'a> Event<'a> {
    /// The addresses: `consuming` is the frontend or backend, `events` the events service.
    fn between(consuming: &'a Address, events: &'a Address) -> Self {
        Event {
            container_id: Field::of(consuming.container.as_str()),
            service: Field::of(consuming.service.as_str()),
            service_container_id: Field::of(events.container.as_str()),
            service_container_service: Field::of(events.service.as_str()),
            ..Event::default()
        }
    }

    /// The extension fields beside the text: `v` says that it is final, `error` that it is none.
    fn with_ended(mut self, ended: &'a Ended) -> Self {
        self.v = Some(VERSION);
        self.response_body = match ended {
            Ended::Final(text) => Field::of(text),
            Ended::Raw(text) => {
                self.v = None;
                Field::of(text)
            }
            Ended::Failed(failure) => {
                self.error = Some(failure.into());
                Field::of(&failure.detail)
            }
        };
        self
    }

    fn into_ended(self) -> Ended {
        let text = self.response_body.into_text();
        match self.error {
            Some(error) => Ended::Failed(error.into_failure(text)),
            None if self.v >= Some(VERSION) => Ended::Final(text),
            None => Ended::Raw(text),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(512);
        serde_json::to_writer(&mut payload, self)
            .expect("an event is text and numbers, and a vector takes every write");
        payload
    }
}

/// A foreign sender may use the name of one of our extensions for something else of its own: a value
/// that does not parse counts as absent.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let value = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(value.get()).ok())
}

/// A text field: absent, `null` and `""` all mean *not set*; sent as `""` where not set.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct Field<'a>(Cow<'a, str>);

impl<'a> Field<'a> {
    fn of(text: &'a str) -> Self {
        Field(Cow::Borrowed(text))
    }

    fn get(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&*self.0)
    }

    fn set(&self, name: &'static str) -> Result<&str, Rejected> {
        self.get().ok_or(Rejected::NotSet(name))
    }

    /// The text, moved out.
    fn take(&mut self, name: &'static str) -> Result<String, Rejected> {
        if self.0.is_empty() {
            return Err(Rejected::NotSet(name));
        }
        Ok(std::mem::take(&mut self.0).into_owned())
    }

    fn into_text(self) -> String {
        self.0.into_owned()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> de::Visitor<'de> for Text {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or null")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }
        }
        deserializer.deserialize_any(Text).map(Field)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct WireError<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    detail: Cow<'a, str>,
}

impl<'a> From<&'a Failure> for WireError<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            code: failure.code.as_str().into(),
            detail: failure.detail.as_str().into(),
        }
    }
}

impl WireError<'_> {
    /// A code we do not know is a failed task; a missing detail is made up for by the response.
    fn into_failure(self, response: String) -> Failure {
        let code = FailureCode::from_name(&self.code).unwrap_or(FailureCode::TaskFailed);
        let detail = if self.detail.is_empty() {
            response
        } else {
            self.detail.into_owned()
        };
        Failure { code, detail }
    }
}
