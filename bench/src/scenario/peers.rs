//! What a user would pick instead, under the same load in the same run.

use anyhow::Result;
use e2e::case::Case;

use crate::{
    cli::PeersArgs,
    deployment::{Alone, Binaries, Servers, Services},
    questions::Kind,
};

use super::{Found, USUAL, others, ratios};

/// Starts ours and theirs and measures them in turn.
///
/// # Errors
/// Something is missing or does not come up, or an answer is wrong.
pub(crate) async fn run(case: &Case, args: &PeersArgs) -> Result<Found> {
    let binaries = Binaries::get(args.deployment.binaries.as_deref()).await?;
    let mut servers = Servers::start(case, args.deployment.sync_on_commit).await?;
    let redis = servers.redis.address;
    let counts = args.deployment.counts();
    let services = Services::start(case, &servers, &binaries.0, counts).await?;
    let moleculer = Alone::moleculer(case, redis).await?;
    let nats = Alone::nats(case).await?;

    let ours = services.system(
        &mut servers,
        "roundtrip, audited".to_owned(),
        Kind::Distinct,
    );
    let bus: Vec<_> = servers
        .processes()
        .into_iter()
        .filter(|(name, _)| name == "redis")
        .collect();
    let systems = [
        ours,
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
    for peer in &systems[1..] {
        findings.extend(ratios(&points, &systems[0].name, &peer.name));
    }
    Ok(Found {
        title: "The same task, adding two numbers, behind ours and behind others".to_owned(),
        settings,
        points,
        findings,
        others: others(USUAL, Kind::OneBody, &args.measuring),
    })
}
