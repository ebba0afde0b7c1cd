//! DataFusion's functions, with bounds.
//!
//! A function makes its value outside of the memory pool, for a batch at a time, and a constant one
//! while the statement is planned. So those that can make much of little stand in [`GROWING`]
//! with how ([`Growth`]), and compute how much it will be before they make it
//! ([`bounded`], [`operators`]). What aggregates gather is counted by the pool, but for those over
//! windows ([`windows`]).
//!
//! Also here are the rules that make time count in microseconds ([`micros`]) and go by a session's
//! zone ([`zoned_source`], [`zones`], [`clocks`], [`steps`], [`trunc`], [`one_zone`]); values of two
//! kinds become one where they meet ([`alike`], [`spans`], [`dates`]), equal ones one key ([`keys`]);
//! whole numbers refuse what does not fit ([`checked`], [`sums`]) and are rounded to ([`rounded`]),
//! floats have one order ([`extremes`]).
//!
//! Invariant: a value of a wrapped function takes no more than its bound for one batch.

mod alike;
mod bin;
mod bounded;
mod checked;
mod clocks;
pub(crate) mod compared;
mod constants;
mod dates;
mod extremes;
mod growth;
mod keys;
mod micros;
mod one_zone;
mod operators;
mod rounded;
mod series;
mod single;
mod spans;
mod steps;
mod sums;
#[cfg(test)]
mod tests;
mod trunc;
mod windows;
mod zoned_source;
mod zones;

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::optimizer::{Analyzer, AnalyzerRule};

use alike::AlikeValues;
use bin::DateBin;
use bounded::Bounded;
use checked::CheckedArithmetic;
pub(crate) use constants::LargeConstants;
pub(crate) use dates::DatesWithHours;
use extremes::ExactExtreme;
use growth::Growth;
use keys::EqualKeys;
use micros::MicrosCoercion;
use operators::BoundedOperators;
pub(crate) use rounded::RoundedCasts;
pub(crate) use series::series;
use sums::ExactSum;
use windows::SmallFrames;
pub(crate) use zoned_source::source_in;
pub(crate) use zones::session_zone;

/// The share of the memory for queries that one value of a batch may take.
const MEMORY_SHARE: u64 = 8;

/// How the scalar functions grow that make more than a multiple of what they are given. The others
/// are in `functions/plain.txt`, which a test compares with what there is.
const GROWING: [(&str, Growth); 19] = [
    ("array_repeat", Growth::ListRepeat),
    ("array_replace", Growth::ListReplace),
    ("array_replace_all", Growth::ListReplace),
    ("array_replace_n", Growth::ListReplace),
    ("array_resize", Growth::ListResize),
    ("array_to_string", Growth::ListText),
    ("concat", Growth::Sum),
    ("concat_ws", Growth::Joined),
    ("generate_series", Growth::Series),
    ("lpad", Growth::Pad),
    ("make_array", Growth::Sum),
    ("array_concat", Growth::Sum),
    ("overlay", Growth::Sum),
    ("range", Growth::Series),
    ("regexp_replace", Growth::PatternReplace),
    ("repeat", Growth::Repeat),
    ("replace", Growth::Replace),
    ("rpad", Growth::Pad),
    ("to_char", Growth::Format),
];

/// Bytes of one value, and of one constant, in all rows of a batch.
pub(crate) fn bytes_max(memory_bytes_max: u64) -> usize {
    usize::try_from(memory_bytes_max / MEMORY_SHARE).unwrap_or(usize::MAX)
}

/// The functions, those that grow with a bound by the memory that queries have.
pub(crate) fn bounded(
    functions: Vec<Arc<ScalarUDF>>,
    memory_bytes_max: u64,
) -> Vec<Arc<ScalarUDF>> {
    let bytes_max = bytes_max(memory_bytes_max);
    let wrap = |function: Arc<ScalarUDF>| match growth(function.name()) {
        Some(growth) => Arc::new(ScalarUDF::new_from_impl(Bounded {
            function,
            growth,
            bytes_max,
        })),
        None if function.name() == "date_bin" => {
            Arc::new(ScalarUDF::new_from_impl(DateBin { function }))
        }
        None => function,
    };
    functions.into_iter().map(wrap).collect()
}

/// The aggregates: `sum` does not wrap around, `min` and `max` take rows in any order.
pub(crate) fn exact(functions: Vec<Arc<AggregateUDF>>) -> Vec<Arc<AggregateUDF>> {
    let ours = |function: Arc<AggregateUDF>| match function.name() {
        "sum" => Arc::new(AggregateUDF::new_from_impl(ExactSum { function })),
        "min" | "max" => Arc::new(AggregateUDF::new_from_impl(ExactExtreme { function })),
        _ => function,
    };
    functions.into_iter().map(ours).collect()
}

/// DataFusion's rules of meaning, with ours in and behind its coercion of types.
pub(crate) fn analyzer_rules(memory_bytes_max: u64) -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let coercion: Arc<dyn AnalyzerRule + Send + Sync> = Arc::new(MicrosCoercion::default());
    let alike: Arc<dyn AnalyzerRule + Send + Sync> = Arc::new(AlikeValues);
    let keys: Arc<dyn AnalyzerRule + Send + Sync> = Arc::new(EqualKeys);
    let ours = |rule: Arc<dyn AnalyzerRule + Send + Sync>| match rule.name() == coercion.name() {
        true => vec![Arc::clone(&alike), Arc::clone(&keys), Arc::clone(&coercion)],
        false => vec![rule],
    };
    let rules = Analyzer::new().rules.into_iter().flat_map(ours);
    let bytes_max = bytes_max(memory_bytes_max);
    let last: [Arc<dyn AnalyzerRule + Send + Sync>; 3] = [
        Arc::new(SmallFrames),
        Arc::new(CheckedArithmetic),
        Arc::new(BoundedOperators { bytes_max }),
    ];
    rules.chain(last).collect()
}

/// `date_bin` of every year.
fn date_bin() -> Arc<ScalarUDF> {
    let function = datafusion::functions::datetime::date_bin();
    Arc::new(ScalarUDF::new_from_impl(DateBin { function }))
}

fn growth(name: &str) -> Option<Growth> {
    let found = GROWING.iter().find(|(growing, _)| *growing == name)?;
    Some(found.1)
}
