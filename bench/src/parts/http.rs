//! A minimal HTTP server: hyper and nothing else.

use std::{convert::Infallible, net::SocketAddr, rc::Rc};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::LocalSet};

/// Answers every request with what `work` makes of its body; 500 with its reason when it fails.
///
/// # Errors
/// The address cannot be listened on.
pub(super) async fn serve<W>(listen: SocketAddr, work: W) -> Result<()>
where
    W: AsyncFn(Bytes) -> Result<String> + 'static,
{
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}"))?;
    let work = Rc::new(work);
    LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let work = work.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let work = work.clone();
                    async move { Ok::<_, Infallible>(respond(&*work, request).await) }
                });
                // Its end is the caller's business; a caller that hangs up is no news.
                tokio::task::spawn_local(
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        })
        .await
}

async fn respond<W>(work: &W, request: Request<Incoming>) -> Response<Full<Bytes>>
where
    W: AsyncFn(Bytes) -> Result<String>,
{
    let outcome = match request.into_body().collect().await {
        Ok(body) => work(body.to_bytes()).await,
        Err(error) => Err(error.into()),
    };
    let mut response = Response::default();
    match outcome {
        Ok(answer) => *response.body_mut() = Full::from(answer),
        Err(error) => {
            *response.status_mut() = hyper::StatusCode::INTERNAL_SERVER_ERROR;
            *response.body_mut() = Full::from(format!("{error:#}"));
        }
    }
    response
}
