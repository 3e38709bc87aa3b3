//! How bad the bus and the log are in a run: some runs know no loss, some lose every tenth message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::dice::{Dice, Throw};

/// A copy of a message on its way.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Passage {
    /// It takes so long, and arrives after what was sent to the same process before.
    InOrder(Duration),
    /// It takes so long, and others overtake it.
    Overtaken(Duration),
}

/// Probabilities, until it calms down.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    lost: f64,
    doubled: f64,
    /// Delayed for longer than most messages take.
    delayed: f64,
    delay_ms_max: u64,
    /// Redis keeps the order of what one process says, so nobody takes an older announcement for the
    /// newer one. Foul weather does not: a service may then be passed over until its next one.
    presence_is_in_order: bool,
    /// An answer is lost though what was asked has been done.
    unanswered: f64,
    is_calm: Arc<AtomicBool>,
}

impl Weather {
    /// Nothing happens but short delays.
    pub(crate) fn fair() -> Self {
        Self {
            lost: 0.0,
            doubled: 0.0,
            delayed: 0.0,
            delay_ms_max: 1,
            presence_is_in_order: true,
            unanswered: 0.0,
            is_calm: Arc::default(),
        }
    }

    /// Every message arrives twice, and some are overtaken by others.
    pub(crate) fn doubling() -> Self {
        Self {
            doubled: 1.0,
            delayed: 0.3,
            delay_ms_max: 200,
            ..Self::fair()
        }
    }

    /// As the seed has it.
    pub(crate) fn of(dice: Dice) -> Self {
        let mut dice = dice.on("weather");
        Self {
            lost: dice.one_of(&[0.0, 0.0, 0.01, 0.05, 0.15]),
            doubled: dice.one_of(&[0.0, 0.0, 0.05, 0.3, 1.0]),
            delayed: dice.one_of(&[0.0, 0.0, 0.05, 0.3]),
            delay_ms_max: dice.one_of(&[20, 200, 1_000, 4_000]),
            presence_is_in_order: false,
            unanswered: dice.one_of(&[0.0, 0.0, 0.02, 0.1]),
            is_calm: Arc::default(),
        }
    }

    /// From now on nothing is lost any more.
    pub(crate) fn calm_down(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    /// What becomes of a message: its copies, of which a lost one has none.
    pub(crate) fn copies(&self, dice: &mut Throw, is_presence: bool) -> Vec<Passage> {
        let in_order = Passage::InOrder(Duration::from_millis(dice.one_of(&[0, 0, 0, 1, 1, 2])));
        if self.is_calm.load(Ordering::Relaxed) {
            return vec![in_order];
        }
        if dice.is(self.lost) {
            return Vec::new();
        }
        let mut copies = Vec::with_capacity(2);
        for is_sent in [true, dice.is(self.doubled)] {
            if is_sent {
                let may_be_overtaken = !(is_presence && self.presence_is_in_order);
                copies.push(if may_be_overtaken && dice.is(self.delayed) {
                    Passage::Overtaken(dice.ms(1..=self.delay_ms_max))
                } else {
                    in_order
                });
            }
        }
        copies
    }

    /// Whether the answer to what was asked comes.
    pub(crate) fn answer_comes(&self, dice: &mut Throw) -> bool {
        self.is_calm.load(Ordering::Relaxed) || !dice.is(self.unanswered)
    }
}
