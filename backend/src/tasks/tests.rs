use proptest::prelude::*;

use super::*;
use crate::{
    FailureCode,
    registry::{Handler, Job},
};

fn run(task: &str, subtask: &str, body: &str) -> Result<String, FailureCode> {
    let worker = examples();
    let job = Job {
        task: task.into(),
        subtask: subtask.into(),
        text: body.into(),
        attempt: None,
    };
    match worker
        .handler(task, subtask)
        .map_err(|failure| failure.code)?
    {
        Handler::Quick(handler) => handler(&job).map_err(|failure| failure.code),
        _ => panic!("the example tasks are quick"),
    }
}

#[test]
fn the_examples_of_the_contract() {
    for (task, subtask, body, result) in [
        ("NUMBER", "ADD", r#"{"a1": 5, "a2": 10}"#, Ok("15")),
        ("NUMBER", "SUBTRACT", r#"{"s1": 4, "s2": 7}"#, Ok("-3")),
        ("NUMBER", "SUBTRACT", r#"{"s2": 7, "s1": 4}"#, Ok("-3")),
        (
            "NUMBER",
            "MULTIPLY",
            r#"{"m1": 50000, "m2": 1000}"#,
            Ok("50000000"),
        ),
        (
            "NUMBER",
            "DIVIDE",
            r#"{"d1": 4, "d2": 7}"#,
            Ok("0.5714285714285714"),
        ),
        (
            "NUMBER",
            "DIVIDE",
            r#"{"d2": 7, "d1": 4}"#,
            Ok("0.5714285714285714"),
        ),
        ("STRING", "ADD", r#"{"a1": "a", "a2": "b"}"#, Ok("ab")),
        ("STRING", "ADD", r#"{"a2": "b", "a1": "a"}"#, Ok("ab")),
        (
            "NUMBER",
            "DIVIDE",
            r#"{"d1": 0.9007199254740993, "d2": 1}"#,
            Ok("0.9007199254740993"),
        ),
        (
            "NUMBER",
            "DIVIDE",
            r#"{"d1": 4, "d2": 0}"#,
            Err(FailureCode::DivisionByZero),
        ),
        (
            "NUMBER",
            "MULTIPLY",
            r#"{"m1": 1e308, "m2": 10}"#,
            Err(FailureCode::ResultNotFinite),
        ),
        (
            "NUMBER",
            "ADD",
            r#"{"a1": 5}"#,
            Err(FailureCode::BadOperands),
        ),
        (
            "NUMBER",
            "ADD",
            r#"{"a1": 5, "a2": "x"}"#,
            Err(FailureCode::BadOperands),
        ),
        (
            "NUMBER",
            "ADD",
            r#"{"a1": 5, "a2": 1, "a3": 2}"#,
            Err(FailureCode::BadOperands),
        ),
        (
            "NUMBER",
            "POWER",
            r#"{"p1": 5, "p2": 1}"#,
            Err(FailureCode::UnknownTask),
        ),
        ("IMAGE", "SCALE", "{}", Err(FailureCode::UnknownTask)),
    ] {
        assert_eq!(
            run(task, subtask, body),
            result.map(str::to_owned),
            "{body}"
        );
    }
}

proptest! {
    #[test]
    fn any_two_strings_are_put_together(a in ".*", b in ".*") {
        let body = serde_json::json!({"a1": a, "a2": b}).to_string();
        prop_assert_eq!(run("STRING", "ADD", &body), Ok(a + &b));
    }

    /// As every language parses it that rounds once.
    #[test]
    fn a_number_is_the_nearest_double(number in "-?[1-9][0-9]{0,20}(\\.[0-9]{1,20})?(e-?[0-9]{1,2})?") {
        let wanted = shared::contract::ecmascript(number.parse().unwrap());
        let body = format!(r#"{{"a1": {number}, "a2": 0}}"#);
        prop_assert_eq!(run("NUMBER", "ADD", &body).ok(), wanted);
    }

    #[test]
    fn any_text_is_answered_or_refused(body in ".*") {
        prop_assert!(run("NUMBER", "ADD", &body).is_err());
    }
}
