//! The example tasks: stand-ins for real work.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use crate::registry::Worker;

mod number;
mod string;

/// A worker that does `NUMBER` and `STRING`.
pub fn examples() -> Worker {
    string::register(number::register(Worker::new()))
}

/// The two values of a body, in the order of their names: `d1` before `d2`, wherever they stand in
/// the document (contract, "Operands").
struct Operands<T>(T, T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Operands<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Two<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Two<T> {
            type Value = Operands<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of exactly two properties")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut next = || map.next_entry::<String, T>();
                let (Some(first), Some(second), None) = (next()?, next()?, next()?) else {
                    return Err(serde::de::Error::custom("expected exactly two properties"));
                };
                Ok(if first.0 <= second.0 {
                    Operands(first.1, second.1)
                } else {
                    Operands(second.1, first.1)
                })
            }
        }
        deserializer.deserialize_map(Two(PhantomData))
    }
}

#[cfg(test)]
mod tests;
