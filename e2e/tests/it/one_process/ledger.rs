//! `roundtrip audit balance`, on one process.

use anyhow::ensure;
use e2e::{
    bodies::FIVE,
    case::{free_port, run},
    http,
};
use serde_json::Value;

use super::{Laptop, command};

#[test]
fn it_is_balanced() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let (url, database) = (laptop.url(), laptop.database());
        for (body, _) in FIVE.iter().chain(&FIVE[..2]) {
            http::task(laptop.http, *body).await?;
        }
        http::task(laptop.http, r#"{"d1": 1, "d2": 0}"#).await?;
        http::task(laptop.http, "{}").await?;
        let balance = ["audit", "balance", "--database", &database];
        let both = [&balance[..], &["--frontend", &url]].concat();

        let table = command(case, &both).await?.success()?;
        ensure!(table.lines().last() == Some("balanced"), "{table}");
        let json = [&both[..], &["-o", "json"]].concat();
        let ledger: Value = serde_json::from_str(&command(case, &json).await?.success()?)?;
        let (log, frontend) = (&ledger["log"], &ledger["frontends"][0]);
        ensure!(ledger["balanced"] == true, "{ledger}");
        ensure!(
            frontend["offered"] == 9 && frontend["answered"] == 7,
            "{ledger}"
        );
        let failed = serde_json::json!({"division_by_zero": 1, "property_count": 1});
        ensure!(frontend["failed"] == failed, "{ledger}");
        ensure!(log["records"] == 8, "{ledger}");
        ensure!(log["answered"] == 5 && log["repeated"] == 2, "{ledger}");
        ensure!(log["executions"] == 6 && log["attempts"] == 6, "{ledger}");

        // The log alone, and a part of it.
        let table = command(case, &balance).await?.success()?;
        ensure!(table.lines().last() == Some("balanced"), "{table}");
        ensure!(!table.contains("FRONTENDS"), "{table}");
        let none = [&both[..], &["--until", "1h"]].concat();
        let table = command(case, &none).await?.success()?;
        ensure!(table.contains("not compared"), "{table}");
        let listed = [
            "audit",
            "list",
            "--database",
            &database,
            "-o",
            "json",
            "--since",
            "1h",
        ];
        let all: Value = serde_json::from_str(&command(case, &listed).await?.success()?)?;
        ensure!(all.as_array().is_some_and(|all| all.len() == 8), "{all}");
        let none = [&listed[..], &["--until", "2020-07-15T14:51:44+02:00"]].concat();
        let none: Value = serde_json::from_str(&command(case, &none).await?.success()?)?;
        ensure!(none == serde_json::json!([]), "{none}");
        Ok(())
    });
}

#[test]
fn a_frontend_that_is_not_there_is_an_error() {
    run(async |case| {
        let laptop = Laptop::up(case).await?;
        let database = laptop.database();
        let nobody = format!("http://127.0.0.1:{}", free_port()?);
        let arguments = [
            "audit",
            "balance",
            "--database",
            &database,
            "--frontend",
            &nobody,
        ];
        let output = command(case, &arguments).await?;
        ensure!(output.code == Some(1), "{output:?}");
        ensure!(output.stderr.contains("127.0.0.1"), "{output:?}");
        ensure!(output.stdout.is_empty(), "{output:?}");
        Ok(())
    });
}
