//! Statements that are made to hurt: each is refused or read within moments, on a small stack.

use std::time::Duration;

use super::*;
use crate::moment;

/// As a thread of the runtime has.
const STACK_BYTES: usize = 2 << 20;

/// Nothing takes longer, in a debug build on a busy machine.
const MOMENTS: Duration = Duration::from_secs(10);

/// Parses, copies and drops on a small stack, and says how long it took. What does not end within
/// moments is left behind.
fn on_small_stack(sql: String) -> (Result<Query, QueryError>, Duration) {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let begins: String = sql.chars().take(60).collect();
    std::thread::Builder::new()
        .name(begins.clone())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let begun = moment::now();
            let parsed = parse(&sql, &[]);
            drop(parsed.as_ref().ok().map(|query| query.statement.clone()));
            let _ = send.send((parsed, begun.elapsed()));
        })
        .unwrap();
    let late = |_| {
        (
            Err(QueryError::Engine(format!("{begins} takes too long"))),
            MOMENTS,
        )
    };
    receive.recv_timeout(MOMENTS).unwrap_or_else(late)
}

#[test]
fn nested_with_costs_what_it_is_long() {
    for levels in [10, 20, 40, 60, 90] {
        let mut sql = "SELECT 1 AS a".to_owned();
        for _ in 0..levels {
            sql = format!("WITH c AS ({sql}) SELECT a FROM c");
        }
        let (_, took) = on_small_stack(sql);
        assert!(took < Duration::from_secs(2), "{levels} levels: {took:?}");
    }
}

