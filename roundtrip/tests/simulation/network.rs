//! A bus in memory that loses, delays, doubles and reorders messages, and whose links break.
//!
//! It is like Redis in what a service can see of it: `PUBLISH` counts the connections that are
//! subscribed, not what arrives at them; what was under way to a connection is lost with it; a link
//! may be dead for a while before either side notices.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use shared::bus::{Bus, BusCounters, BusError, HAND_OFF_MAX, Link, Message, Publication};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    dice::Dice,
    history::History,
    life::Life,
    traffic::Traffic,
    weather::{Passage, Weather},
};

/// How long a command waits for its answer on a link that is dead.
const STALL: Duration = Duration::from_millis(700);

/// All links, and who is subscribed to what.
pub(crate) struct Network {
    state: Mutex<State>,
    dice: Dice,
    history: History,
    weather: Weather,
    pub(crate) traffic: Traffic,
}

#[derive(Default)]
struct State {
    stations: HashMap<String, Station>,
    readers: HashMap<String, Vec<Reader>>,
    /// Messages so far by sender, receiver and channel: each has a fate of its own.
    counts: HashMap<(String, String, String), u64>,
    /// Announcements in a row that were lost, by sender and receiver.
    unheard: HashMap<(String, String), u32>,
    /// Who has been taken for gone by somebody, since nothing was heard of it.
    silenced: Vec<(String, Instant)>,
}

/// A process as the server sees it.
struct Station {
    link: watch::Sender<Link>,
    line: Line,
    /// What is under way to it, in order.
    arriving: mpsc::UnboundedSender<(Instant, Arrival)>,
    up_since: Instant,
    /// Of its connection. What is under way to an older one is lost.
    connection: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Sound,
    /// Nothing passes, and neither side knows.
    Dead,
    /// Both sides know.
    Cut,
}

struct Reader {
    station: String,
    /// Index of the channel in the reader's own list.
    channel: usize,
    hand_off: mpsc::Sender<Message>,
}

/// One process's handle to the bus.
pub(crate) struct Handle {
    network: Arc<Network>,
    name: String,
    life: Life,
    link: watch::Receiver<Link>,
    batches: AtomicU64,
    counters: BusCounters,
}

