//! Which path is what.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use shared::{
    contract::{RequestId, excerpt},
    object_ids::ObjectIds,
    ops::{self, Ops},
};

use crate::{
    flow::{Asked, Flow},
    metrics::Metrics,
    problem::Problem,
    settings::RequestLimits,
};

/// The id of a request: the caller's own in, the caller's or ours out.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// How long the caller waits, in ms; only shorter than the usual deadline.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// A caller's id is kept in the record: what is longer is not taken for one.
const CALLER_ID_BYTES_MAX: usize = 128;

/// What is read of a body that is too large, before it is refused.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
/// And for how long.
const DISCARD_FOR: Duration = Duration::from_millis(500);

/// What the routes need.
pub(crate) struct App {
    pub(crate) flow: Arc<Flow>,
    pub(crate) limits: RequestLimits,
    pub(crate) metrics: Arc<Metrics>,
}

/// The ids of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestIds {
    ours: RequestId,
    callers: Option<String>,
}

/// Answers requests, whatever connection they came by. Cheap to clone.
#[derive(Clone)]
pub struct Requests {
    routes: Router,
    ids: Arc<ObjectIds>,
    app: Arc<App>,
}

impl Requests {
    pub(crate) fn new(app: App, ops: Ops) -> Self {
        let app = Arc::new(app);
        Self {
            routes: routes(app.clone(), ops),
            ids: Arc::default(),
            app,
        }
    }

    /// Answers a request; every answer carries an `X-Request-Id`. A client that hangs up is a future
    /// that is dropped.
    pub async fn answer(&self, mut request: Request) -> Response {
        use tower::Service;
        let ids = RequestIds::of(request.headers(), &self.ids);
        let shown = HeaderValue::from_str(ids.shown());
        request.extensions_mut().insert(ids);
        let Ok(mut response) = self.routes.clone().call(request).await;
        if let Ok(shown) = shown {
            response.headers_mut().insert(REQUEST_ID, shown);
        }
        response
    }

    /// What the frontend counts.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        self.app.metrics.clone()
    }

    /// How many requests wait for a reply.
    pub fn waiting(&self) -> usize {
        self.app.flow.pending.len()
    }
}

/// All routes.
fn routes(app: Arc<App>, ops: Ops) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/task", post(task))
        .route("/task/{task}/{subtask}", post(named_task))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
        .merge(ops::routes(ops).method_not_allowed_fallback(method_not_allowed))
        .fallback(not_found)
}

async fn root() -> Response {
    json(StatusCode::OK, r#"{"message":"OK"}"#.into())
}

async fn task(
    State(app): State<Arc<App>>,
    Extension(ids): Extension<RequestIds>,
    request: Request,
) -> Response {
    app.answer(ids, None, request).await
}

async fn named_task(
    State(app): State<Arc<App>>,
    named: Result<Path<(String, String)>, PathRejection>,
    Extension(ids): Extension<RequestIds>,
    request: Request,
) -> Response {
    match named {
        Ok(Path(named)) => app.answer(ids, Some(named), request).await,
        Err(rejection) => Problem::BadPath(rejection.body_text()).into_response(ids.shown()),
    }
}

async fn not_found(Extension(ids): Extension<RequestIds>, request: Request) -> Response {
    let path = excerpt(request.uri().path());
    Problem::NotFound { path }.into_response(ids.shown())
}

async fn method_not_allowed(Extension(ids): Extension<RequestIds>) -> Response {
    Problem::MethodNotAllowed.into_response(ids.shown())
}

#[derive(Serialize)]
struct Answer<'a> {
    message: &'static str,
    result: &'a str,
}

