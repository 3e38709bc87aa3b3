//! What a user would pick instead, under the same load in the same run.

use anyhow::{Result, bail};
use e2e::case::Case;

use crate::{
    cli::PeersArgs,
    deployment::{Alone, Binaries, Servers},
    measure::System,
    questions::Kind,
};

use super::{Found, USUAL, leave_records, others, ratios};

/// Starts ours and theirs and measures them in turn.
///
/// # Errors
/// Something is missing or does not come up, or an answer is wrong.
pub(crate) async fn run(cases: &[Case], args: &PeersArgs) -> Result<Found> {
    let [case, lean_case] = cases else {
        bail!("two folders are needed");
    };
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let mut servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let redis = servers.redis.address;
    let services = args.deployment.start(case, &servers, &binaries).await?;
    let mut lean_servers = Servers::start(lean_case, args.deployment.sync_on_commit).await?;
    let mut lean = args.deployment.clone();
    lean.set
        .push(("TEXT_DOCUMENTS".to_owned(), "long".to_owned()));
    let lean = lean.start(lean_case, &lean_servers, &binaries).await?;

    let ours = services.system(
        &mut servers,
        "roundtrip, audited".to_owned(),
        Kind::Distinct,
    );
    let lean = lean.system(
        &mut lean_servers,
        "roundtrip, audited, TEXT_DOCUMENTS=long".to_owned(),
        Kind::Distinct,
    );
    // They run until the end of the measurement.
    let (_hops, least) = least_of(case, &mut servers, &ours, "a record and its texts").await?;
    let (_lean_hops, lean_least) =
        least_of(lean_case, &mut lean_servers, &lean, "a record").await?;
    let moleculer = Alone::moleculer(case, redis).await?;
    let nats = Alone::nats(case).await?;

    let bus: Vec<_> = servers
        .processes()
        .into_iter()
        .filter(|(name, _)| name == "redis")
        .collect();
    let systems = [
        ours,
        lean,
        least,
        lean_least,
        moleculer.system(Kind::Distinct, &bus),
        nats.system(Kind::Distinct, &[]),
    ];
    let points = args.measuring.measure(&systems).await?;
    let mut settings = args.measuring.settings();
    settings.insert("deployment".to_owned(), args.deployment.describe(&servers));
    settings.insert(
        "peers".to_owned(),
        "Moleculer 0.14 with moleculer-web on the same Redis, gateway and worker as processes of \
         their own; NATS with hyper in front; neither keeps an audit log"
            .to_owned(),
    );
    let mut findings = Vec::new();
    let [ours @ .., _, _] = &systems;
    for peer in &systems[ours.len()..] {
        for ours in ours {
            findings.extend(ratios(&points, &ours.name, &peer.name));
        }
    }
    Ok(Found {
        title: "The same task, adding two numbers, behind ours and behind others".to_owned(),
        settings,
        points,
        findings,
        others: others(USUAL, Kind::OneBody, &args.measuring),
    })
}

/// The least that does the work of ours, on the servers of ours.
async fn least_of(
    case: &Case,
    servers: &mut Servers,
    ours: &System,
    writes: &str,
) -> Result<(Alone, System)> {
    leave_records(ours).await?;
    let mongodb = servers.database.uri();
    let hops = Alone::hops(case, servers.redis.address, 4, Some(&mongodb)).await?;
    let mut system = hops.system(Kind::Distinct, &servers.processes());
    system.name = format!("the least: 4 bare hops and {writes}");
    Ok((hops, system))
}
