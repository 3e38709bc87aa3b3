//! The same against whatever runs already: any mix of images that speak the contract.

use std::{net::SocketAddr, rc::Rc};

use anyhow::{Context, Result, bail, ensure};
use e2e::docker::docker;
use serde_json::Value;

use crate::{cli::MixArgs, generator::Target, measure::System};

use super::{Found, others};

/// Measures the frontends it is given, or finds.
///
/// # Errors
/// There is none, or an answer is wrong.
pub(crate) async fn run(args: &MixArgs) -> Result<Found> {
    let mut addresses = Vec::new();
    for url in &args.url {
        addresses.push(resolve(url).await?);
    }
    if let Some(stack) = &args.stack {
        addresses.extend(published(stack).await?);
    }
    let Some(&first) = addresses.first() else {
        bail!("nobody to ask: name frontends by --url, or a stack by --stack");
    };
    let questions = Rc::default();
    let systems: Vec<_> = args
        .bodies
        .kinds()
        .into_iter()
        .map(|kind| System {
            name: format!("{}, {kind}", args.name),
            target: Target {
                addresses: addresses.clone(),
                kind,
                questions: Rc::clone(&questions),
            },
            processes: Vec::new(),
        })
        .collect();
    let points = args.measuring.measure(&systems).await?;
    let mut settings = args.measuring.settings();
    let frontends: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    settings.insert("frontends".to_owned(), frontends.join(", "));
    if let Some(stack) = &args.stack {
        settings.insert("images".to_owned(), images(stack).await?);
    }
    Ok(Found {
        title: "POST /task at services that run already".to_owned(),
        settings,
        points,
        others: systems
            .first()
            .map(|system| others(&first.to_string(), system.target.kind, &args.measuring))
            .unwrap_or_default(),
        ..Found::default()
    })
}

async fn resolve(url: &str) -> Result<SocketAddr> {
    let host = url
        .strip_prefix("http://")
        .unwrap_or(url)
        .trim_end_matches('/');
    ensure!(
        !host.contains('/'),
        "{url:?} is no frontend's address: expected http://host:port"
    );
    let host = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    tokio::net::lookup_host(&host)
        .await
        .with_context(|| format!("find {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))
}

/// The ports on which the frontends of a stack are published on this machine.
async fn published(stack: &str) -> Result<Vec<SocketAddr>> {
    let name = format!("{stack}_frontend");
    let format = "{{json .Spec.EndpointSpec.Ports}}";
    let ports = docker(["service", "inspect", &name, "--format", format]).await?;
    let ports: Vec<Value> = serde_json::from_str(&ports).unwrap_or_default();
    let ports = ports
        .iter()
        .filter_map(|port| u16::try_from(port["PublishedPort"].as_u64()?).ok());
    let addresses: Vec<_> = ports
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .collect();
    ensure!(
        !addresses.is_empty(),
        "the service {name} publishes no port; name its address by --url"
    );
    Ok(addresses)
}

/// What runs there, for the report.
async fn images(stack: &str) -> Result<String> {
    let format = "{{.Name}} {{.Replicas}} {{.Image}}";
    let services = docker(["stack", "services", stack, "--format", format]).await?;
    Ok(services.lines().collect::<Vec<_>>().join("; "))
}
