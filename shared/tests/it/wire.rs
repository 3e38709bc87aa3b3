//! Frames of the foreign dialects, as files (see `tests/wire/README.md`).

use std::{fs, path::Path};

use serde_json::Value;
use shared::contract::{Address, Addressee, ConsumingMessage, Ended, EventMessage};

/// Reads a frame as its receiver would, and gives the fields that were set.
fn read(kind: &str, frame: &[u8], me: Address) -> Result<Value, String> {
    let receiver = Addressee::new(me);
    let mut fields = serde_json::Map::new();
    let mut set = |name: &str, value: String| {
        if !value.is_empty() {
            fields.insert(name.into(), value.into());
        }
    };
    let text = |ended| match ended {
        Ended::Raw(text) | Ended::Final(text) => text,
        Ended::Failed(failure) => failure.detail,
    };
    match kind {
        "task" | "result" => match receiver.event(frame).map_err(|error| error.to_string())? {
            EventMessage::Task(task) => {
                set("requestId", task.request_id.to_string());
                set("containerId", task.from.container.to_string());
                set("service", task.from.service.to_string());
                set("task", task.task);
                set("subtask", task.subtask);
                set("requestBody", task.body);
                set("serviceContainerId", task.to.container.to_string());
                set("serviceContainerService", task.to.service.to_string());
            }
            EventMessage::Result(result) => {
                set("recordId", result.record_id.to_string());
                set("containerId", result.from.container.to_string());
                set("service", result.from.service.to_string());
                set("responseBody", text(result.ended));
                set("serviceContainerId", result.to.container.to_string());
                set("serviceContainerService", result.to.service.to_string());
            }
        },
        _ => match receiver
            .consuming(frame)
            .map_err(|error| error.to_string())?
        {
            ConsumingMessage::Dispatch(dispatch) => {
                set("recordId", dispatch.record_id.to_string());
                set("containerId", dispatch.to.container.to_string());
                set("service", dispatch.to.service.to_string());
                set("task", dispatch.task);
                set("subtask", dispatch.subtask);
                set("requestBody", dispatch.body);
                set("serviceContainerId", dispatch.from.container.to_string());
                set("serviceContainerService", dispatch.from.service.to_string());
            }
            ConsumingMessage::Reply(reply) => {
                set("requestId", reply.request_id.to_string());
                set("containerId", reply.to.container.to_string());
                set("service", reply.to.service.to_string());
                set("responseBody", text(reply.ended));
            }
        },
    }
    Ok(Value::Object(fields))
}

fn address(kind: &str, event: &Value) -> Address {
    let (container, service) = match kind {
        "task" | "result" => ("serviceContainerId", "serviceContainerService"),
        _ => ("containerId", "service"),
    };
    Address::new(
        event[container].as_str().unwrap(),
        event[service].as_str().unwrap(),
    )
    .unwrap()
}

#[test]
fn every_frame_of_every_dialect_is_read_or_dropped() {
    let mut frames = 0;
    for dialect in ["go", "java", "nodejs"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/wire")
            .join(dialect);
        let whole = |kind: &str| -> Value {
            let text = fs::read(folder.join(format!("{kind}.json"))).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|extension| extension != "frame")
            {
                continue;
            }
            frames += 1;
            let name = path.file_stem().unwrap().to_str().unwrap();
            let kind = name.split('-').next().unwrap();
            let frame = fs::read(&path).unwrap();
            let me = address(kind, &whole(kind));
            let got = read(kind, &frame, me);
            match fs::read(path.with_extension("json")) {
                Ok(expected) => {
                    let mut expected: Value = serde_json::from_slice(&expected).unwrap();
                    let fields = expected.as_object_mut().unwrap();
                    match kind {
                        // What a result repeats of its dispatch, and a reply of its events service,
                        // nobody reads.
                        "result" => fields.retain(|name, _| name != "task" && name != "subtask"),
                        "reply" => fields.retain(|name, _| {
                            ["requestId", "containerId", "service", "responseBody"]
                                .contains(&name.as_str())
                        }),
                        _ => {}
                    }
                    assert_eq!(got.as_ref(), Ok(&expected), "{}", path.display());
                }
                Err(_) => {
                    assert!(
                        path.with_extension("dropped").exists(),
                        "{}",
                        path.display()
                    );
                    assert!(got.is_err(), "{} was taken: {got:?}", path.display());
                }
            }
        }
    }
    assert!(frames > 30, "only {frames} frames found");
}
