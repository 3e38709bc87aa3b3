//! More containers: what they bring, and that each request still costs the same number of messages;
//! and in how many of Redis they travel.

use std::time::Duration;

use anyhow::Result;
use e2e::redis::Redis;

use crate::{
    cli::ScaleArgs,
    deployment::{Binaries, Counts, Servers, Services},
    generator::Load,
    measure::once,
    metrics::Metrics,
    progress::Progress,
    questions::Kind,
    report::{Better, Point, number},
};

use super::{Found, in_case};

/// Backends, with one of the others.
const BACKENDS: [u32; 4] = [1, 3, 10, 50];
/// Frontends and events services, with three backends.
const EDGES: [(u32, u32); 4] = [(1, 2), (2, 1), (2, 2), (4, 4)];
/// What is counted while nothing is asked: announcements and probes.
const IDLE: Duration = Duration::from_secs(4);

/// Starts each deployment in turn and measures it.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(args: &ScaleArgs) -> Result<Found> {
    let binaries = Binaries::get(args.binaries.as_deref()).await?;
    let of_backends = BACKENDS.map(|backends| Counts {
        frontends: 1,
        events_services: 1,
        backends,
    });
    let of_edges = EDGES.map(|(frontends, events_services)| Counts {
        frontends,
        events_services,
        backends: 3,
    });
    let deployments: Vec<_> = of_backends
        .into_iter()
        .map(|counts| ("more backends", counts.backends, "backends", counts))
        .chain(of_edges.map(|counts| {
            let edges = counts.frontends + counts.events_services;
            (
                "more of the others",
                edges,
                "frontends and events services",
                counts,
            )
        }))
        .collect();
    let mut progress = Progress::new(deployments.len() * args.measuring.repeat);
    let mut points = Vec::new();
    for (series, x, x_name, counts) in deployments {
        let label = format!(
            "{} frontend, {} events service, {} backend",
            counts.frontends, counts.events_services, counts.backends
        );
        let mut point = Point::new(series, label).at(f64::from(x), x_name);
        // Servers of its own: what the last one wrote does not slow the next one down.
        in_case(async |case| {
            let mut servers = Servers::start(case, false).await?;
            let services = Services::start(case, &servers, &binaries.0, counts, &[]).await?;
            for _ in 0..args.measuring.repeat {
                deliveries(args, &mut servers, &services, &mut point, &mut progress).await?;
            }
            Ok(())
        })
        .await?;
        points.push(point);
    }
    progress.finish();
    let per_request: Vec<f64> = points
        .iter()
        .filter_map(|point| point.median("deliveries"))
        .collect();
    let fewest = per_request.iter().copied().fold(f64::INFINITY, f64::min);
    let most = per_request.iter().copied().fold(0.0, f64::max);
    let mut settings = args.measuring.settings();
    settings.insert("connections".to_owned(), args.load.to_string());
    Ok(Found {
        title: "More containers: throughput, and messages delivered for each request".to_owned(),
        settings,
        points,
        findings: vec![format!(
            "deliveries per request: {} to {}",
            number(fewest),
            number(most)
        )],
        others: Vec::new(),
    })
}

/// One run. Every process counts what it hears; what it hears without any request is taken off.
async fn deliveries(
    args: &ScaleArgs,
    servers: &mut Servers,
    services: &Services,
    point: &mut Point,
    progress: &mut Progress,
) -> Result<()> {
    let all = || {
        let up = &services.up;
        up.frontends
            .iter()
            .chain(&up.events_services)
            .chain(&up.backends)
    };
    let mut redis = Redis::connect(&servers.redis.address.to_string()).await?;
    let begun = std::time::Instant::now();
    let idle = Metrics::of(all()).await?;
    tokio::time::sleep(IDLE).await;
    let before = Metrics::of(all()).await?;
    let idle_per_second = before.since(&idle, HEARD) / begun.elapsed().as_secs_f64();
    let published_before = redis.calls("publish").await?;

    let begun = std::time::Instant::now();
    let system = services.system(servers, point.series.clone(), Kind::Distinct);
    let load = Load::Closed {
        connections: args.load,
    };
    once(&system, load, args.measuring.extent(), point, progress).await?;
    let published = redis.calls("publish").await? - published_before;
    let after = Metrics::of(all()).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let answered = after
        .since(&before, "roundtrip_requests_answered_total")
        .max(1.0);
    let heard = after.since(&before, HEARD) - idle_per_second * elapsed;
    point.add(
        "deliveries",
        "messages/req",
        Better::Lower,
        heard / answered,
    );
    point.add(
        "publishes",
        "publishes/req",
        Better::Lower,
        published as f64 / answered,
    );
    point.add("idle", "messages/s", Better::Lower, idle_per_second);
    Ok(())
}

/// Messages that reached a process, each by itself where several shared one of Redis.
const HEARD: &str = "roundtrip_bus_heard_total";
