//! The only place that turns an error into a response: RFC 9457 `application/problem+json`, with
//! `"message": "FAIL"` beside it for callers of the older frontends.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::contract::{Failure, FailureCode};

use crate::classify::{Fault, Refused};

/// How long a caller is asked to wait before it tries again, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The body is no task.
    Refused(Refused),
    /// The body is larger than is taken.
    BodyTooLarge { bytes_max: usize },
    /// The body did not arrive in time.
    BodyTimeout(Duration),
    /// The connection broke before the body was whole.
    BodyBroken(String),
    /// The path cannot be read.
    BadPath(String),
    /// A header that we read has a value we do not take.
    BadHeader(String),
    /// Too many requests in flight.
    TooManyInFlight { in_flight_max: usize },
    /// The task was accepted and failed.
    Failed(Failure),
    /// No such path.
    NotFound { path: String },
    /// The path is there, the method is not.
    MethodNotAllowed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
    retryable: bool,
    message: &'static str,
}

impl Problem {
    /// The code of the problem: what a program tells it by, in answers and metrics.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(refused) => match refused.fault {
                Fault::Empty => "body_empty",
                Fault::InvalidUtf8 => "invalid_utf8",
                Fault::MalformedJson => "malformed_json",
                Fault::DuplicateKey => "duplicate_key",
                Fault::NotAnObject => "not_an_object",
                Fault::PropertyCount => "property_count",
                Fault::UnsupportedValue => "unsupported_value",
                Fault::MixedTypes => "mixed_types",
                Fault::UnknownOperation => "unknown_operation",
                Fault::NamesDisagree => "names_disagree",
                Fault::NumberOutOfRange => "number_out_of_range",
            },
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout(_) => "body_timeout",
            Self::BodyBroken(_) => "body_broken",
            Self::BadPath(_) => "bad_path",
            Self::BadHeader(_) => "bad_header",
            Self::TooManyInFlight { .. } => "too_many_in_flight",
            Self::Failed(failure) => failure.code.as_str(),
            Self::NotFound { .. } => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    /// The design's table, "Errors over HTTP".
    fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refused) => match refused.fault {
                Fault::Empty | Fault::InvalidUtf8 | Fault::MalformedJson | Fault::DuplicateKey => {
                    StatusCode::BAD_REQUEST
                }
                Fault::NotAnObject
                | Fault::PropertyCount
                | Fault::UnsupportedValue
                | Fault::MixedTypes
                | Fault::UnknownOperation
                | Fault::NamesDisagree
                | Fault::NumberOutOfRange => StatusCode::UNPROCESSABLE_ENTITY,
            },
            Self::BodyBroken(_) | Self::BadPath(_) | Self::BadHeader(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyInFlight { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Failed(failure) => match failure.code {
                FailureCode::DivisionByZero
                | FailureCode::ResultNotFinite
                | FailureCode::BadOperands
                | FailureCode::UnknownTask
                | FailureCode::TaskFailed => StatusCode::UNPROCESSABLE_ENTITY,
                FailureCode::TaskPanicked => StatusCode::INTERNAL_SERVER_ERROR,
                FailureCode::Overloaded
                | FailureCode::NoEventsService
                | FailureCode::NoBackend
                | FailureCode::BusUnavailable
                | FailureCode::AuditUnavailable
                | FailureCode::Abandoned => StatusCode::SERVICE_UNAVAILABLE,
                FailureCode::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            },
        }
    }

    fn title(&self) -> &'static str {
        match self.status() {
            StatusCode::BAD_REQUEST => "The request cannot be read",
            StatusCode::NOT_FOUND => "There is nothing at this path",
            StatusCode::METHOD_NOT_ALLOWED => "This path does not take this method",
            StatusCode::REQUEST_TIMEOUT => "The request did not arrive in time",
            StatusCode::PAYLOAD_TOO_LARGE => "The body is too large",
            StatusCode::UNPROCESSABLE_ENTITY => "The task cannot be done",
            StatusCode::TOO_MANY_REQUESTS => "Too many requests are in flight",
            StatusCode::SERVICE_UNAVAILABLE => "The task cannot be done at present",
            StatusCode::GATEWAY_TIMEOUT => "The deadline passed",
            _ => "The task went wrong",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::Refused(refused) => refused.detail.clone(),
            Self::BodyTooLarge { bytes_max } => {
                format!(
                    "the body is larger than {bytes_max} bytes, which is the most that is taken"
                )
            }
            Self::BodyTimeout(limit) => format!("the body did not arrive within {limit:?}"),
            Self::BodyBroken(why) => format!("the body broke off: {why}"),
            Self::BadPath(why) | Self::BadHeader(why) => why.clone(),
            Self::TooManyInFlight { in_flight_max } => {
                format!("{in_flight_max} requests are in flight, which is the most that are taken")
            }
            Self::Failed(failure) => failure.detail.clone(),
            Self::NotFound { path } => format!(
                "there is nothing at {path}; POST a task to /task or /task/{{TASK}}/{{SUBTASK}}"
            ),
            Self::MethodNotAllowed => "see the header Allow for the methods of this path".into(),
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Failed(failure) => failure.code.is_retryable(),
            Self::TooManyInFlight { .. } | Self::BodyTimeout(_) | Self::BodyBroken(_) => true,
            Self::Refused(_)
            | Self::BodyTooLarge { .. }
            | Self::BadPath(_)
            | Self::BadHeader(_)
            | Self::NotFound { .. }
            | Self::MethodNotAllowed => false,
        }
    }

    /// The response, for the request with this id.
    pub(crate) fn into_response(self, request_id: &str) -> Response {
        let status = self.status();
        let document = Document {
            r#type: format!("urn:roundtrip:problem:{}", self.code()),
            title: self.title(),
            status: status.as_u16(),
            detail: &self.detail(),
            code: self.code(),
            request_id,
            retryable: self.is_retryable(),
            message: "FAIL",
        };
        let body = serde_json::to_string(&document).expect("the document is text and numbers");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        // What is left of a body that was not read would be taken for the next request.
        if matches!(
            status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
        ) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
