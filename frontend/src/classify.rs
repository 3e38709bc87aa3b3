//! What a body asks for: parsing and classification. Pure.
//!
//! Source: wire contract, "HTTP, as the older frontends have it"; design, "Errors over HTTP".

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use shared::contract::{NUMBER, STRING, excerpt};

/// A task as a body names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classified {
    /// `NUMBER` or `STRING`.
    pub task: &'static str,
    /// `ADD`, `SUBTRACT`, `MULTIPLY` or `DIVIDE`.
    pub subtask: &'static str,
    /// The body without white space around its values, so that the same question is the same text.
    pub body: String,
}

/// Why a body is no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What kind of fault.
    pub fault: Fault,
    /// What is wrong, where, and what is accepted.
    pub detail: String,
}

/// The kinds of faults of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No bytes.
    Empty,
    /// The bytes are no UTF-8.
    InvalidUtf8,
    /// The text is no JSON, or nested too deep to be read.
    MalformedJson,
    /// An object has the same property twice.
    DuplicateKey,
    /// JSON, but no object.
    NotAnObject,
    /// Not exactly two properties.
    PropertyCount,
    /// A value is neither number nor string.
    UnsupportedValue,
    /// A number and a string.
    MixedTypes,
    /// A property name that names no operation.
    UnknownOperation,
    /// The property names name different operations.
    NamesDisagree,
    /// A number that no double can hold.
    NumberOutOfRange,
}

/// Makes a task of the body of `POST /task`.
///
/// # Errors
/// [`Refused`] says which rule the body breaks, and where.
///
/// ```
/// let task = frontend::classify::classify(br#"{"a1": 5, "a2": 10}"#).unwrap();
/// assert_eq!((task.task, task.subtask, &*task.body), ("NUMBER", "ADD", r#"{"a1":5,"a2":10}"#));
/// ```
pub fn classify(body: &[u8]) -> Result<Classified, Refused> {
    let text = utf8(body)?;
    let properties = properties(text)?;
    let [first, second] = &properties[..] else {
        return refuse(
            Fault::PropertyCount,
            format!(
                "the object has {} properties, expected exactly two",
                properties.len()
            ),
        );
    };
    let (task, subtask) = match (value(text, first)?, value(text, second)?) {
        (Kind::Number, Kind::Number) => (NUMBER, operation(&first.name, &second.name)?),
        (Kind::String, Kind::String) => (STRING, "ADD"),
        _ => {
            return refuse(
                Fault::MixedTypes,
                format!(
                    "`{}` and `{}` are a number and a string, expected two of one kind",
                    first.name, second.name
                ),
            );
        }
    };
    let quoted = |name: &str| serde_json::Value::from(name).to_string();
    let body = format!(
        "{{{}:{},{}:{}}}",
        quoted(&first.name),
        first.value.get(),
        quoted(&second.name),
        second.value.get()
    );
    Ok(Classified {
        task,
        subtask,
        body,
    })
}

/// Checks a body that may be any JSON, and gives it as text.
///
/// # Errors
/// [`Refused`] for what is no JSON, has duplicate keys, or numbers that no double can hold.
pub fn any_json(body: &[u8]) -> Result<&str, Refused> {
    let text = utf8(body)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Checked::deserialize(&mut deserializer)
        .and_then(|Checked| deserializer.end())
        .map_err(|error| json_refused(&error))?;
    Ok(text.trim())
}

fn refuse<T>(fault: Fault, detail: impl Into<String>) -> Result<T, Refused> {
    Err(Refused {
        fault,
        detail: detail.into(),
    })
}

fn utf8(body: &[u8]) -> Result<&str, Refused> {
    if body.is_empty() {
        return refuse(Fault::Empty, "the body is empty, expected a JSON object");
    }
    std::str::from_utf8(body).or_else(|error| {
        let at = error.valid_up_to();
        refuse(
            Fault::InvalidUtf8,
            format!("the body is not valid UTF-8 at byte {at}"),
        )
    })
}

/// A property of the body, its value as it stands in the text.
struct Property<'a> {
    name: String,
    value: &'a RawValue,
}

fn properties(text: &str) -> Result<Vec<Property<'_>>, Refused> {
    let parsed: Result<Properties<'_>, _> = serde_json::from_str(text);
    parsed.map(|properties| properties.0).map_err(|error| {
        let refused = json_refused(&error);
        match refused.fault {
            // The grammar comes first: `[` is no array either.
            Fault::NotAnObject => serde_json::from_str::<IgnoredAny>(text)
                .map_or_else(|error| json_refused(&error), |_| refused),
            _ => refused,
        }
    })
}

