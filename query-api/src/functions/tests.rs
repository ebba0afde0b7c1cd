mod times;
mod zones;

use std::collections::BTreeSet;

use datafusion::execution::SessionStateDefaults;
use serde_json::json;

use super::*;
use crate::settings::QuerySettings;
use crate::testing::World;

#[test]
fn every_function_that_grows_is_known() {
    let functions = SessionStateDefaults::default_scalar_functions();
    let names: BTreeSet<_> = functions.iter().map(|function| function.name()).collect();
    for (name, _) in GROWING {
        assert!(names.contains(name), "{name} is not there any more");
    }
    let plain: BTreeSet<_> = include_str!("plain.txt").split_whitespace().collect();
    let unknown: Vec<_> = names
        .iter()
        .filter(|name| growth(name).is_none() && !plain.contains(**name))
        .collect();
    assert!(
        unknown.is_empty(),
        "class these as growing or plain: {unknown:?}"
    );
    let gone: Vec<_> = plain.difference(&names).collect();
    assert!(gone.is_empty(), "{gone:?} are not there any more");
    let higher = SessionStateDefaults::default_higher_order_functions();
    let higher: BTreeSet<_> = higher
        .iter()
        .map(|function| function.name().to_owned())
        .collect();
    let known = [
        "array_any_match",
        "array_filter",
        "array_first",
        "array_transform",
    ];
    assert_eq!(
        higher,
        known.map(str::to_owned).into(),
        "each item once, by functions of here"
    );
}

