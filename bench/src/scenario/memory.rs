//! What the services keep in memory: idle, under load, and after many requests.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use e2e::case::Case;

use crate::{
    cli::MemoryArgs,
    deployment::{Binaries, Servers},
    generator::{self, Extent, Load, Target, Watch},
    progress::Progress,
    questions::Kind,
    report::{Better, Point, number},
};

use super::Found;

/// Parts in which the requests are asked, with a look at the memory after each.
const PARTS: u64 = 8;
/// How long the load of many connections lasts.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// Starts what it takes and measures it.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(case: &Case, args: &MemoryArgs) -> Result<Found> {
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let services = args.deployment.start(case, &servers, &binaries).await?;
    let target = Target {
        addresses: services.up.addresses(),
        kind: Kind::Distinct,
        questions: services.questions.clone(),
    };
    let mut memory = Memory {
        processes: services.processes(),
        points: Vec::new(),
        progress: Progress::new(1 + PARTS as usize),
    };

    memory.look("idle", None)?;
    let extent = Extent::Time {
        warm_up: Duration::ZERO,
        measured: IN_FLIGHT,
    };
    let largest = memory.load(&target, args.in_flight, extent).await?;
    memory.note(
        &format!("{} in flight, largest seen", args.in_flight),
        None,
        &largest,
    );
    for part in 1..=PARTS {
        let count = args.requests / PARTS;
        memory
            .load(&target, args.load, Extent::Requests(count))
            .await?;
        let so_far = part * count;
        let label = format!("after {} requests", number(so_far as f64));
        memory.look(&label, Some(so_far as f64))?;
    }
    memory.progress.finish();

    let findings = memory.growth();
    let mut settings = std::collections::BTreeMap::new();
    settings.insert("deployment".to_owned(), args.deployment.describe(&servers));
    settings.insert(
        "connections for the many requests".to_owned(),
        args.load.to_string(),
    );
    Ok(Found {
        title: "Resident memory of the services".to_owned(),
        settings,
        points: memory.points,
        findings,
        others: Vec::new(),
    })
}

struct Memory {
    processes: Vec<(String, u32)>,
    points: Vec<Point>,
    progress: Progress,
}

impl Memory {
    /// Notes what each process has now.
    fn look(&mut self, label: &str, x: Option<f64>) -> Result<()> {
        let resident = resident_mib(&self.processes)?;
        self.note(label, x, &resident);
        Ok(())
    }

    fn note(&mut self, label: &str, x: Option<f64>, resident: &[f64]) {
        for ((name, _), mib) in self.processes.iter().zip(resident) {
            let mut point = Point::new(name.clone(), label);
            if let Some(x) = x {
                point = point.at(x, "requests so far");
            }
            point.add("resident", "MiB", Better::Lower, *mib);
            self.points.push(point);
        }
    }

    /// Offers load; the largest that each process had meanwhile.
    async fn load(
        &mut self,
        target: &Target,
        connections: usize,
        extent: Extent,
    ) -> Result<Vec<f64>> {
        self.progress.begin(&format!("{connections} connections"));
        let mut largest = Largest {
            processes: &self.processes,
            mib: vec![0.0; self.processes.len()],
            failed: None,
            progress: &mut self.progress,
        };
        let run =
            generator::run(target, Load::Closed { connections }, extent, &mut largest).await?;
        let Largest { mib, failed, .. } = largest;
        self.progress.done(&run);
        failed.map_or(Ok(mib), Err)
    }

    /// How much each process grew over the second half of the requests.
    fn growth(&self) -> Vec<String> {
        let of = |name: &str| -> Vec<f64> {
            let points = self.points.iter();
            points
                .filter(|point| point.series == name && point.x.is_some())
                .filter_map(|point| point.median("resident"))
                .collect()
        };
        let names = self.processes.iter().map(|(name, _)| name);
        names
            .filter_map(|name| {
                let mib = of(name);
                let (half, end) = (*mib.get(mib.len() / 2 - 1)?, *mib.last()?);
                Some(format!(
                    "{name}: {:+.2} MiB over the second half of the requests",
                    end - half
                ))
            })
            .collect()
    }
}

struct Largest<'m> {
    processes: &'m [(String, u32)],
    mib: Vec<f64>,
    failed: Option<anyhow::Error>,
    progress: &'m mut Progress,
}

impl Watch for Largest<'_> {
    fn begun(&mut self) {}

    fn at(&mut self, answers: u64, elapsed: Duration) {
        self.progress.at(answers, elapsed, None);
        match resident_mib(self.processes) {
            Ok(now) => {
                for (largest, now) in self.mib.iter_mut().zip(now) {
                    *largest = largest.max(now);
                }
            }
            Err(error) => self.failed = Some(error),
        }
    }

    fn ended(&mut self) {}
}

fn resident_mib(processes: &[(String, u32)]) -> Result<Vec<f64>> {
    let resident = |(name, id): &(String, u32)| {
        let status = fs::read_to_string(format!("/proc/{id}/status"))
            .with_context(|| format!("{name} has ended"))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
            .with_context(|| format!("{name} has no memory"))?;
        Ok(kib.trim().parse::<f64>()? / 1024.0)
    };
    processes.iter().map(resident).collect()
}