/// The properties of an object in the order of the document. Values are not descended into.
struct Properties<'a>(Vec<Property<'a>>);

impl<'de> Deserialize<'de> for Properties<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Properties<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                /// Of what is refused for its size only the number of properties is told.
                const KEPT_MAX: usize = 10_000;
                let mut properties: Vec<Property<'de>> = Vec::with_capacity(2);
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(duplicate(&name));
                    }
                    let value = map.next_value()?;
                    if properties.len() < KEPT_MAX {
                        properties.push(Property { name, value });
                    }
                }
                Ok(Properties(properties))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

enum Kind {
    Number,
    String,
}

/// What kind of value a property has, checked so far as the grammar has not been.
fn value(text: &str, property: &Property<'_>) -> Result<Kind, Refused> {
    let (raw, name) = (property.value.get(), &property.name);
    let unsupported = |what: &str| {
        refuse(
            Fault::UnsupportedValue,
            format!("`{name}` is {what}, expected a number or a string"),
        )
    };
    match raw.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(raw) {
            Ok(_) => Ok(Kind::String),
            Err(error) => {
                let (line, column) = position(text, raw, error.column());
                let why = without_position(&error);
                refuse(
                    Fault::MalformedJson,
                    format!("{why} at line {line} column {column}"),
                )
            }
        },
        Some(b'{') => unsupported("an object"),
        Some(b'[') => unsupported("an array"),
        Some(b't' | b'f') => unsupported("a boolean"),
        Some(b'n') => unsupported("null"),
        _ => match raw.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Kind::Number),
            _ => refuse(
                Fault::NumberOutOfRange,
                format!("`{name}` is {}, beyond the range of a double", excerpt(raw)),
            ),
        },
    }
}

/// Line and column, both from 1, of a column within a value (which has no line breaks).
fn position(text: &str, raw: &str, column: usize) -> (usize, usize) {
    let offset = raw.as_ptr() as usize - text.as_ptr() as usize;
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (
        before.matches('\n').count() + 1,
        offset - line_start + column,
    )
}

/// The operation that both property names say.
fn operation(first: &str, second: &str) -> Result<&'static str, Refused> {
    let (of_first, of_second) = (operation_of(first)?, operation_of(second)?);
    if of_first == of_second {
        Ok(of_first)
    } else {
        refuse(
            Fault::NamesDisagree,
            format!(
                "`{first}` says {of_first} and `{second}` says {of_second}, expected one operation"
            ),
        )
    }
}

/// Contains `a`, else `s`, else `m`, else `d`, in this order of precedence.
fn operation_of(name: &str) -> Result<&'static str, Refused> {
    [
        ('a', "ADD"),
        ('s', "SUBTRACT"),
        ('m', "MULTIPLY"),
        ('d', "DIVIDE"),
    ]
    .into_iter()
    .find(|(letter, _)| name.contains(*letter))
    .map(|(_, operation)| operation)
    .ok_or_else(|| Refused {
        fault: Fault::UnknownOperation,
        detail: format!(
            "the property name {} names no operation: expected one that contains a (add), \
                 s (subtract), m (multiply) or d (divide)",
            excerpt(name)
        ),
    })
}

const DUPLICATE: &str = "duplicate key ";

fn duplicate<E: de::Error>(name: &str) -> E {
    E::custom(format!("{DUPLICATE}{}", excerpt(name)))
}

/// Sorts out what serde_json reports: it has one error type, and its kinds are in the text. A test
/// holds each of these texts.
fn json_refused(error: &serde_json::Error) -> Refused {
    let text = error.to_string();
    let fault = if text.starts_with(DUPLICATE) {
        Fault::DuplicateKey
    } else if text.starts_with("number out of range") {
        Fault::NumberOutOfRange
    } else if text.starts_with("invalid type") {
        Fault::NotAnObject
    } else {
        Fault::MalformedJson
    };
    let detail = match fault {
        Fault::NotAnObject => "the body is no object, expected an object of two properties".into(),
        Fault::MalformedJson if text.starts_with("recursion limit") => {
            format!("nested deeper than 128 levels: {text}")
        }
        _ => text,
    };
    Refused { fault, detail }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// Any JSON value, checked to the bottom for duplicate keys, and not kept.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Checked;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Checked, A::Error> {
        while values.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<Checked>()?;
            if let Some(name) = names.replace(name) {
                return Err(duplicate(&name));
            }
        }
        Ok(Checked)
    }
}

#[cfg(test)]
mod tests;
