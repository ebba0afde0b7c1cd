//! What all parts of a simulation share: the seed's dice, the weather, and the trace.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dice::Dice;
use crate::machine;

/// Lines of the trace that a failure shows.
const SHOWN_MAX: usize = 60;

/// How often things go wrong, in thousandths, and how slow they are at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    /// A request breaks before it arrives.
    pub lost_requests: u64,
    /// A request is done, and its answer lost.
    pub lost_answers: u64,
    /// A request takes up to `slow_ms_max` instead of up to `quick_ms_max`.
    pub slow: u64,
    pub quick_ms_max: u64,
    pub slow_ms_max: u64,
}

impl Weather {
    pub(crate) const CALM: Self = Self {
        lost_requests: 0,
        lost_answers: 0,
        slow: 0,
        quick_ms_max: 10,
        slow_ms_max: 10,
    };

    /// Anything from calm to very rough.
    pub(crate) fn of(dice: &mut Dice) -> Self {
        let roughness = dice.of(0..4);
        Self {
            lost_requests: dice.of(0..30) * roughness,
            lost_answers: dice.of(0..20) * roughness,
            slow: dice.of(0..50) * roughness,
            quick_ms_max: dice.of(1..40),
            slow_ms_max: dice.of(200..4_000),
        }
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    /// On the way there and back.
    pub there_ms: u64,
    pub back_ms: u64,
    pub arrives: bool,
    pub answered: bool,
}

/// What a simulation must meet now and then, or it proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sight {
    Crash,
    TakenForDead,
    /// A commit's number was taken.
    CommitConflict,
    /// A commit was made, and who made it did not hear so.
    CommitAnswerLost,
    /// A commit of a process that had died.
    CommitAfterDeath,
    SentOn,
    DeadLetter,
    OtherEngine,
    /// A compactor's commit was made.
    Compacted,
    Vacuumed,
    Overrun,
    TopicRemade,
    BucketsAdded,
    Damaged,
    LatestRead,
    CommittedRead,
    PastRead,
    KeyedRead,
}

impl Sight {
    pub(crate) const ALL: [Self; 18] = [
        Self::Crash,
        Self::TakenForDead,
        Self::CommitConflict,
        Self::CommitAnswerLost,
        Self::CommitAfterDeath,
        Self::SentOn,
        Self::DeadLetter,
        Self::OtherEngine,
        Self::Compacted,
        Self::Vacuumed,
        Self::Overrun,
        Self::TopicRemade,
        Self::BucketsAdded,
        Self::Damaged,
        Self::LatestRead,
        Self::CommittedRead,
        Self::PastRead,
        Self::KeyedRead,
    ];
}

/// What happened, as a hash of all of it and the last of it in words.
#[derive(Debug)]
struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<String>,
    printed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sim {
    dice: Mutex<Dice>,
    weather: Mutex<Weather>,
    trace: Mutex<Trace>,
    sights: Mutex<BTreeMap<Sight, u64>>,
}

/// Whoever panicked while holding it has ended the simulation.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(Dice::new(seed)),
            weather: Mutex::new(Weather::CALM),
            trace: Mutex::new(Trace {
                hash: 0xcbf2_9ce4_8422_2325,
                events: 0,
                last: VecDeque::new(),
                printed: std::env::var_os("TIDELAKE_SIM_TRACE").is_some(),
            }),
            sights: Mutex::default(),
        })
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut lock(&self.dice))
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
        self.note(format_args!("{weather:?}"));
    }

    /// What happens to the next request.
    pub(crate) fn fate(&self) -> Fate {
        let weather = *lock(&self.weather);
        self.draw(|dice| {
            let mut wait = || {
                let slow = dice.hits(weather.slow);
                let most = match slow {
                    true => weather.slow_ms_max,
                    false => weather.quick_ms_max,
                };
                dice.of(0..most + 1)
            };
            let (there_ms, back_ms) = (wait(), wait());
            Fate {
                there_ms,
                back_ms,
                arrives: !dice.hits(weather.lost_requests),
                answered: !dice.hits(weather.lost_answers),
            }
        })
    }

    /// Notes what happened.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>8} {what}", machine::now_ms());
        let mut trace = lock(&self.trace);
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        trace.events += 1;
        if trace.printed {
            eprintln!("{line}");
        }
        if trace.last.len() == SHOWN_MAX {
            trace.last.pop_front();
        }
        trace.last.push_back(line);
    }

    pub(crate) fn sees(&self, sight: Sight) {
        *lock(&self.sights).entry(sight).or_default() += 1;
    }

    /// What was met, and how often.
    pub(crate) fn sights(&self) -> BTreeMap<Sight, u64> {
        lock(&self.sights).clone()
    }

    /// Hash and number of all events so far.
    pub(crate) fn traced(&self) -> (u64, u64) {
        let trace = lock(&self.trace);
        (trace.hash, trace.events)
    }

    /// The last events, a line each.
    pub(crate) fn last(&self) -> String {
        let trace = lock(&self.trace);
        let lines: Vec<_> = trace.last.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}
