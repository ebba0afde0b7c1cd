//! The whole pipeline in one thread from one seed: flushers, compactors and query nodes over a log and
//! a store that fail.
//!
//! A failure says its seed and the command that repeats it.
//!
//! | variable | what it does |
//! | --- | --- |
//! | `TIDELAKE_SIM_SEED` | this seed instead of the fixed ones |
//! | `TIDELAKE_SIM_SEEDS` | so many from there on |
//! | `TIDELAKE_SIM_SECONDS` | how long troubles last, in simulated time |
//! | `TIDELAKE_SIM_TRACE` | shows all that happens |
//! | `RUST_LOG` | shows what the processes say |
//!
//! Owns no rule of the product: what a table must hold is computed by [`model`] from the log. Each
//! seed has a program of its own, so that nothing that lives as long as a program is shared, and one
//! that can't go on takes no other along.
#![cfg(target_os = "linux")]

mod audit;
mod compactors;
mod dice;
mod engines;
mod life;
mod log;
mod machine;
mod model;
mod mutations;
mod process;
mod reader;
mod sim;
mod store;
mod tables;
mod troubles;
mod workload;
mod world;

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Sight, Sim, lock};
use tracing_subscriber::util::SubscriberInitExt;

/// Seeds that every run of the tests tries.
const SEEDS: std::ops::Range<u64> = 1..33;
const SECONDS: u64 = 60;
/// Tells a program that it is there for one seed.
const ONLY: &str = "TIDELAKE_SIM_ONLY";
/// A query's plan takes some.
const STACK_BYTES: usize = 64 << 20;
/// What a program says of its seed begins so.
const SAID: &str = "outcome: ";

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}: expected a whole number")))
}

/// Runs a seed on a thread and a machine of its own. What came of it is the last line.
fn simulate(seed: u64, seconds: u64) {
    let sim = Sim::new(seed);
    let shown = sim.clone();
    let run = move || {
        machine::enter(seed);
        let told = std::env::var_os("RUST_LOG").is_some();
        let _told = told.then(|| {
            let filter = tracing_subscriber::EnvFilter::from_default_env();
            let logs = tracing_subscriber::fmt().with_env_filter(filter);
            logs.with_writer(std::io::stderr).set_default()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(world::run(sim, seconds))
    };
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    let thread = thread.stack_size(STACK_BYTES).spawn(run);
    match thread.expect("a thread").join() {
        Ok(Ok(outcome)) => eprintln!("{SAID}{outcome}"),
        Ok(Err(error)) => panic!("{}\nseed {seed} fails: {error:#}", shown.last()),
        Err(_) => panic!("{}\nseed {seed} fails: it panicked", shown.last()),
    }
}

/// Runs a seed in a program of its own.
fn outcome(seed: u64, seconds: u64) -> Result<String, String> {
    let program = std::env::current_exe().expect("this program's name");
    let ran = Command::new(program)
        .args(["--exact", "every_version_is_right_in_simulated_seeds"])
        .arg("--nocapture")
        .env(ONLY, seed.to_string())
        .env("TIDELAKE_SIM_SECONDS", seconds.to_string())
        .stderr(Stdio::piped())
        .output()
        .expect("this program can be run");
    let errors = String::from_utf8_lossy(&ran.stderr);
    let last = errors.lines().find_map(|line| line.strip_prefix(SAID));
    if let (true, Some(outcome)) = (ran.status.success(), last) {
        if number("TIDELAKE_SIM_TRACE").is_some() {
            eprintln!("{errors}");
        }
        return Ok(outcome.to_owned());
    }
    Err(format!(
        "{errors}\nto repeat: TIDELAKE_SIM_SEED={seed} TIDELAKE_SIM_SECONDS={seconds} cargo test \
         --workspace --all-targets simulated_seeds -- --nocapture"
    ))
}

#[test]
fn every_version_is_right_in_simulated_seeds() {
    let seconds = number("TIDELAKE_SIM_SECONDS").unwrap_or(SECONDS);
    if let Some(seed) = number(ONLY) {
        simulate(seed, seconds);
        return;
    }
    let seeds = match number("TIDELAKE_SIM_SEED") {
        Some(first) => first..first + number("TIDELAKE_SIM_SEEDS").unwrap_or(1),
        None => SEEDS,
    };
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let all = Mutex::new(String::new());
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    match outcome(seed, seconds) {
                        Ok(outcome) => {
                            println!("seed {seed}: {outcome}");
                            lock(&all).push_str(&outcome);
                        }
                        Err(why) => {
                            println!("{why}");
                            lock(&failed).push(seed);
                        }
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    assert!(failed.is_empty(), "seeds {failed:?} fail; see above");
    println!("seeds {seeds:?}: {seconds} simulated seconds of troubles each, all is right");
    // A simulation that meets nothing proves nothing.
    if seeds == SEEDS {
        let all = lock(&all);
        let unseen = Sight::ALL.iter().filter(|sight| {
            let name = format!("{sight:?}: ");
            !all.contains(&name)
        });
        let unseen: Vec<_> = unseen.collect();
        assert!(unseen.is_empty(), "no seed has met {unseen:?}");
    }
}

#[test]
fn a_seed_is_the_same_every_time() {
    for seed in [1, 2] {
        let run = || outcome(seed, 30).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(run(), run(), "seed {seed}");
    }
}