#[test]
fn what_is_nested_is_read_or_refused_within_moments() {
    let parts = [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{'a': ", "1", "}"),
        ("ARRAY[", "1", "]"),
        ("f(", "1", ")"),
        ("CASE WHEN a THEN ", "1", " END"),
        ("CASE ", "1", " WHEN 1 THEN 2 END"),
        ("CASE WHEN ", "1", " THEN 1 END"),
        ("CAST(", "1", " AS int)"),
        ("TRY_CAST(", "1", " AS int)"),
        ("1 IN (", "1", ")"),
        ("1 IN (SELECT ", "1", ")"),
        ("EXISTS(SELECT ", "1", ")"),
        ("(SELECT ", "1", ")"),
        ("NOT ", "1", ""),
        ("- ", "1", ""),
        ("INTERVAL ", "'1'", " day"),
        ("DATE ", "'1'", ""),
        ("a -> ", "1", ""),
        ("(a, b) -> ", "1", ""),
        ("f((a) -> ", "1", ")"),
        ("MAP {'a': ", "1", "}"),
        ("MAP([1], [", "1", "])"),
        ("STRUCT(", "1", ")"),
        ("POSITION(", "1", " IN 'a')"),
        ("POSITION('a' IN ", "1", ")"),
        ("EXTRACT(day FROM ", "1", ")"),
        ("TRIM(BOTH 'a' FROM ", "1", ")"),
        ("TRIM(", "1", ")"),
        ("CEIL(", "1", ")"),
        ("SUBSTRING(", "1", " FROM 1)"),
        ("OVERLAY(", "1", " PLACING 'a' FROM 1)"),
        ("ROW(", "1", ")"),
        ("a AND NOT (", "1", ")"),
        ("1 BETWEEN ", "1", " AND 2"),
        ("1 + (", "1", ")"),
        ("1 = ANY(", "1", ")"),
        ("sum(a) OVER (ORDER BY ", "1", ")"),
        ("count(*) FILTER (WHERE ", "1", ")"),
        ("GROUPING SETS (", "1", ")"),
        ("CAST(1 AS ", "int", "[])"),
        ("a[", "1", "]"),
        ("IF(", "1", ", 1, 1)"),
        ("CONVERT(", "1", ", int)"),
        ("LATERAL (", "1", ")"),
        ("PRIOR ", "1", ""),
        ("x::", "int", ""),
        ("CAST(1 AS ARRAY<", "int", ">)"),
        ("CAST(1 AS STRUCT<a ", "int", ">)"),
        ("CAST(1 AS Nullable(", "int", "))"),
    ];
    let mut slow = Vec::new();
    for (open, middle, close) in parts {
        for depth in [6, 10, 14, 18, 97, 2_000] {
            let nested = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
            let sql = format!("SELECT {nested} FROM t");
            let (_, took) = on_small_stack(sql);
            if took > MOMENTS / 2 {
                slow.push(format!("{depth} x {open:?}: {took:?}"));
                break;
            }
        }
    }
    for (open, middle, close) in [
        ("SELECT * FROM (", "t", ")"),
        ("(", "SELECT 1", ")"),
        ("SELECT * FROM t JOIN (", "t", " ON a = b)"),
        ("SELECT * FROM LATERAL (", "SELECT 1", ")"),
        ("SELECT * FROM (((", "t", ")))"),
        ("SELECT (", "SELECT 1", ")"),
        ("SELECT 1 UNION (", "SELECT 1", ")"),
        ("(SELECT 1 UNION ", "SELECT 1", ")"),
        ("EXPLAIN ", "SELECT 1", ""),
        ("DESCRIBE ", "SELECT 1", ""),
        ("VALUES ((", "SELECT 1", "))"),
        ("WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("FROM (", "FROM t", ")"),
        ("SELECT * FROM UNNEST(", "[1]", ")"),
        ("COPY (", "SELECT 1", ") TO 'x'"),
        ("SELECT * FROM t PIVOT (sum(a) FOR b IN (", "SELECT 1", "))"),
        ("IF a THEN ", "SELECT 1;", " END IF;"),
        ("CREATE TABLE t (a ARRAY<", "int", ">)"),
        ("CREATE TABLE t (a Array(", "int", "))"),
    ] {
        for depth in [6, 10, 14, 18, 97, 2_000] {
            let sql = format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
            let (_, took) = on_small_stack(sql);
            if took > MOMENTS / 2 {
                slow.push(format!("{depth} x {open:?}: {took:?}"));
                break;
            }
        }
    }
    assert!(slow.is_empty(), "{}", slow.join("\n"));
}

#[test]
fn long_chains_are_flat_or_refused() {
    let chain = |part: &str, by: &str, count: usize| vec![part; count].join(by);
    let or = |count: usize| {
        let parts: Vec<_> = (0..count).map(|id| format!("id = {id}")).collect();
        format!("SELECT * FROM t WHERE {}", parts.join(" OR "))
    };
    let several = |count: usize| {
        let parts: Vec<_> = (0..count)
            .map(|id| format!("(a = {id} AND b > {id})"))
            .collect();
        format!("SELECT * FROM t WHERE {}", parts.join(" OR "))
    };
    let list: Vec<_> = (0..100_000).map(|id| format!("-{id}")).collect();
    for sql in [
        or(2_000),
        or(9_000),
        several(2_000),
        format!("SELECT {}", chain("a", " || ", 250)),
        format!("SELECT {}", chain("a", " AND ", 9_000)),
        format!("SELECT {}", chain("a", " + ", 250)),
        chain("SELECT 1, a + 2 FROM t", " UNION ALL ", 1_000),
        chain("SELECT 1", " UNION ", 1_000),
        format!("SELECT * FROM t WHERE id IN ({})", list.join(", ")),
        format!("VALUES {}", chain("(1, -2, f(3))", ", ", 10_000)),
        format!("SELECT CASE {} END", chain("WHEN a = 1 THEN 2", " ", 5_000)),
        format!("SELECT {}", chain("a + 1", ", ", 2_000)),
    ] {
        let (parsed, took) = on_small_stack(sql.clone());
        let parsed = parsed.unwrap_or_else(|error| panic!("{:.60}: {error}", sql));
        assert!(took < Duration::from_secs(8), "{sql:.60}: {took:?}");
        drop(parsed);
    }
    for sql in [
        format!("SELECT {}", chain("1", "+", 3_000)),
        format!("SELECT {} FROM", chain("1", "+", 9_000)),
        format!("SELECT {}", chain("1", "+", 100_000)),
        format!("SELECT {}", chain("1", " = ", 9_000)),
        format!("SELECT 1{}", "::int".repeat(9_000)),
        format!("SELECT 1{}", " IS NULL".repeat(4_000)),
        format!("SELECT a{}", "[1]".repeat(9_000)),
        format!("SELECT a{}", ".b".repeat(9_000)),
        format!("SELECT 1::int{}", "[]".repeat(9_000)),
        format!("SELECT a{}", " COLLATE x".repeat(9_000)),
        format!("SELECT a{}", " AT TIME ZONE 'UTC'".repeat(4_000)),
        chain("SELECT 1", " UNION ALL ", 3_000),
        chain("SELECT 1, 2", " UNION ALL ", 9_000),
        chain("SELECT 1", " EXCEPT ", 900),
        chain("SELECT 1", " UNION ALL SELECT 1 UNION ", 400),
        format!("SELECT * FROM {}", chain("t", ", ", 300)),
        format!("SELECT * FROM {}", chain("t", " CROSS JOIN ", 300)),
        format!("SELECT 1 {}", "|> WHERE true ".repeat(5_000)),
        or(100_000),
        format!("SELECT '{}'", "x".repeat(5 << 20)),
        format!("SELECT {}", chain("1", ",", 300_000)),
        "(".repeat(1_000_000),
        "EXPLAIN ".repeat(100_000),
        format!("SELECT CAST(1 AS {}int", "ARRAY<".repeat(100_000)),
    ] {
        let (parsed, took) = on_small_stack(sql.clone());
        let error = parsed.map(|_| ()).expect_err(&format!("{sql:.60}"));
        assert!(super::is_refusal(&error), "{sql:.60}: {error:?}");
        assert!(took < Duration::from_secs(8), "{sql:.60}: {took:?}");
    }
}

#[test]
fn equalities_of_one_column_are_a_list() {
    let mut parts: Vec<_> = (0..20).map(|id| format!("id = {id}")).collect();
    parts.insert(3, "b > 1".into());
    parts.push("'x' = id".into());
    parts.push("id = -7".into());
    let sql = format!("SELECT * FROM t WHERE {}", parts.join(" OR "));
    let told = parse(&sql, &[]).unwrap().statement.to_string();
    let list: Vec<_> = (0..20).map(|id| id.to_string()).collect();
    let wanted = format!(
        "SELECT * FROM t WHERE id IN ({}, -7) OR b > 1 OR 'x' = id",
        list.join(", ")
    );
    assert_eq!(told, wanted);
}

#[test]
fn with_queries_count_wherever_they_are_named() {
    let doubling = |levels: usize| {
        let mut sql = "WITH c0 AS (SELECT 1 a)".to_owned();
        for level in 1..levels {
            let before = level - 1;
            sql += &format!(", c{level} AS (SELECT x.a FROM c{before} x, c{before} y)");
        }
        sql + &format!(" SELECT * FROM c{}", levels - 1)
    };
    parse(&doubling(9), &[]).unwrap();
    for levels in [14, 30, 90] {
        let (parsed, took) = on_small_stack(doubling(levels));
        assert!(matches!(parsed, Err(QueryError::NotAllowed(_))), "{levels}");
        assert!(took < Duration::from_secs(2));
    }
}

#[test]
fn names_of_with_queries_are_known_in_their_scope() {
    for (sql, wanted) in [
        ("WITH t AS (SELECT 1) SELECT * FROM t", vec![]),
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", vec!["t"]),
        (
            "(WITH t AS (SELECT 1) SELECT * FROM t) UNION (SELECT * FROM t)",
            vec!["t"],
        ),
        (
            "WITH t AS (WITH u AS (SELECT 1) SELECT * FROM u) SELECT * FROM u, t",
            vec!["u"],
        ),
        (
            "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b",
            vec!["b"],
        ),
        (
            "WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i FROM n) SELECT * FROM n",
            vec![],
        ),
        ("WITH t AS (SELECT 1) SELECT * FROM x.t", vec!["x.t"]),
        (
            "WITH t AS (SELECT 1) SELECT (SELECT a FROM t), * FROM \"t\", \"T\"",
            vec!["T"],
        ),
        (
            "EXPLAIN SELECT * FROM t WHERE a IN (SELECT a FROM u)",
            vec!["t", "u"],
        ),
    ] {
        let query = parse(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let found: Vec<_> = query.relations.keys().map(ToString::to_string).collect();
        assert_eq!(found, wanted, "{sql}");
    }
}
