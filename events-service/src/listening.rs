//! Whether another events service still listens: Redis tells at once, where the roster believes in
//! one that has died until it was silent for seconds.

use std::sync::Arc;

use bytes::Bytes;
use shared::{
    bus::{Bus, Publication},
    contract::{ContainerId, direct_channel},
};

/// Asks events services whether they listen.
#[derive(Clone)]
pub(crate) struct Listening {
    bus: Arc<dyn Bus>,
    event_channel: Arc<str>,
}

impl Listening {
    pub(crate) fn new(bus: Arc<dyn Bus>, event_channel: &str) -> Self {
        Self {
            bus,
            event_channel: event_channel.into(),
        }
    }

    /// Those of these containers that hear the direct channel of an events service; all of them
    /// where the bus does not say. An empty message is for nobody: it is dropped unread.
    pub(crate) async fn among(&self, containers: Vec<ContainerId>) -> Vec<ContainerId> {
        let question = |container| {
            Publication::new(direct_channel(&self.event_channel, container), Bytes::new())
        };
        let questions = containers.iter().map(question).collect();
        let answers = self.bus.publish(questions).await;
        let listens = answers.iter().map(|answer| !matches!(answer, Ok(0)));
        let asked = containers.into_iter().zip(listens);
        asked
            .filter_map(|(container, listens)| listens.then_some(container))
            .collect()
    }
}
