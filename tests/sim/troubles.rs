//! What goes wrong, one thing after the other, by the seed.

use std::sync::Arc;

use tidelake_core::{Bucket, Offset};
use tidelake_log::TopicBucket;

use crate::engines::{Engine, OPERATIONS, Operation};
use crate::machine::{now_ms, pass};
use crate::model::buckets;
use crate::process::Flusher;
use crate::sim::{Sight, Sim, Weather, lock};
use crate::world::World;

/// A kind of trouble, and how often it is chosen in comparison.
const KINDS: [(Kind, u64); 16] = [
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
    (Kind::OtherEngine, 12),
    (Kind::Retention, 2),
    (Kind::BucketsAdded, 1),
    (Kind::Damaged, 1),
    (Kind::TopicRemade, 1),
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
    OtherEngine,
    /// Retention takes the beginning of a bucket, which may be what no version covers.
    Retention,
    BucketsAdded,
    /// A message that no version covers can't be read any more.
    Damaged,
    /// A topic is deleted and made again.
    TopicRemade,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Troubles {
    world: World,
    sim: Arc<Sim>,
    /// Until the next trouble, at most.
    pause_ms_max: u64,
    /// What stops a bucket or a table for good may still happen so often.
    final_blows: u32,
}

impl Troubles {
    pub(crate) fn new(world: &World) -> Self {
        let sim = world.ground.sim.clone();
        sim.set_weather(sim.draw(Weather::of));
        Self {
            world: world.clone(),
            pause_ms_max: sim.draw(|dice| dice.of(500..5_000)),
            final_blows: sim.draw(|dice| dice.of(0..3)) as u32,
            sim,
        }
    }

    /// Lets a while pass, and then something happen.
    pub(crate) async fn next(&mut self) {
        pass(self.sim.draw(|dice| dice.of(20..self.pause_ms_max))).await;
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
            (Kind::Crash, Some(flusher)) => flusher.life.end(&self.sim),
            (Kind::CrashAtRequest, Some(flusher)) => {
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
            (Kind::OtherEngine, _) => self.other_engine(),
            (Kind::Retention, _) => self.retention(),
            (Kind::BucketsAdded, _) => {
                let topic = self.bucket().topic;
                log.add_buckets(&topic, 1);
                let added = buckets(&log, &topic).last();
                let added = added.map(|at| (at, now_ms()));
                lock(&self.world.added).extend(added);
                self.sim.sees(Sight::BucketsAdded);
            }
            (Kind::Damaged, _) => self.damage(),
            (Kind::TopicRemade, _) => self.remake(),
            (_, None) | (Kind::Nothing, _) => {}
        }
    }

    fn other_engine(&self) {
        let (table, operation) = self.sim.draw(|dice| {
            let table = dice.pick(&self.world.tables).cloned();
            (table, dice.pick(&OPERATIONS).copied())
        });
        let (Some(table), Some(operation)) = (table, operation) else {
            return;
        };
        // The bank's sum is what its tellers see to.
        let harmless = [
            Operation::Optimize,
            Operation::SetProperty,
            Operation::AddColumn,
            Operation::Vacuum,
        ];
        if table.name == "bank" && !harmless.contains(&operation) {
            return;
        }
        let engine = Engine {
            disk: self.world.ground.disk.clone(),
            sim: self.sim.clone(),
        };
        tokio::spawn(async move {
            if let Err(error) = engine.does(operation, &table).await {
                let why = format!("{error:#}");
                engine
                    .sim
                    .note(format_args!("engine: {operation:?} fails: {why}"));
            }
        });
    }

    /// One of the blows that stop something for good, if there is one left.
    fn strikes(&mut self) -> bool {
        let strikes = self.final_blows > 0;
        self.final_blows = self.final_blows.saturating_sub(1);
        strikes
    }

    fn mark(&self, at: &TopicBucket) -> i64 {
        lock(&self.world.marks).get(at).copied().unwrap_or(0)
    }

    fn retention(&mut self) {
        let (at, log) = (self.bucket(), &self.world.ground.log);
        let (mark, end) = (self.mark(&at), log.end(&at).map_or(0, |end| end.0));
        let to = self.sim.draw(|dice| dice.of(0..end as u64 + 1)) as i64;
        let overruns = to > mark;
        if overruns && !self.strikes() {
            return;
        }
        self.world.absorb();
        let log = &self.world.ground.log;
        log.cut_before(&at, Offset(to));
        if overruns {
            self.sim.sees(Sight::Overrun);
            lock(&self.world.stopped).insert(at);
        }
    }

    fn damage(&mut self) {
        let (at, log) = (self.bucket(), self.world.ground.log.clone());
        let (mark, end) = (self.mark(&at), log.end(&at).map_or(0, |end| end.0));
        if mark < end && self.strikes() {
            let offset = self.sim.draw(|dice| dice.of(mark as u64..end as u64)) as i64;
            log.damage(&at, Offset(offset), "its bits have rotted");
            self.sim.sees(Sight::Damaged);
            lock(&self.world.stopped).insert(at);
        }
    }

    fn remake(&mut self) {
        if !self.strikes() {
            return;
        }
        self.world.absorb();
        let (topic, log) = (self.bucket().topic, &self.world.ground.log);
        lock(&self.world.remade).insert(topic.clone());
        log.remake_topic(&topic);
        self.sim.sees(Sight::TopicRemade);
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
        self.sim.sees(Sight::TakenForDead);
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
