//! What goes wrong, one thing after the other, by the seed.

use std::sync::Arc;

use tidelake_core::Bucket;
use tidelake_log::TopicBucket;

use crate::machine::pass;
use crate::process::Flusher;
use crate::sim::{Sim, Weather, lock};
use crate::world::World;

/// A kind of trouble, and how often it is chosen in comparison.
const KINDS: [(Kind, u64); 11] = [
    (Kind::Nothing, 4),
    (Kind::Crash, 4),
    (Kind::CrashAtRequest, 8),
    (Kind::Stop, 2),
    (Kind::TakenForDead, 4),
    (Kind::Weather, 4),
    (Kind::HeldDelivery, 2),
    (Kind::HeldAcknowledgements, 2),
    (Kind::LogDown, 1),
    (Kind::Gap, 2),
    (Kind::ClockJump, 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nothing,
    /// A flusher dies here and now.
    Crash,
    /// A flusher dies with one of its next requests to the store.
    CrashAtRequest,
    /// A flusher is asked to stop.
    Stop,
    /// A flusher's group gives it up, and it does not know for a while: a zombie.
    TakenForDead,
    Weather,
    /// The log delivers nothing for a while.
    HeldDelivery,
    /// The log takes messages, and says so later.
    HeldAcknowledgements,
    LogDown,
    /// Offsets without a message.
    Gap,
    /// A flusher's wall clock jumps.
    ClockJump,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Troubles {
    world: World,
    sim: Arc<Sim>,
    pub crashes: u64,
}

impl Troubles {
    pub(crate) fn new(world: &World) -> Self {
        let sim = world.ground.sim.clone();
        sim.set_weather(sim.draw(Weather::of));
        Self {
            world: world.clone(),
            sim,
            crashes: 0,
        }
    }

    /// Lets a while pass, and then something happen.
    pub(crate) async fn next(&mut self) {
        pass(self.sim.draw(|dice| dice.of(20..2_500))).await;
        let all: u64 = KINDS.iter().map(|(_, share)| share).sum();
        let mut drawn = self.sim.draw(|dice| dice.of(0..all));
        let kind = KINDS.iter().find(|(_, share)| {
            let found = drawn < *share;
            drawn = drawn.saturating_sub(*share);
            found
        });
        let kind = kind.map_or(Kind::Nothing, |(kind, _)| *kind);
        self.sim.note(format_args!("trouble: {kind:?}"));
        self.happens(kind);
    }

    /// Ends those that last.
    pub(crate) fn end(&self) {
        let log = &self.world.ground.log;
        log.set_down(false);
        log.hold_delivery(false);
        log.hold_acknowledgements(false);
        for flusher in self.running() {
            flusher.life.set_deaf(false);
            flusher.life.skew(0);
        }
    }

    fn running(&self) -> Vec<Flusher> {
        let slots = lock(&self.world.slots);
        slots
            .iter()
            .filter_map(|slot| slot.running.clone())
            .collect()
    }

    fn happens(&mut self, kind: Kind) {
        let running = self.running();
        let flusher = self.sim.draw(|dice| dice.pick(&running).cloned());
        let log = self.world.ground.log.clone();
        match (kind, flusher) {
            (Kind::Crash, Some(flusher)) => {
                self.crashes += 1;
                flusher.life.end(&self.sim);
            }
            (Kind::CrashAtRequest, Some(flusher)) => {
                self.crashes += 1;
                flusher.life.end_after(self.sim.draw(|dice| dice.of(0..40)));
            }
            (Kind::Stop, Some(flusher)) => flusher.stop(),
            (Kind::TakenForDead, Some(flusher)) => self.take_for_dead(flusher),
            (Kind::ClockJump, Some(flusher)) => {
                let by = self.sim.draw(|dice| dice.of(0..600_000)) as i64 - 300_000;
                flusher.life.skew(by);
            }
            (Kind::Weather, _) => self.sim.set_weather(self.sim.draw(Weather::of)),
            (Kind::HeldDelivery, _) => {
                self.lasts(5_000, move |held| log.hold_delivery(held));
            }
            (Kind::HeldAcknowledgements, _) => {
                self.lasts(2_000, move |held| log.hold_acknowledgements(held));
            }
            (Kind::LogDown, _) => self.lasts(5_000, move |down| log.set_down(down)),
            (Kind::Gap, _) => {
                let at = self.bucket();
                log.skip_offsets(&at, self.sim.draw(|dice| dice.of(1..4)) as u32);
            }
            (_, None) | (Kind::Nothing, _) => {}
        }
    }

    fn bucket(&self) -> TopicBucket {
        self.sim.draw(|dice| {
            let table = dice.pick(&self.world.tables).expect("there are some");
            TopicBucket {
                topic: table.topic(),
                bucket: Bucket(dice.of(0..u64::from(table.buckets)) as u32),
            }
        })
    }

    fn take_for_dead(&self, flusher: Flusher) {
        let Some(member) = flusher.membership() else {
            return;
        };
        flusher.life.set_deaf(true);
        self.world
            .ground
            .log
            .expire_member(&member.group, member.id);
        let for_ms = self.sim.draw(|dice| dice.of(100..8_000));
        tokio::spawn(async move {
            pass(for_ms).await;
            flusher.life.set_deaf(false);
        });
    }

    /// Begins something, and ends it later.
    fn lasts(&self, ms_max: u64, set: impl Fn(bool) + Send + 'static) {
        let for_ms = self.sim.draw(|dice| dice.of(50..ms_max));
        set(true);
        tokio::spawn(async move {
            pass(for_ms).await;
            set(false);
        });
    }
}