#[tokio::test]
async fn what_would_grow_beyond_the_memory_is_refused_at_once() {
    let memory_bytes_max = 64 << 20;
    let world = World::new(QuerySettings {
        memory_bytes_max,
        ..QuerySettings::default()
    })
    .await;
    for sql in [
        "SELECT array_length(range(0, 200000000))",
        "SELECT array_length(range(200000000, 0, -1))",
        "SELECT array_length(generate_series(0, 200000000))",
        "SELECT array_length(generate_series(DATE '0001-01-01', DATE '9999-12-31', INTERVAL '1 second'))",
        "SELECT array_length(generate_series(TIMESTAMP '2026-01-01', TIMESTAMP '2036-01-01', INTERVAL '1 second'))",
        "SELECT length(repeat('x', 1500000000))",
        "SELECT length(lpad('x', 1000000000))",
        "SELECT length(rpad('x', 1000000000, 'ab'))",
        "SELECT array_length(array_repeat(1, 200000000))",
        "SELECT array_length(array_repeat(repeat('x', 1000), 20000))",
        "SELECT array_length(array_resize([1], 200000000, 7))",
        "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 1000)))",
        "SELECT length(regexp_replace(repeat('x', 100000), 'x', repeat('y', 1000), 'g'))",
        "SELECT length(array_to_string(range(0, 100000), repeat('y', 1000)))",
        "SELECT sum(length(repeat('x', value * 1000000))) FROM generate_series(1, 3000)",
        "SELECT count(*) FROM (SELECT unnest(range(0, 1000000)) FROM generate_series(1, 1000))",
        "SELECT repeat('x', 1000000) FROM generate_series(1, 1000)",
        "SELECT concat(repeat('x', 1000000), value) FROM generate_series(1, 1000)",
        "SELECT length(concat(x, x, x, x)) FROM (SELECT repeat('x', 4000000) x)",
        "SELECT length(x || x || x || x) FROM (SELECT repeat('x', 4000000) x)",
        "SELECT length(x || value || x) FROM (SELECT repeat('x', 4000) x), generate_series(1, 5000)",
        "SELECT array_length(x || x || x) FROM (SELECT range(0, 500000) x)",
        "SELECT array_length([x, x, x]) FROM (SELECT repeat('x', 4000000) x)",
        "SELECT length(overlay(x PLACING x FROM 1)) FROM (SELECT repeat('x', 8000000) x)",
        "WITH a AS (SELECT repeat('x', 1000) s FROM generate_series(1, 1000)), \
         b AS (SELECT s || s s FROM a), c AS (SELECT s || s s FROM b), \
         d AS (SELECT s || s s FROM c), e AS (SELECT s || s s FROM d) SELECT max(s) FROM e",
    ] {
        let begun = crate::moment::now();
        let (status, code) = world.code(json!({"sql": sql, "timeout_ms": 20000})).await;
        assert_eq!(
            (status, code.as_str()),
            (503, "QUERY_MEMORY_EXCEEDED"),
            "{sql}"
        );
        assert!(
            begun.elapsed().as_secs() < 5,
            "{sql}: {:?}",
            begun.elapsed()
        );
    }
    for (sql, answer) in [
        ("SELECT array_length(range(0, 100000))", json!([[100_000]])),
        ("SELECT length(repeat('x', 1000000))", json!([[1_000_000]])),
        (
            "SELECT lpad('x', 3, 'ab'), rpad('x', 3), repeat(NULL, 3)",
            json!([["abx", "x  ", null]]),
        ),
        (
            "SELECT sum(length(replace(repeat('x,', 500), ',', ';;'))) FROM generate_series(1, 5000)",
            json!([[7_500_000]]),
        ),
        (
            "SELECT sum(length(regexp_replace(concat(repeat('x', 100), value), '(x)', '[\\1]', 'g'))) \
             FROM generate_series(100, 999)",
            json!([[270_000 + 2_700]]),
        ),
        (
            "SELECT array_length(generate_series(DATE '2026-01-01', DATE '2026-12-31', INTERVAL '1 day'))",
            json!([[365]]),
        ),
        (
            "SELECT range(5, 1, -2), range(3), range(1, 5, -1)",
            json!([[[5, 3], [0, 1, 2], []]]),
        ),
        (
            "SELECT 'a' || 'b', 'a' || NULL, 'a' || 1, value || '-' || value, [1] || [2], [1] || 2 \
             FROM generate_series(7, 7)",
            json!([["ab", null, "a1", "7-7", [1, 2], [1, 2]]]),
        ),
        (
            "SELECT to_char(DATE '2026-07-01', '%Y'), concat_ws('-', 1, 2), overlay('abc' PLACING 'x' FROM 2)",
            json!([["2026", "1-2", "axc"]]),
        ),
        (
            "SELECT array_to_string([1, 2], '-'), array_resize([1], 2, 7), array_replace_all([1, 1], 1, 2)",
            json!([["1-2", [1, 7], [2, 2]]]),
        ),
    ] {
        assert_eq!(world.rows(sql).await, answer, "{sql}");
    }
}

#[tokio::test]
async fn lists_of_windows_have_small_frames() {
    let world = World::new(QuerySettings::default()).await;
    let of = |call: &str, over: &str| {
        format!("SELECT {call} OVER ({over}) FROM generate_series(1, 3) ORDER BY value")
    };
    for over in [
        "",
        "ORDER BY value",
        "PARTITION BY value % 2",
        "ORDER BY value ROWS 100 PRECEDING",
        "ORDER BY value ROWS BETWEEN 1 PRECEDING AND UNBOUNDED FOLLOWING",
        "ORDER BY value RANGE 1 PRECEDING",
        "ORDER BY value GROUPS 1 PRECEDING",
    ] {
        for call in [
            "array_agg(value)",
            "string_agg(CAST(value AS VARCHAR), ',')",
        ] {
            let sql = of(call, over);
            let (status, code) = world.code(json!({"sql": sql})).await;
            assert_eq!((status, code.as_str()), (400, "SQL_NOT_SUPPORTED"), "{sql}");
        }
    }
    for (sql, answer) in [
        (
            of("array_agg(value)", "ORDER BY value ROWS 1 PRECEDING"),
            json!([[[1]], [[1, 2]], [[2, 3]]]),
        ),
        (of("sum(value)", "ORDER BY value"), json!([[1], [3], [6]])),
        (
            "SELECT array_agg(value ORDER BY value) FROM generate_series(1, 3)".to_owned(),
            json!([[[1, 2, 3]]]),
        ),
    ] {
        assert_eq!(world.rows(&sql).await, answer, "{sql}");
    }
}

