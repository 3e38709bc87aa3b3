//! What the parts of a request cost, and the whole beside them.

use anyhow::Result;
use e2e::case::Case;

use crate::{
    cli::FloorArgs,
    deployment::{Alone, Binaries, Servers},
    generator::Load,
    measure::{System, once},
    metrics::Metrics,
    progress::Progress,
    questions::Kind,
    report::{Better, Point, number},
    writes::Writes,
};

use super::{Found, leave_records, ratios};

/// Starts the whole and its parts and measures them in turn.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(case: &Case, args: &FloorArgs) -> Result<Found> {
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let mut servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let redis = servers.redis.address;
    let services = args.deployment.start(case, &servers, &binaries).await?;

    let whole = services.system(
        &mut servers,
        "the whole: roundtrip, audited".to_owned(),
        Kind::Distinct,
    );
    let from_log = services.system(
        &mut servers,
        "roundtrip, from the log".to_owned(),
        Kind::OneBody,
    );
    leave_records(&whole).await?;
    let mongodb = servers.database.uri();
    let writes = Writes::as_in(&mongodb, case.id(), &format!("{}floor", case.id())).await?;
    let http = Alone::http(case).await?;
    let two = Alone::hops(case, redis, 2, None).await?;
    let four = Alone::hops(case, redis, 4, None).await?;
    let two_recorded = Alone::hops(case, redis, 2, Some(&mongodb)).await?;
    let four_recorded = Alone::hops(case, redis, 4, Some(&mongodb)).await?;
    let all = servers.processes();
    let bus: Vec<_> = all
        .iter()
        .filter(|(name, _)| name == "redis")
        .cloned()
        .collect();
    let parts = [
        http.system(Kind::Distinct, &[]),
        two.system(Kind::Distinct, &bus),
        four.system(Kind::Distinct, &bus),
        two_recorded.system(Kind::Distinct, &all),
        four_recorded.system(Kind::Distinct, &all),
    ];
    let mut floor = Floor {
        args,
        progress: Progress::new(
            (2 + parts.len()) * args.measuring.connections.len() * args.measuring.repeat,
        ),
        points: Vec::new(),
    };
    for _ in 0..args.measuring.repeat {
        for load in args.measuring.loads() {
            let before = Metrics::of(services.up.events_services.iter()).await?;
            floor.measure(&whole, load).await?;
            let after = Metrics::of(services.up.events_services.iter()).await?;
            let batch = mean_batch(&before, &after);
            for system in std::iter::once(&from_log).chain(&parts) {
                floor.measure(system, load).await?;
            }
            floor.measure_writes(&writes, load, batch).await?;
        }
    }
    floor.progress.finish();
    let points = floor.points;
    let [_, two, four, two_recorded, four_recorded] = &parts;
    let mut findings = ratios(&points, &whole.name, &four.name);
    findings.extend(ratios(&points, &whole.name, &four_recorded.name));
    findings.extend(ratios(&points, &from_log.name, &two.name));
    findings.extend(ratios(&points, &from_log.name, &two_recorded.name));
    findings.extend(sums(&points, &whole.name, &four.name));
    let mut settings = args.measuring.settings();
    settings.insert("deployment".to_owned(), args.deployment.describe(&servers));
    Ok(Found {
        title: "What the parts of a request cost, and the whole beside them".to_owned(),
        settings,
        points,
        findings,
        others: Vec::new(),
    })
}

/// Records of the log written in batches as large as the whole had them.
const WRITES: &str = "batched writes alone";

struct Floor<'a> {
    args: &'a FloorArgs,
    progress: Progress,
    points: Vec<Point>,
}

impl Floor<'_> {
    fn point(&mut self, series: &str, load: Load) -> usize {
        let new = load.point(series);
        let same = |point: &Point| point.series == new.series && point.load == new.load;
        self.points.iter().position(same).unwrap_or_else(|| {
            self.points.push(new);
            self.points.len() - 1
        })
    }

    async fn measure(&mut self, system: &System, load: Load) -> Result<()> {
        let place = self.point(&system.name, load);
        let extent = self.args.measuring.extent();
        once(
            system,
            load,
            extent,
            &mut self.points[place],
            &mut self.progress,
        )
        .await
    }

    async fn measure_writes(&mut self, writes: &Writes, load: Load, batch: usize) -> Result<()> {
        let per_second = writes
            .per_second(batch, self.args.measuring.measured())
            .await?;
        let place = self.point(WRITES, load);
        let point = &mut self.points[place];
        point.add("records", "records/s", Better::Higher, per_second);
        point.add("batch", "records", Better::Neither, batch as f64);
        Ok(())
    }
}

/// How many records the events service wrote at once on the average.
fn mean_batch(before: &Metrics, after: &Metrics) -> usize {
    let written = after.since(before, "roundtrip_audit_batch_writes_sum");
    let batches = after.since(before, "roundtrip_audit_batch_writes_count");
    if batches > 0.0 {
        (written / batches).round().max(1.0) as usize
    } else {
        1
    }
}

/// The whole beside the sum of its parts: a machine that did one after the other could not be faster.
fn sums(points: &[Point], whole: &str, hops: &str) -> Vec<String> {
    let median = |series: &str, load: &str, figure: &str| {
        points
            .iter()
            .find(|point| point.series == series && point.load == load)
            .and_then(|point| point.median(figure))
    };
    points
        .iter()
        .filter(|point| point.series == whole)
        .filter_map(|point| {
            let parts = 1.0 / median(hops, &point.load, "throughput")?
                + 1.0 / median(WRITES, &point.load, "records")?;
            let whole = point.median("throughput")?;
            Some(format!(
                "{}: hops and writes one after the other would make {} req/s; the whole makes {}, {:.0} % \
                 of that",
                point.load,
                number(1.0 / parts),
                number(whole),
                100.0 * whole * parts
            ))
        })
        .collect()
}
