//! `GET /`: the HTTP edge alone.

use anyhow::Result;
use e2e::case::Case;

use crate::{
    cli::FrontendArgs,
    deployment::{Binaries, Servers},
    generator::{Extent, Load},
    measure::{System, measure_each},
    questions::Kind,
};

use super::{Found, USUAL, others};

/// The older project's table: so many requests ...
const COUNTS: [u64; 3] = [100, 1_000, 5_000];
/// ... on so many connections.
const CONNECTIONS: [usize; 3] = [1, 10, 500];

/// Starts what it takes and measures it.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(case: &Case, args: &FrontendArgs) -> Result<Found> {
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let mut servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let services = args.deployment.start(case, &servers, &binaries).await?;
    let systems = [services.system(&mut servers, "GET /".to_owned(), Kind::Root)];
    let repeat = args.measuring.repeat;

    // A table of its own: a fixed number of requests is over in no time.
    let mut points = Vec::new();
    for count in COUNTS {
        // More connections than requests would be idle ones.
        let connections = CONNECTIONS.into_iter().filter(|&n| n as u64 <= count);
        let loads: Vec<_> = connections
            .map(|connections| Load::Closed { connections })
            .collect();
        let point = |_: &System, load: Load| {
            let mut point = load.point(&format!("GET /, {count} requests"));
            // It belongs on no axis: the time it takes says little.
            point.x = None;
            point
        };
        points
            .extend(measure_each(&systems, &loads, Extent::Requests(count), repeat, point).await?);
    }
    points.extend(args.measuring.measure(&systems).await?);
    let open: Vec<_> = args
        .open
        .iter()
        .map(|&per_second| Load::Open {
            per_second,
            connections: args.measuring.open_connections,
        })
        .collect();
    let point = |_: &System, load: Load| load.point("GET /, open loop");
    points.extend(measure_each(&systems, &open, args.measuring.extent(), repeat, point).await?);
    let mut settings = args.measuring.settings();
    settings.insert("deployment".to_owned(), args.deployment.describe(&servers));
    Ok(Found {
        title: "GET / at the frontend".to_owned(),
        settings,
        points,
        others: others(USUAL, Kind::Root, &args.measuring),
        ..Found::default()
    })
}