#[tokio::test]
async fn a_sum_that_does_not_fit_is_an_error() {
    let world = World::new(QuerySettings::default()).await;
    let max = "9223372036854775807";
    let numbers = format!("(VALUES (1, {max}), (1, 1), (2, 5), (2, NULL), (3, NULL)) t(g, n)");
    for over in [
        format!("SELECT sum(n) FROM {numbers}"),
        format!("SELECT g, sum(n) FROM {numbers} GROUP BY g"),
        format!("SELECT sum(DISTINCT n) FROM {numbers}"),
        format!("SELECT sum(n) OVER (ORDER BY n ROWS 3 PRECEDING) FROM {numbers}"),
        format!("SELECT sum(n) FILTER (WHERE g = 1) FROM {numbers}"),
        "SELECT sum(n) FROM (SELECT CAST(9e37 AS DECIMAL(38, 0)) n UNION ALL \
         SELECT CAST(9e37 AS DECIMAL(38, 0)))"
            .to_owned(),
    ] {
        let (status, code) = world.code(json!({"sql": over})).await;
        assert_eq!((status, code.as_str()), (400, "QUERY_FAILED"), "{over}");
    }
    for (sql, answer) in [
        (
            format!(
                "SELECT g, sum(n) FROM {numbers} WHERE n < 6 OR n IS NULL GROUP BY g ORDER BY g"
            ),
            json!([[1, 1], [2, 5], [3, null]]),
        ),
        // On its way there it leaves the range.
        (
            format!("SELECT sum(n) FROM (VALUES ({max}), (1), (-2)) t(n)"),
            json!([[9_223_372_036_854_775_806_i64]]),
        ),
        (
            format!(
                "SELECT sum(n) OVER (ORDER BY k ROWS 1 PRECEDING) FROM \
                 (VALUES (1, {max}), (2, -1), (3, 4), (4, NULL), (5, NULL)) t(k, n) ORDER BY k"
            ),
            json!([
                [9_223_372_036_854_775_807_i64],
                [9_223_372_036_854_775_806_i64],
                [3],
                [4],
                [null]
            ]),
        ),
        (
            "SELECT sum(DISTINCT n), sum(n), sum(n * 1.0), sum(CAST(n * 1 AS DECIMAL(5, 2))) \
             FROM (VALUES (-3), (-3), (4), (NULL)) t(n)"
                .to_owned(),
            json!([[1, -2, -2.0, "-2.00"]]),
        ),
        (
            "SELECT sum(value), sum(-value), sum(value % 3) FILTER (WHERE value > 99999) \
             FROM generate_series(1, 100000)"
                .to_owned(),
            json!([[5_000_050_000_i64, -5_000_050_000_i64, 1]]),
        ),
        (
            "SELECT sum(n) FROM (SELECT 1 n) WHERE n > 1".to_owned(),
            json!([[null]]),
        ),
        (
            "SELECT sum(n + 1.5), sum(n + 2.5), sum(n) FROM (SELECT 1.0 n)".to_owned(),
            json!([[2.5, 3.5, 1.0]]),
        ),
        (
            "SELECT count(*) FROM (SELECT CASE floor(random() * 3) WHEN 0.0 THEN 'a' \
             WHEN 1.0 THEN 'b' WHEN 2.0 THEN 'c' END c FROM generate_series(1, 1000)) WHERE c IS NULL"
                .to_owned(),
            json!([[0]]),
        ),
    ] {
        assert_eq!(world.rows(&sql).await, answer, "{sql}");
    }
}
