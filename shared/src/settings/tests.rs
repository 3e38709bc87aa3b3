use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Example {
    #[command(flatten)]
    bus: BusSettings,
    #[command(flatten)]
    process: ProcessSettings,
}

fn read(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Example, String> {
    let arguments = std::iter::once("example").chain(arguments.iter().copied());
    read_from(arguments.map(OsString::from), |name| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.into())
    })
    .map_err(|error| crate::ops::chain(&error))
}

#[test]
fn everything_has_a_default() {
    let settings = read(&[], &[]).unwrap();
    assert_eq!(settings.bus.redis().to_string(), "localhost:6379");
    assert_eq!(settings.process.drain_timeout_ms, Duration::from_secs(10));
    assert_eq!(settings.bus.channels().consuming, "Consuming_Service");
}

#[test]
fn a_malformed_value_names_the_variable_the_value_and_what_is_accepted() {
    for (flag, part) in [
        (
            "--redis-port=x",
            "REDIS_PORT (or --redis-port <REDIS_PORT>): `x` is not accepted: expected a whole number from 1 to 65535",
        ),
        ("--redis-host=", "REDIS_HOST"),
        ("--drain-timeout-ms=-1", "DRAIN_TIMEOUT_MS"),
        ("--log-format=xml", "text"),
        ("--redis-prot=1", "--redis-port"),
    ] {
        let error = read(&[flag], &[]).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_secret_is_read_from_a_file() {
    let path = std::env::temp_dir().join(format!("roundtrip-secret-{}", std::process::id()));
    std::fs::write(&path, "s3cret\n").unwrap();
    let file = path.to_str().unwrap();
    let settings = read(&[], &[("REDIS_PASSWORD_FILE", file)]).unwrap();
    assert_eq!(settings.bus.redis_password.as_deref(), Some("s3cret"));
    let both = [("REDIS_PASSWORD_FILE", file), ("REDIS_PASSWORD", "x")];
    assert!(
        read(&[], &both)
            .unwrap_err()
            .contains("REDIS_PASSWORD_FILE are set")
    );
    std::fs::remove_file(&path).unwrap();
    let error = read(&[], &[("REDIS_PASSWORD_FILE", file)]).unwrap_err();
    assert!(
        error.contains("REDIS_PASSWORD_FILE") && error.contains(file),
        "{error}"
    );
}
