//! What goes wrong besides the weather, and when.

use std::{sync::Arc, time::Duration};

use crate::{
    deployment::{Deployment, Kind, PLACES},
    dice::{Dice, Throw},
    work::LOAD_MS,
};

/// By then all that was broken has been mended.
pub(crate) const MENDED_BY: Duration = Duration::from_secs(9);
/// Faults of a run, at most.
const FAULTS_MAX: u64 = 6;

/// Something that happens to the deployment at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    /// A process dies, and a new one is started.
    Kill {
        place: usize,
        restart_after: Duration,
    },
    /// A process is told to stop, and a new one is started when it has.
    Stop { place: usize },
    /// A new process is started, and the old one told to stop when the new one is ready.
    Replace { place: usize },
    /// A link is dead, is then seen to be, and comes up again.
    Link {
        place: usize,
        dead: Duration,
        cut: Duration,
    },
    /// The bus restarts: every link is cut, and they come up again one by one.
    Bus { cut: Duration },
    /// The log is out of reach.
    LogDown { length: Duration },
    /// The log is slow.
    LogSlow {
        length: Duration,
        slowness: Duration,
    },
}

/// The faults of a run. A third of the runs have none but the weather.
pub(crate) fn faults(dice: Dice) -> Vec<Fault> {
    let mut count = dice.on("faults");
    let count = count.number(0..=FAULTS_MAX + FAULTS_MAX / 2);
    if count > FAULTS_MAX {
        return Vec::new();
    }
    (0..count)
        .map(|n| {
            let mut dice = dice.on(("fault", n));
            Fault {
                at: dice.ms(0..=LOAD_MS),
                what: what(&mut dice),
            }
        })
        .collect()
}

/// Every process is replaced, one after the other, as in an update.
pub(crate) fn update(dice: Dice) -> Vec<Fault> {
    let begin = dice.on("update").ms(0..=500);
    let nth = |place: usize| Fault {
        at: begin + Duration::from_millis(700) * u32::try_from(place).unwrap(),
        what: What::Replace { place },
    };
    (0..PLACES.len()).map(nth).collect()
}

/// One process of a kind after the other dies and is started again: one is always there.
pub(crate) fn deaths(dice: Dice, kind: Kind) -> Vec<Fault> {
    let places = (0..PLACES.len()).filter(|place| PLACES[*place] == kind);
    let nth = |(n, place): (usize, usize)| {
        let mut dice = dice.on(("death", n));
        let begin = Duration::from_millis(3_000) * u32::try_from(n).unwrap();
        Fault {
            at: begin + dice.ms(0..=1_500),
            what: What::Kill {
                place,
                restart_after: dice.ms(100..=500),
            },
        }
    };
    places.enumerate().map(nth).collect()
}

fn what(dice: &mut Throw) -> What {
    let place = dice.index(PLACES.len());
    match dice.number(0..=9) {
        0..=2 => What::Kill {
            place,
            restart_after: dice.ms(0..=4_000),
        },
        3 => What::Stop { place },
        4..=6 => What::Link {
            place,
            dead: length(dice),
            cut: length(dice),
        },
        7 => What::Bus {
            cut: dice.ms(0..=2_000),
        },
        8 => What::LogDown {
            length: dice.ms(0..=4_000),
        },
        _ => What::LogSlow {
            length: dice.ms(0..=4_000),
            slowness: dice.ms(20..=1_000),
        },
    }
}

/// Mostly short, sometimes longer than anybody waits.
fn length(dice: &mut Throw) -> Duration {
    let ms_max = dice.one_of(&[50, 500, 4_000]);
    dice.ms(0..=ms_max)
}

impl Fault {
    /// Lets it happen.
    pub(crate) async fn strike(self, deployment: Arc<Deployment>) {
        tokio::time::sleep(self.at).await;
        match self.what {
            What::Kill {
                place,
                restart_after,
            } => {
                deployment.kill(place);
                tokio::time::sleep(restart_after).await;
                deployment.start(place).await;
            }
            What::Stop { place } => {
                deployment.stop(place).await;
                deployment.start(place).await;
            }
            What::Replace { place } => deployment.replace(place).await,
            What::Link { place, dead, cut } => {
                let Some(name) = deployment.name(place) else {
                    return;
                };
                if !dead.is_zero() {
                    deployment.trouble(&name);
                    deployment.network.deaden(&name);
                    tokio::time::sleep(dead).await;
                }
                deployment.trouble(&name);
                deployment.network.cut(&name);
                tokio::time::sleep(cut).await;
                deployment.network.mend(&name);
            }
            What::Bus { cut } => {
                let names = (0..PLACES.len()).filter_map(|place| deployment.name(place));
                let names: Vec<_> = names.collect();
                for name in &names {
                    deployment.trouble(name);
                    deployment.network.cut(name);
                }
                tokio::time::sleep(cut).await;
                for name in &names {
                    tokio::time::sleep(Duration::from_millis(70)).await;
                    deployment.network.mend(name);
                }
            }
            What::LogDown { length } => {
                deployment.store.set_down(true);
                tokio::time::sleep(length).await;
                deployment.store.set_down(false);
            }
            What::LogSlow { length, slowness } => {
                deployment.store.set_slowness(slowness);
                tokio::time::sleep(length).await;
                deployment.store.set_slowness(Duration::ZERO);
            }
        }
    }
}
