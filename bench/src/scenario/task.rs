//! `POST /task` on the full path.

use anyhow::Result;
use e2e::case::Case;

use crate::{
    cli::TaskArgs,
    deployment::{Binaries, OneProcess, Servers, Services},
    generator::Target,
    measure::System,
    questions::Kind,
};

use super::{Found, USUAL, others, ratios};

/// A build that is up.
enum Up {
    OneProcess(OneProcess),
    Services(Box<Servers>, Services),
}

impl Up {
    async fn start(case: &Case, binaries: &Binaries, args: &TaskArgs) -> Result<Self> {
        if args.one_process {
            let up = OneProcess::start(case, &binaries.0, &args.sqlite_sync).await?;
            return Ok(Self::OneProcess(up));
        }
        let servers = Servers::start(case, args.deployment.sync_on_commit).await?;
        let services = args.deployment.start(case, &servers, binaries).await?;
        Ok(Self::Services(Box::new(servers), services))
    }

    fn describe(&self, args: &TaskArgs) -> String {
        match self {
            Self::OneProcess(_) => {
                format!("one process, SQLite with sync {}", args.sqlite_sync)
            }
            Self::Services(servers, _) => args.deployment.describe(servers),
        }
    }

    /// What a report calls it, where there is no other.
    fn name(&self) -> &'static str {
        match self {
            Self::OneProcess(_) => "one process",
            Self::Services(..) => "roundtrip",
        }
    }

    /// It, asked this.
    fn system(&mut self, name: String, kind: Kind) -> System {
        match self {
            Self::OneProcess(up) => System {
                name,
                target: Target {
                    addresses: vec![up.http],
                    kind,
                    questions: up.questions.clone(),
                },
                processes: up
                    .process
                    .id()
                    .map(|id| ("roundtrip".to_owned(), id))
                    .into_iter()
                    .collect(),
            },
            Self::Services(servers, services) => services.system(servers, name, kind),
        }
    }
}

/// Starts what it takes, in a case for each build, and measures it. Several builds are asked in turn.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(cases: &[Case], args: &TaskArgs) -> Result<Found> {
    let mut builds = vec![Binaries::get(args.deployment.binaries.as_deref()).await?];
    for folder in &args.beside {
        builds.push(Binaries::get(Some(folder)).await?);
    }
    let mut up = Vec::new();
    for (case, binaries) in cases.iter().zip(&builds) {
        up.push(Up::start(case, binaries, args).await?);
    }
    let mut found = Found {
        title: "POST /task, from the HTTP caller's side".to_owned(),
        settings: args.measuring.settings(),
        others: others(USUAL, Kind::OneBody, &args.measuring),
        ..Found::default()
    };
    if let Some(first) = up.first() {
        let deployment = first.describe(args);
        found.settings.insert("deployment".to_owned(), deployment);
    }
    let mut systems = Vec::new();
    let mut pairs = Vec::new();
    for kind in args.bodies.kinds() {
        let names = up.iter().zip(&builds).map(|(up, build)| match up.name() {
            name if builds.len() == 1 => format!("{name}, {kind}"),
            name => format!("{name} of {}, {kind}", build.name()),
        });
        let names: Vec<_> = names.collect();
        let others = names.iter().skip(1);
        pairs.extend(others.map(|other| (other.clone(), names[0].clone())));
        let asked = up.iter_mut().zip(names);
        systems.extend(asked.map(|(up, name)| up.system(name, kind)));
    }
    found.points = args.measuring.measure(&systems).await?;
    for (other, first) in pairs {
        found.findings.extend(ratios(&found.points, &other, &first));
    }
    Ok(found)
}
