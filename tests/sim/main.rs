//! The whole pipeline in one thread from one seed: flushers over a log and a store that fail.
//!
//! A failure says its seed and the command that repeats it. `TIDELAKE_SIM_SEED` runs one seed
//! instead of the fixed ones, `TIDELAKE_SIM_SEEDS` so many beginning there, `TIDELAKE_SIM_SECONDS`
//! says how long troubles last, `TIDELAKE_SIM_TRACE` shows all that happens, and `RUST_LOG` what the
//! processes say.
//!
//! Owns no rule of the product: what a table must hold is computed by [`model`] from the log.
#![cfg(target_os = "linux")]

mod audit;
mod dice;
mod engines;
mod life;
mod log;
mod machine;
mod model;
mod process;
mod sim;
mod store;
mod tables;
mod troubles;
mod workload;
mod world;

use sim::Sim;
use tracing_subscriber::util::SubscriberInitExt;
use world::Outcome;

/// Seeds that every run of the tests tries.
const SEEDS: std::ops::Range<u64> = 1..13;
const SECONDS: u64 = 60;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}: expected a whole number")))
}

/// Runs a seed on a thread and a machine of its own.
fn simulate(seed: u64, seconds: u64) -> Result<Outcome, String> {
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
    let ended = thread.spawn(run).expect("a thread").join();
    let why = match ended {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "it panicked".into(),
    };
    Err(format!(
        "{}\nseed {seed} fails: {why}\nto repeat: TIDELAKE_SIM_SEED={seed} \
         TIDELAKE_SIM_SECONDS={seconds} cargo test --workspace --all-targets simulated_seeds",
        shown.last()
    ))
}

#[test]
fn every_version_is_right_in_simulated_seeds() {
    let seconds = number("TIDELAKE_SIM_SECONDS").unwrap_or(SECONDS);
    let seeds = match number("TIDELAKE_SIM_SEED") {
        Some(first) => first..first + number("TIDELAKE_SIM_SEEDS").unwrap_or(1),
        None => SEEDS,
    };
    let (mut virtual_ms, mut failed) = (0, Vec::new());
    for seed in seeds.clone() {
        match simulate(seed, seconds) {
            Ok(outcome) => {
                virtual_ms += outcome.virtual_ms;
                println!("seed {seed}: {outcome:?}");
            }
            Err(why) => {
                println!("{why}");
                failed.push(seed);
            }
        }
    }
    println!("seeds {seeds:?}: {} simulated seconds", virtual_ms / 1000);
    assert!(failed.is_empty(), "seeds {failed:?} fail; see above");
}

#[test]
fn a_seed_is_the_same_every_time() {
    for seed in [1, 2] {
        let run = || simulate(seed, 30).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(run(), run(), "seed {seed}");
    }
}
