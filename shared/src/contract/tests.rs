use proptest::prelude::*;

use super::*;

fn me() -> Address {
    Address::new(&"ab".repeat(32), "stack_events-service").unwrap()
}

fn other() -> Address {
    Address::new(&"cd".repeat(32), "stack_frontend").unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".*",
        Just(String::new()),
        "\\PC{0,40}",
        "[\"\\\\\u{7f}\u{2028}😀]{0,8}"
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![Just("NUMBER".to_owned()), "\\PC{1,12}"]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..400)) {
        let receiver = Addressee::new(me());
        prop_assert!(receiver.event(&payload).is_err());
        prop_assert!(receiver.consuming(&payload).is_err());
    }

    #[test]
    fn a_literal_of_arbitrary_escapes_never_panics(inside in "[\\\\\"xuUabv0-9{}:a-f]{0,60}") {
        let literal = format!("\"{inside}\"");
        prop_assert!(Addressee::new(me()).event(literal.as_bytes()).is_err());
    }

    #[test]
    fn a_task_arrives_as_it_was_sent(
        request_id in "\\PC{1,40}", task in name(), subtask in name(),
        body in text().prop_filter("set", |b| !b.is_empty()),
        deadline_unix_ms in any::<Option<u64>>(), caller_request_id in prop::option::of(name()),
    ) {
        let sent = Task {
            request_id: request_id.parse().unwrap(), from: other(), to: me(), task, subtask, body,
            deadline_unix_ms, caller_request_id, traceparent: None,
        };
        let got = Addressee::new(me()).event(&sent.encode()).unwrap();
        prop_assert_eq!(got, EventMessage::Task(sent));
    }

    #[test]
    fn a_result_arrives_as_it_was_sent(id in any::<[u8; 12]>(), text in text(), kind in 0..3) {
        let ended = match kind {
            0 => Ended::Final(text),
            1 => Ended::Raw(text),
            _ => Ended::Failed(Failure::new(FailureCode::DivisionByZero, text)),
        };
        let sent = TaskResult {
            record_id: RecordId(id), from: other(), to: me(), ended,
            timing: Some(Timing { waited_us: 1, ran_us: 2 }),
        };
        let got = Addressee::new(me()).event(&sent.encode()).unwrap();
        prop_assert_eq!(got, EventMessage::Result(sent));
    }

    #[test]
    fn a_record_id_is_what_it_prints(id in any::<[u8; 12]>()) {
        prop_assert_eq!(RecordId(id).to_string().parse(), Ok(RecordId(id)));
    }

    #[test]
    fn a_number_in_any_dialect_is_the_same_number(value in prop::num::f64::NORMAL) {
        let ours = ecmascript(value).unwrap();
        prop_assert_eq!(normalize_number(&format!("{value:e}")), Some(ours.clone()));
        prop_assert_eq!(normalize_number(&format!("{value:?}")), Some(ours.clone()));
        prop_assert_eq!(ours.parse::<f64>().unwrap(), value);
    }
}

#[test]
fn numbers_print_as_ecmascript_prints_them() {
    for (value, text) in [
        (15.0, "15"),
        (-3.0, "-3"),
        (4.0 / 7.0, "0.5714285714285714"),
        (50_000_000.0, "50000000"),
        (1e21, "1e+21"),
        (1e-7, "1e-7"),
        (-0.0, "0"),
    ] {
        assert_eq!(ecmascript(value).as_deref(), Some(text));
    }
    assert_eq!(ecmascript(f64::INFINITY), None);
}

#[test]
fn results_of_every_backend_become_one_text() {
    for (task, raw, text) in [
        (NUMBER, "15.0", "15"),
        (NUMBER, "5e+07", "50000000"),
        (NUMBER, "5.0E7", "50000000"),
        (NUMBER, " 1.0E-4\n", "0.0001"),
        (STRING, "\"ab\"", "ab"),
        (STRING, "ab", "ab"),
        (STRING, "1e6", "1e6"),
        (STRING, "\"", "\""),
        (STRING, "\"a\" + \"b\"", "\"a\" + \"b\""),
        ("GREETING", "\"ab\"", "\"ab\""),
    ] {
        assert_eq!(
            normalize_result(task, raw.into()).as_deref(),
            Ok(text),
            "{raw}"
        );
    }
    for raw in [
        "Infinity",
        "NaN",
        "+Inf",
        "null",
        "",
        "inf",
        "1e999",
        "error: no",
    ] {
        assert_eq!(
            normalize_result(NUMBER, raw.into()).map_err(|f| f.code),
            Err(FailureCode::ResultNotFinite),
            "{raw}"
        );
    }
}

#[test]
fn a_message_for_another_container_is_not_parsed_further() {
    let task = Task {
        request_id: "r".parse().unwrap(),
        from: other(),
        to: me(),
        task: NUMBER.into(),
        subtask: "ADD".into(),
        body: "{}".into(),
        deadline_unix_ms: None,
        caller_request_id: None,
        traceparent: None,
    };
    let received = Addressee::new(other()).event(&task.encode());
    assert!(matches!(received, Err(Rejected::NotForMe)));
    let same_id = Address::new(me().container.as_str(), "another-service").unwrap();
    assert!(matches!(
        Addressee::new(same_id).event(&task.encode()),
        Err(Rejected::NotForMe)
    ));
}

#[test]
fn an_escaped_address_is_still_ours() {
    let payload = format!(
        r#"{{"requestId":"r","containerId":"f","service":"f","task":"T","subtask":"S","requestBody":"1",
        "serviceContainerId":"\u0061{}","serviceContainerService":"{}"}}"#,
        &me().container.as_str()[1..],
        me().service
    );
    assert!(Addressee::new(me()).event(payload.as_bytes()).is_ok());
}

#[test]
fn a_foreign_use_of_an_extension_is_ignored() {
    let payload = format!(
        r#"{{"recordId":"0123456789abcdef01234567","containerId":"b","service":"b","responseBody":"1",
        "error":"none","v":"x","timing":7,"deadline":null,"attempt":-1,"extra":[1],
        "serviceContainerId":"{}","serviceContainerService":"{}"}}"#,
        me().container,
        me().service
    );
    let Ok(EventMessage::Result(result)) = Addressee::new(me()).event(payload.as_bytes()) else {
        panic!("not taken")
    };
    assert_eq!(
        (result.ended, result.timing),
        (Ended::Raw("1".into()), None)
    );
}