impl Network {
    pub(crate) fn new(dice: Dice, weather: Weather, history: History) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            dice,
            history,
            weather,
            traffic: Traffic::default(),
        })
    }

    /// Connects a new process.
    pub(crate) fn join(self: &Arc<Self>, name: &str, life: Life) -> Arc<Handle> {
        let link = watch::Sender::new(Link {
            is_up: true,
            generation: 1,
        });
        let handle = Handle {
            network: self.clone(),
            name: name.to_owned(),
            life,
            link: link.subscribe(),
            batches: AtomicU64::new(0),
            counters: BusCounters::default(),
        };
        let (arriving, line) = mpsc::unbounded_channel();
        // Ends with the process, which holds the only sender.
        tokio::spawn(self.clone().bring(line));
        let station = Station {
            link,
            line: Line::Sound,
            arriving,
            up_since: Instant::now(),
            connection: 0,
        };
        self.state().stations.insert(name.to_owned(), station);
        Arc::new(handle)
    }

    /// The process has died: the server sees its connection closed.
    pub(crate) fn leave(&self, name: &str) {
        let mut state = self.state();
        state.stations.remove(name);
        for readers in state.readers.values_mut() {
            readers.retain(|reader| reader.station != name);
        }
    }

    /// Nothing passes the link of a process any more, and nobody knows.
    pub(crate) fn deaden(&self, name: &str) {
        self.change(name, Line::Dead, |_| {});
    }

    /// The link is cut, and both sides know.
    pub(crate) fn cut(&self, name: &str) {
        self.change(name, Line::Cut, |link| link.is_up = false);
    }

    /// The link has come up again, as a new connection.
    pub(crate) fn mend(&self, name: &str) {
        let is_sound = |station: &Station| station.line == Line::Sound;
        if self.state().stations.get(name).is_none_or(is_sound) {
            return;
        }
        self.change(name, Line::Sound, |link| {
            link.is_up = true;
            link.generation += 1;
        });
    }

    /// Who has been taken for gone since nothing was heard of it, and when at the earliest.
    pub(crate) fn silenced(&self) -> Vec<(String, Instant)> {
        self.state().silenced.clone()
    }

    fn change(&self, name: &str, line: Line, link: impl FnOnce(&mut Link)) {
        let mut state = self.state();
        let Some(station) = state.stations.get_mut(name) else {
            return;
        };
        self.history.note(|| format!("link of {name}: {line:?}"));
        station.line = line;
        station.up_since = Instant::now();
        if line != Line::Dead {
            station.connection += 1;
        }
        station.link.send_modify(link);
    }

    fn line(&self, name: &str) -> Line {
        let state = self.state();
        state.stations.get(name).map_or(Line::Cut, |s| s.line)
    }

    /// Sends a message on its ways; how many connections are subscribed.
    fn send(self: &Arc<Self>, from: &str, publication: &Publication) -> u64 {
        let mut ways = Vec::new();
        let up_for;
        {
            let mut state = self.state();
            let State {
                stations,
                readers,
                counts,
                ..
            } = &mut *state;
            let up_since = stations.get(from).map(|station| station.up_since);
            up_for = up_since.map_or(Duration::ZERO, |since| since.elapsed());
            for reader in readers.get(&*publication.channel).into_iter().flatten() {
                let to = &reader.station;
                let Some(station) = stations.get(to).filter(|s| s.line != Line::Cut) else {
                    continue;
                };
                let key = (from.to_owned(), to.clone(), publication.channel.to_string());
                let nth = counts.entry(key.clone()).or_default();
                *nth += 1;
                ways.push(Way {
                    fate: (key, *nth),
                    line: station.arriving.clone(),
                    connection: station.connection,
                    channel: reader.channel,
                    hand_off: reader.hand_off.clone(),
                });
            }
        }
        self.traffic
            .published(from, publication, ways.len(), up_for);
        let count = ways.len() as u64;
        self.history.note(|| {
            let what = crate::traffic::describe(&publication.payload);
            format!("{from} -> {} ({count}): {what}", publication.channel)
        });
        for way in ways {
            self.carry(way, publication);
        }
        count
    }

    fn carry(self: &Arc<Self>, way: Way, publication: &Publication) {
        let ((_, to, channel), _) = &way.fate;
        let mut dice = self.dice.on(("carry", &way.fate));
        let is_presence = channel.ends_with(":presence");
        let copies = self.weather.copies(&mut dice, is_presence);
        if is_presence {
            self.state().announced(&way.fate.0, !copies.is_empty());
        }
        if copies.is_empty() {
            self.history.note(|| {
                let what = crate::traffic::describe(&publication.payload);
                format!("    lost on its way to {to}: {what}")
            });
        }
        for passage in copies {
            let arrival = Arrival {
                to: to.clone(),
                connection: way.connection,
                hand_off: way.hand_off.clone(),
                message: Message {
                    channel: way.channel,
                    payload: publication.payload.clone(),
                },
            };
            match passage {
                Passage::InOrder(delay) => {
                    // The queue ends with the process, and what is in it is lost.
                    drop(way.line.send((Instant::now() + delay, arrival)));
                }
                Passage::Overtaken(delay) => {
                    let network = self.clone();
                    // Ends with the run at the latest; a message that never arrives is a lost one.
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        network.arrive(arrival);
                    });
                }
            }
        }
    }

    /// Brings messages to a process in the order in which they were sent.
    async fn bring(self: Arc<Self>, mut line: mpsc::UnboundedReceiver<(Instant, Arrival)>) {
        while let Some((at, arrival)) = line.recv().await {
            if at > Instant::now() {
                tokio::time::sleep_until(at).await;
            }
            self.arrive(arrival);
        }
    }

    fn arrive(&self, arrival: Arrival) {
        let Arrival { to, message, .. } = arrival;
        let is_there = self.state().stations.get(&to).is_some_and(|station| {
            station.connection == arrival.connection && station.line == Line::Sound
        });
        if !is_there {
            self.history.note(|| {
                let what = crate::traffic::describe(&message.payload);
                format!("    lost with the link of {to}: {what}")
            });
        } else if arrival.hand_off.try_send(message).is_err() {
            self.history.note(|| format!("    {to} reads no more"));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An announcement is heard or lost on its way. Whoever loses three in a row takes its sender for
    /// gone.
    fn announced(&mut self, (from, to, _): &(String, String, String), is_heard: bool) {
        let lost = self.unheard.entry((from.clone(), to.clone())).or_default();
        *lost = if is_heard { 0 } else { *lost + 1 };
        if *lost >= 3 {
            self.silenced.push((from.clone(), Instant::now()));
        }
    }
}

/// A message that is about to arrive.
struct Arrival {
    to: String,
    connection: u64,
    hand_off: mpsc::Sender<Message>,
    message: Message,
}

/// One message on its way to one reader.
struct Way {
    fate: ((String, String, String), u64),
    line: mpsc::UnboundedSender<(Instant, Arrival)>,
    connection: u64,
    channel: usize,
    hand_off: mpsc::Sender<Message>,
}

#[async_trait]
impl Bus for Handle {
    async fn publish(&self, batch: Vec<Publication>) -> Vec<Result<u64, BusError>> {
        self.life.go_on().await;
        let nth = self.batches.fetch_add(1, Ordering::Relaxed);
        let mut dice = self.network.dice.on(("publish", &self.name, nth));
        let answer_comes = self.network.weather.answer_comes(&mut dice);
        let line = self.network.line(&self.name);
        let mut answers = Vec::with_capacity(batch.len());
        for publication in &batch {
            let reaches_server = line == Line::Sound;
            let count = reaches_server.then(|| self.network.send(&self.name, publication));
            answers.push(match count {
                Some(count) if answer_comes => Ok(count),
                _ => Err(BusError::Unavailable("simulated".into())),
            });
        }
        if line == Line::Dead {
            tokio::time::sleep(STALL).await;
        } else {
            tokio::time::sleep(dice.ms(0..=1)).await;
        }
        self.life.go_on().await;
        answers
    }

    async fn subscribe(&self, channels: Vec<String>) -> Result<mpsc::Receiver<Message>, BusError> {
        let (hand_off, heard) = mpsc::channel(HAND_OFF_MAX);
        let mut state = self.network.state();
        for (index, channel) in channels.into_iter().enumerate() {
            let reader = Reader {
                station: self.name.clone(),
                channel: index,
                hand_off: hand_off.clone(),
            };
            state.readers.entry(channel).or_default().push(reader);
        }
        Ok(heard)
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    fn counters(&self) -> &BusCounters {
        &self.counters
    }

    async fn close(&self) {
        self.network.leave(&self.name);
    }
}
