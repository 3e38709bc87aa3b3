//! The suite from outside: a short measurement of the real thing, and one that must not count.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn bench(out: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .args([
            "--connections",
            "4",
            "--seconds",
            "0.5",
            "--warm-up",
            "0.2",
            "--out",
        ])
        .arg(out)
        .output()
        .expect("it can be started")
}

/// A scenario that must succeed: its report.
fn measured(out: &Path, scenario: &str) -> Value {
    let binaries = std::env::var("ROUNDTRIP_TEST_BIN_DIR")
        .expect("ROUNDTRIP_TEST_BIN_DIR names the built services: run this by `cargo xtask test`");
    let output = bench(out, &[scenario, "--binaries", &binaries]);
    assert!(output.status.success(), "{output:?}");
    let report = fs::read_to_string(out.join("report.json")).expect("there is a report");
    serde_json::from_str(&report).expect("the report is JSON")
}

#[test]
fn tasks_are_measured_on_the_full_path() {
    let folder = tempfile::tempdir().unwrap();
    let report = measured(folder.path(), "task");
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 3, "one body, distinct bodies, every kind");
    for point in points {
        let run = &point["runs"][0];
        assert!(run["requests"].as_u64() > Some(0), "{point}");
        assert!(!run["slices"].as_array().unwrap().is_empty(), "{point}");
    }
    for file in ["report.md", "latency-roundtrip-distinct-bodies.svg"] {
        assert!(folder.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn the_whole_is_measured_beside_its_parts_with_and_without_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let report = measured(folder.path(), "floor");
    let cost_of_database = |series: &str| {
        let points = report["points"].as_array().unwrap();
        let point = points.iter().find(|point| point["series"] == series);
        let figures = point.unwrap_or_else(|| panic!("{series} in {points:?}"))["figures"]
            .as_array()
            .unwrap();
        figures
            .iter()
            .any(|figure| figure["name"] == "cpu database")
    };
    assert!(cost_of_database("the whole: roundtrip, audited"));
    for hops in [2, 4] {
        assert!(!cost_of_database(&format!("HTTP and {hops} bare hops")));
        assert!(cost_of_database(&format!(
            "HTTP, {hops} bare hops and a record"
        )));
    }
}

#[test]
fn a_wrong_answer_leaves_no_result() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // It ends with the test's process; every connection gets one wrong answer.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let read = stream.read(&mut [0; 1024]);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n{\"message\":\"OK\",\"result\":\"16\"}";
            // The other connections are cut as soon as one has its wrong answer.
            drop((read, stream.write_all(answer)));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let output = bench(folder.path(), &["mix", "--url", &url, "--bodies", "one"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("a wrong answer"),
        "{output:?}"
    );
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
