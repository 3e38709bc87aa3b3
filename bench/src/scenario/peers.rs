//! What a user would pick instead, under the same load in the same run.

use anyhow::{Result, bail};
use e2e::case::Case;

use crate::{
    cli::PeersArgs,
    deployment::{Alone, Binaries, Servers},
    questions::Kind,
};

use super::{Found, USUAL, others, ratios};

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
    let moleculer = Alone::moleculer(case, redis).await?;
    let nats = Alone::nats(case).await?;

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
    let bus: Vec<_> = servers
        .processes()
        .into_iter()
        .filter(|(name, _)| name == "redis")
        .collect();
    let systems = [
        ours,
        lean,
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