impl App {
    /// Answers a request for a task, and keeps the ledger.
    async fn answer(
        &self,
        ids: RequestIds,
        named: Option<(String, String)>,
        request: Request,
    ) -> Response {
        let offered = self.metrics.offer();
        let shown = ids.shown().to_owned();
        match self.result(ids, named, request).await {
            Ok(result) => {
                offered.answered();
                let answer = Answer {
                    message: "OK",
                    result: &result,
                };
                json(
                    StatusCode::OK,
                    serde_json::to_string(&answer).expect("text is serializable"),
                )
            }
            Err(problem) => {
                offered.failed(problem.code());
                problem.into_response(&shown)
            }
        }
    }

    async fn result(
        &self,
        ids: RequestIds,
        named: Option<(String, String)>,
        request: Request,
    ) -> Result<String, Problem> {
        let in_flight_max = self.limits.in_flight_max;
        if self.metrics.in_flight() > in_flight_max {
            return Err(Problem::TooManyInFlight { in_flight_max });
        }
        let patience = self.patience(request.headers())?;
        let body = self.body(request).await?;
        let asked = Asked {
            request_id: ids.ours,
            caller_request_id: ids.callers,
            named,
            body,
            patience,
        };
        self.flow.ask(asked).await
    }

    fn patience(&self, headers: &HeaderMap) -> Result<Duration, Problem> {
        let Some(value) = headers.get(REQUEST_TIMEOUT) else {
            return Ok(self.limits.deadline);
        };
        match value.to_str().ok().and_then(|text| text.parse().ok()) {
            Some(ms @ 1..) => Ok(self.limits.deadline.min(Duration::from_millis(ms))),
            _ => Err(Problem::BadHeader(format!(
                "the header {REQUEST_TIMEOUT} is {}, expected a whole number of ms from 1",
                excerpt(&String::from_utf8_lossy(value.as_bytes()))
            ))),
        }
    }

    async fn body(&self, request: Request) -> Result<Bytes, Problem> {
        let bytes_max = self.limits.body_bytes_max;
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let mut body = request.into_body();
        if length.is_some_and(|length| length > bytes_max as u64) {
            discard(body).await;
            return Err(Problem::BodyTooLarge { bytes_max });
        }
        let limit = self.limits.body_timeout;
        let whole = Limited::new(&mut body, bytes_max).collect();
        match tokio::time::timeout(limit, whole).await {
            Ok(Ok(whole)) => Ok(whole.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                discard(body).await;
                Err(Problem::BodyTooLarge { bytes_max })
            }
            Ok(Err(error)) => Err(Problem::BodyBroken(error.to_string())),
            Err(_) => Err(Problem::BodyTimeout(limit)),
        }
    }
}

/// Reads on for a while what will not be taken. A connection that is closed with bytes unread is
/// reset, and a client that is still sending would lose the answer that says why.
async fn discard(mut body: Body) {
    let reading = async {
        let mut left = DISCARDED_BYTES_MAX;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    if tokio::time::timeout(DISCARD_FOR, reading).await.is_err() {
        tracing::debug!("a body that is not taken was not read to its end");
    }
}

impl RequestIds {
    /// The id that the caller is shown: its own, if it sent a sane one.
    fn shown(&self) -> &str {
        self.callers.as_deref().unwrap_or(self.ours.as_str())
    }
}

impl RequestIds {
    /// Our ids of requests are ids of records: the events service gives the request that record.
    fn of(headers: &HeaderMap, ids: &ObjectIds) -> Self {
        let ours = ids.next().to_string();
        Self {
            ours: ours.parse().expect("24 digits are not empty"),
            callers: headers.get(REQUEST_ID).and_then(sane),
        }
    }
}

/// A caller's id, if it is of 1 to 128 characters that ids are made of: it is shown in logs, pages
/// and command lines.
fn sane(value: &HeaderValue) -> Option<String> {
    let bytes = value.as_bytes();
    let is_sane = (1..=CALLER_ID_BYTES_MAX).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@,~".contains(b));
    is_sane.then(|| value.to_str().ok().map(str::to_owned))?
}

fn json(status: StatusCode, body: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}
