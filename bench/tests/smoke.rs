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

#[test]
fn tasks_are_measured_on_the_full_path() {
    let folder = tempfile::tempdir().unwrap();
    let binaries = std::env::var("ROUNDTRIP_TEST_BIN_DIR")
        .expect("ROUNDTRIP_TEST_BIN_DIR names the built services: run this by `cargo xtask test`");
    let output = bench(folder.path(), &["task", "--binaries", &binaries]);
    assert!(output.status.success(), "{output:?}");

    let report = fs::read_to_string(folder.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
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
