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

use super::{Found, USUAL, others};

/// Starts what it takes and measures it.
///
/// # Errors
/// Something does not come up, or an answer is wrong.
pub(crate) async fn run(case: &Case, args: &TaskArgs) -> Result<Found> {
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let kinds = args.bodies.kinds();
    let mut found = Found {
        title: "POST /task, from the HTTP caller's side".to_owned(),
        settings: args.measuring.settings(),
        ..Found::default()
    };
    let mut set = |name: &str, value: String| found.settings.insert(name.to_owned(), value);
    if args.one_process {
        let sync = args.sqlite_sync.as_str();
        let up = OneProcess::start(case, &binaries.0, sync).await?;
        set(
            "deployment",
            format!("one process, SQLite with sync {sync}"),
        );
        let systems = kinds.iter().map(|&kind| System {
            name: format!("one process, {kind}"),
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
        });
        found.others = others(USUAL, Kind::OneBody, &args.measuring);
        found.points = args.measuring.measure(&systems.collect::<Vec<_>>()).await?;
        return Ok(found);
    }
    let mut servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let counts = args.deployment.counts();
    let services = Services::start(case, &servers, &binaries.0, counts).await?;
    set("deployment", args.deployment.describe(&servers));
    let systems: Vec<_> = kinds
        .iter()
        .map(|&kind| services.system(&mut servers, format!("roundtrip, {kind}"), kind))
        .collect();
    found.others = others(USUAL, Kind::OneBody, &args.measuring);
    found.points = args.measuring.measure(&systems).await?;
    Ok(found)
}
