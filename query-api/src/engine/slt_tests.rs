//! Statements and their answers, as files of `slt/` have them: ours, which say what this engine means
//! where DataFusion means something else or leaves it open, and some of DataFusion's own.
//!
//! The files are sqllogictest's. What the engine has no statements for is done by the runner
//! ([`Database`]): it makes tables, fills and flushes them, and sets the zone. In DataFusion's files
//! what depends on its plans and settings is left out, an error is any error, and what has another
//! answer here bears `skipif tidelake`.

mod cells;
mod database;

use std::path::{Path, PathBuf};

use sqllogictest::{Record, Runner, parse, parse_file};

use database::Database;

/// What is about DataFusion's plans and settings.
const OF_PLANS: [&str; 5] = ["explain", "set", "reset", "show", "describe"];

/// A record that may fail in any words.
const ANY_ERROR: &str = "statement error\nSELECT 1\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("slt")
}

/// Runs a file; all lines that are wrong are told.
async fn check(path: &Path) {
    let records = parse_file(path).unwrap_or_else(|error| panic!("{error}"));
    let foreign = path
        .parent()
        .is_some_and(|folder| folder.ends_with("datafusion"));
    let mut runner = Runner::new(Database::new(foreign).await);
    runner.with_validator(same);
    let (mut asked, mut wrong) = (0, Vec::new());
    for mut record in records {
        if foreign && !keep(&mut record) {
            continue;
        }
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        asked += usize::from(matches!(record, Record::Query { .. }));
        if let Err(error) = runner.run_async(record).await {
            wrong.push(error.to_string());
        }
    }
    assert!(asked > 0, "{} asks nothing", path.display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether a record of DataFusion's files means something to us; errors have other words here.
fn keep(record: &mut Record) -> bool {
    let (sql, expected_error) = match record {
        Record::Statement {
            sql,
            expected_error,
            ..
        }
        | Record::Query {
            sql,
            expected_error,
            ..
        } => (sql, expected_error),
        _ => return true,
    };
    if expected_error.is_some()
        && let Some(Record::Statement {
            expected_error: any,
            ..
        }) = parse(ANY_ERROR).unwrap().into_iter().next()
    {
        *expected_error = any;
    }
    let first = sql.split_whitespace().next().unwrap_or_default();
    !OF_PLANS.iter().any(|word| first.eq_ignore_ascii_case(word))
}

/// Blanks at a line's end can't be seen.
fn same(found: &[Vec<String>], expected: &[String]) -> bool {
    let found = found.iter().map(|cells| cells.join(" "));
    let found = found.map(|line| line.trim_end().to_owned());
    found.eq(expected.iter().map(|line| line.trim_end().to_owned()))
}

macro_rules! files {
    ($($test:ident: $file:literal,)+) => {
        $(#[tokio::test]
        async fn $test() {
            check(&folder().join(concat!($file, ".slt"))).await;
        })+

        const FILES: &[&str] = &[$($file,)+];
    };
}

files! {
    calls: "calls",
    correlated: "correlated",
    errors: "errors",
    intervals: "intervals",
    merged_joins: "merged_joins",
    nested: "nested",
    numbers: "numbers",
    refused: "refused",
    relations: "relations",
    repeated_columns: "repeated_columns",
    texts: "texts",
    time_zones: "time_zones",
    times: "times",
    datafusion_alias: "datafusion/alias",
    datafusion_arith_date_interval: "datafusion/arith_date_interval",
    datafusion_array_slice: "datafusion/array_slice",
    datafusion_array_union: "datafusion/array_union",
    datafusion_case: "datafusion/case",
    datafusion_cast: "datafusion/cast",
    datafusion_coalesce: "datafusion/coalesce",
    datafusion_dates: "datafusion/dates",
    datafusion_encoding: "datafusion/encoding",
    datafusion_expr: "datafusion/expr",
    datafusion_join_is_not_distinct_from: "datafusion/join_is_not_distinct_from",
    datafusion_join_lists: "datafusion/join_lists",
    datafusion_lateral_join: "datafusion/lateral_join",
    datafusion_math: "datafusion/math",
    datafusion_negative_zero: "datafusion/negative_zero",
    datafusion_null_aware_anti_join: "datafusion/null_aware_anti_join",
    datafusion_nullif: "datafusion/nullif",
    datafusion_nvl: "datafusion/nvl",
    datafusion_nvl2: "datafusion/nvl2",
    datafusion_pipe_operator: "datafusion/pipe_operator",
    datafusion_qualify: "datafusion/qualify",
    datafusion_regexp_like: "datafusion/regexp_like",
    datafusion_regexp_match: "datafusion/regexp_match",
    datafusion_regexp_replace: "datafusion/regexp_replace",
    datafusion_sort_merge_join: "datafusion/sort_merge_join",
    datafusion_strings: "datafusion/strings",
    datafusion_subquery: "datafusion/subquery",
    datafusion_type_coercion: "datafusion/type_coercion",
    datafusion_union_by_name: "datafusion/union_by_name",
    datafusion_unnest: "datafusion/unnest",
}

/// While a file is written, or to see whether one of DataFusion's fits.
#[tokio::test]
async fn a_file_that_is_asked_for() {
    if let Ok(path) = std::env::var("TIDELAKE_SLT_FILE") {
        check(Path::new(&path)).await;
    }
}

#[test]
fn every_file_is_run() {
    let folder = folder();
    let mut there = Vec::new();
    for (folder, prefix) in [
        (folder.clone(), ""),
        (folder.join("datafusion"), "datafusion/"),
    ] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            there.extend(
                name.strip_suffix(".slt")
                    .map(|name| format!("{prefix}{name}")),
            );
        }
    }
    there.sort();
    let mut run: Vec<&str> = FILES.to_vec();
    run.sort_unstable();
    assert_eq!(there, run);
}
