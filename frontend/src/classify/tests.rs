use proptest::prelude::*;

use super::*;

fn fault(body: &[u8]) -> Fault {
    classify(body).unwrap_err().fault
}

#[test]
fn bodies_become_tasks() {
    for (body, task, subtask) in [
        (r#"{"a1": 5, "a2": 10}"#, "NUMBER", "ADD"),
        (r#"{"s1": 4, "s2": 7}"#, "NUMBER", "SUBTRACT"),
        (r#"{"m1": 4, "m2": 7}"#, "NUMBER", "MULTIPLY"),
        (r#"{"d1": 4, "d2": 7}"#, "NUMBER", "DIVIDE"),
        (r#"{"dsma": 4, "xa": 7}"#, "NUMBER", "ADD"),
        (r#"{"dsm": 4, "s": -7.5e3}"#, "NUMBER", "SUBTRACT"),
        (r#"{"md": 4, "dm": 0}"#, "NUMBER", "MULTIPLY"),
        (r#"{"a1": "a", "a2": "b"}"#, "STRING", "ADD"),
        (r#"{"q": "", "s2": "\ud83d\ude00"}"#, "STRING", "ADD"),
    ] {
        let classified = classify(body.as_bytes()).unwrap();
        assert_eq!(
            (classified.task, classified.subtask),
            (task, subtask),
            "{body}"
        );
    }
}

#[test]
fn the_same_question_is_the_same_text() {
    let compact = classify(br#"{"a1":5,"a2":"x y"}"#);
    assert_eq!(compact.unwrap_err().fault, Fault::MixedTypes);
    let body = |text: &str| classify(text.as_bytes()).unwrap().body;
    assert_eq!(
        body(" {\n\t\"a1\" : 5 , \"a2\":10 }\r\n"),
        r#"{"a1":5,"a2":10}"#
    );
    assert_eq!(
        body(r#"{"a\"1": "x y", "a2": "\n"}"#),
        r#"{"a\"1":"x y","a2":"\n"}"#
    );
}

#[test]
fn what_is_no_task_is_refused_for_its_reason() {
    for (body, wanted) in [
        (&b""[..], Fault::Empty),
        (b"{\"a1\": \"\xff\", \"a2\": \"b\"}", Fault::InvalidUtf8),
        (b"{\"a1\": 5,", Fault::MalformedJson),
        (b"{\"a1\": 5, \"a2\": 10} x", Fault::MalformedJson),
        (b"{\"a1\": 05, \"a2\": 10}", Fault::MalformedJson),
        (b"{\"a1\": NaN, \"a2\": 10}", Fault::MalformedJson),
        (br#"{"a1": "\ud800", "a2": "b"}"#, Fault::MalformedJson),
        (br#"{"a\ud800": "x", "a2": "b"}"#, Fault::MalformedJson),
        (br#"{"a1": 5, "a1": 10}"#, Fault::DuplicateKey),
        (br#"{"a1": 5, "\u00611": 10}"#, Fault::DuplicateKey),
        (b"[1, 2]", Fault::NotAnObject),
        (b"5", Fault::NotAnObject),
        (b"null", Fault::NotAnObject),
        (b"{}", Fault::PropertyCount),
        (br#"{"a1": 5}"#, Fault::PropertyCount),
        (br#"{"a1": 5, "a2": 10, "a3": 15}"#, Fault::PropertyCount),
        (br#"{"a1": true, "a2": 10}"#, Fault::UnsupportedValue),
        (br#"{"a1": 5, "a2": null}"#, Fault::UnsupportedValue),
        (br#"{"a1": {"b": 1}, "a2": 10}"#, Fault::UnsupportedValue),
        (br#"{"a1": [1], "a2": 10}"#, Fault::UnsupportedValue),
        (br#"{"a1": 5, "a2": "10"}"#, Fault::MixedTypes),
        (br#"{"a1": 5, "s2": 10}"#, Fault::NamesDisagree),
        (br#"{"x": 5, "a2": 10}"#, Fault::UnknownOperation),
        (br#"{"a1": 1e400, "a2": 10}"#, Fault::NumberOutOfRange),
    ] {
        assert_eq!(fault(body), wanted, "{}", String::from_utf8_lossy(body));
    }
    let deep = "[".repeat(10_000);
    assert_eq!(fault(deep.as_bytes()), Fault::MalformedJson);
    let deep = deep + &"]".repeat(10_000);
    assert_eq!(fault(deep.as_bytes()), Fault::NotAnObject);
    let deep = format!(
        r#"{{"a1": {}{}, "a2": 1}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(fault(deep.as_bytes()), Fault::UnsupportedValue);
}

#[test]
fn malformed_json_is_located() {
    for (body, part) in [
        ("{\"a1\": 5,\n \"a2\": }", "at line 2 column 8"),
        ("{\"a1\": 5,\n \"a2\": \"\\ud800\"}", "at line 2 column"),
        ("{\"a1\": 5, \"a1\": 6}", "at line 1 column"),
    ] {
        let refused = classify(body.as_bytes()).unwrap_err();
        assert!(refused.detail.contains(part), "{}", refused.detail);
    }
}

#[test]
fn any_json_is_taken_whole() {
    for body in [
        "1",
        "\"x\"",
        "null",
        r#" {"a": [1, {"b": null}], "c": {"a": 2}} "#,
        "[]",
    ] {
        assert_eq!(any_json(body.as_bytes()), Ok(body.trim()));
    }
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for (body, wanted) in [
        ("", Fault::Empty),
        ("{", Fault::MalformedJson),
        ("1 2", Fault::MalformedJson),
        (r#"[{"x": {"a": 1, "a": 1}}]"#, Fault::DuplicateKey),
        ("[1e400]", Fault::NumberOutOfRange),
        (r#"["\udc00"]"#, Fault::MalformedJson),
        (&deep, Fault::MalformedJson),
    ] {
        assert_eq!(
            any_json(body.as_bytes()).unwrap_err().fault,
            wanted,
            "{body}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(classify(&body).is_err());
        prop_assert!(any_json(&body).is_err() || std::str::from_utf8(&body).is_ok());
    }

    #[test]
    fn arbitrary_json_like_text_never_panics(body in "[\\[\\]{}:,\"a1s2 \\\\ue0-9.+-]{0,40}") {
        let taken = classify(body.as_bytes());
        prop_assert!(taken.is_err() || serde_json::from_str::<serde_json::Value>(&body).is_ok());
        let any = any_json(body.as_bytes());
        prop_assert!(any.is_err() || serde_json::from_str::<serde_json::Value>(&body).is_ok());
    }

    #[test]
    fn the_body_means_what_the_caller_meant(a in ".*", b in ".*", x in ".{1,5}", y in ".{1,5}") {
        prop_assume!(x != y);
        let asked = serde_json::json!({&x: a, &y: b});
        let classified = classify(asked.to_string().as_bytes()).unwrap();
        let body: serde_json::Value = serde_json::from_str(&classified.body).unwrap();
        prop_assert_eq!(body, asked);
    }
}
