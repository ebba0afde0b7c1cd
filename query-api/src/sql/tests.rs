mod bombs;
mod names;

use serde_json::json;

use super::*;

fn refused(sql: &str) -> QueryError {
    parse(sql, &[])
        .map(|query| query.statement.to_string())
        .expect_err(sql)
}

#[test]
fn everything_but_reading_is_refused() {
    let statements = [
        "CREATE TABLE x AS SELECT 1",
        "CREATE TABLE x (a int)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION 'x.parquet'",
        "CREATE DATABASE x",
        "CREATE SCHEMA x",
        "CREATE FUNCTION f(int) RETURNS int RETURN $1",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN a int",
        "TRUNCATE TABLE t",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t SELECT 1",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
        "COPY t TO 'x.parquet'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "SET TIME ZONE 'UTC'",
        "RESET datafusion.execution.batch_size",
        "SHOW ALL",
        "SHOW datafusion.execution.batch_size",
        "SHOW VARIABLES",
        "SHOW FUNCTIONS",
        "SHOW CREATE TABLE t",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "BEGIN",
        "COMMIT",
        "SELECT 1; SELECT 2",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "EXPLAIN ANALYZE COPY t TO 'x'",
        "EXPLAIN CREATE TABLE x AS SELECT 1",
        "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x",
        "WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM x",
        "SELECT * INTO x FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT * FROM 'x.parquet'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 's3://bucket/x.parquet'",
        "SELECT * FROM 'http://host/x.csv'",
        "SELECT (SELECT count(*) FROM 'x.parquet')",
        "SELECT * FROM t WHERE a IN (SELECT a FROM 'x.csv')",
        "SELECT * FROM read_csv('x.csv')",
        "SELECT * FROM read_parquet('x')",
        "SELECT * FROM parquet_metadata('x')",
        "SELECT * FROM metadata_cache()",
        "SELECT * FROM t TABLESAMPLE (10 PERCENT)",
        "SELECT * FROM t AT (TIMESTAMP => '2026-01-01')",
        "TABLE t",
        "CALL f()",
        "KILL QUERY 1",
        "USE x",
        "LOAD 'x'",
        "ATTACH 'x' AS y",
        "VACUUM t",
        "ANALYZE TABLE t",
        "GRANT SELECT ON t TO u",
    ];
    for sql in statements {
        let error = refused(sql);
        assert!(is_refusal(&error), "{sql}: {error:?}");
    }
}

fn is_refusal(error: &QueryError) -> bool {
    use QueryError as E;
    matches!(
        error,
        E::NotAllowed(_) | E::Unsupported(_) | E::Syntax { .. }
    )
}

#[test]
fn reading_is_allowed() {
    for sql in [
        "SELECT 1",
        "SELECT * FROM t",
        "SELECT * FROM default.t",
        "SELECT * FROM tidelake.default.t",
        "WITH x AS (SELECT * FROM t) SELECT * FROM x JOIN t USING (a)",
        "VALUES (1), (2)",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN ANALYZE SELECT * FROM t",
        "EXPLAIN VERBOSE SELECT * FROM t",
        "SHOW TABLES",
        "SHOW TABLES LIKE 'a%'",
        "SHOW COLUMNS FROM t",
        "DESCRIBE t",
        "DESCRIBE default.t",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM table_history('t') h",
        "SELECT * FROM table_files('t') WHERE rows > 1",
        "SELECT * FROM generate_series(1, 3)",
        "SELECT * FROM range(3)",
        "SELECT * FROM (SELECT 1 UNION ALL SELECT 2) ORDER BY 1 LIMIT 1",
        "(SELECT 1) UNION (SELECT 2)",
        "SELECT a, sum(b) FILTER (WHERE c) OVER (PARTITION BY a) FROM t GROUP BY ALL",
        "FROM t SELECT a",
        "SELECT * EXCEPT (a) FROM t",
        "WITH RECURSIVE n AS (SELECT 1 i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n",
    ] {
        parse(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[test]
fn what_the_planner_would_drop_is_refused() {
    for sql in [
        "SELECT g, sum(n) FROM t GROUP BY g WITH TOTALS",
        "SELECT g FROM t GROUP BY g, n GROUPING SETS ((g), (n))",
        "SELECT g FROM t GROUP BY ALL WITH ROLLUP",
        "SELECT g FROM t GROUP BY g WITH ROLLUP WITH CUBE",
        "SHOW TABLES FROM x",
        "SHOW TABLES IN x",
        "SHOW FULL TABLES",
        "SHOW EXTENDED TABLES",
        "SHOW FULL COLUMNS FROM t",
        "SHOW COLUMNS FROM t LIMIT 1",
        "DESCRIBE EXTENDED t",
        "DESCRIBE FORMATTED t",
        "SELECT * FROM t ORDER BY a WITH FILL",
        "SELECT sum(a) OVER (ORDER BY a WITH FILL) FROM t",
        "SELECT quantile(0.5)(a) FROM t",
        "SELECT a FROM t EXCEPT ALL SELECT a FROM u",
        "SELECT a FROM t INTERSECT ALL SELECT a FROM u",
        "SELECT * FROM t GLOBAL JOIN u ON t.a = u.a",
        "SELECT * FROM (t GLOBAL JOIN u ON t.a = u.a)",
        "SELECT AS STRUCT a FROM t",
        "SELECT * FROM (SELECT 1) x (a int)",
        "SELECT * FROM LATERAL generate_series(1, 2) WITH ORDINALITY",
        "SELECT a FROM t LIMIT 1 FORMAT JSON",
        "SELECT a FROM t SETTINGS x = 1",
        "SELECT [1]::int[1000000000]",
        "SELECT CAST([[1]] AS int[1000000000][])",
        "SELECT arrow_cast('a', 'FixedSizeBinary(1000000000)')",
    ] {
        let error = refused(sql);
        assert!(is_refusal(&error), "{sql}: {error:?}");
    }
    for (sql, wanted) in [
        (
            "SELECT g, n, count(*) FROM t GROUP BY g, n WITH ROLLUP",
            "SELECT g, n, count(*) FROM t GROUP BY ROLLUP (g, n)",
        ),
        (
            "SELECT (SELECT g FROM t GROUP BY g, n WITH CUBE)",
            "SELECT (SELECT g FROM t GROUP BY CUBE (g, n))",
        ),
    ] {
        let told = parse(sql, &[]).unwrap().statement.to_string();
        assert_eq!(told, wanted);
    }
}

fn only_relation(sql: &str, params: &[ScalarValue]) -> (TableReference, Relation) {
    let query = parse(sql, params).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(query.relations.len(), 1, "{sql}: {:?}", query.relations);
    query.relations.into_iter().next().unwrap()
}

#[test]
fn versions_belong_to_their_table_reference() {
    let version = |number| Some(AsOf::Version(TableVersion(number)));
    for (sql, as_of) in [
        ("SELECT * FROM t VERSION AS OF 3", version(3)),
        (
            "SELECT * FROM T VERSION AS OF 3 x WHERE x.a = 1",
            version(3),
        ),
        (
            "SELECT t.a FROM t TIMESTAMP AS OF '1970-01-01T00:00:01Z'",
            Some(AsOf::Timestamp(1000)),
        ),
        (
            "SELECT * FROM t TIMESTAMP AS OF TIMESTAMP '1970-01-01 00:00:01'",
            Some(AsOf::Timestamp(1000)),
        ),
        (
            "SELECT * FROM t FOR SYSTEM_TIME AS OF '1970-01-01'",
            Some(AsOf::Timestamp(0)),
        ),
        (
            "SELECT * FROM t VERSION AS OF 'before'",
            Some(AsOf::Snapshot(SnapshotName::new("before").unwrap())),
        ),
        (
            "SELECT 'ä\n', x.a FROM T\n/* é */ version as\n of 'before' x WHERE 'VERSION' = 'é'",
            Some(AsOf::Snapshot(SnapshotName::new("before").unwrap())),
        ),
        ("SELECT * FROM t", None),
    ] {
        let (_, relation) = only_relation(sql, &[]);
        assert_eq!(relation.as_of, as_of, "{sql}");
        assert_eq!(relation.table, TableReference::bare("t"), "{sql}");
    }
    let query = parse(
        "SELECT * FROM t JOIN t VERSION AS OF 1 old ON t.a = old.a \
         WHERE t.a IN (SELECT a FROM t VERSION AS OF 2)",
        &[],
    )
    .unwrap();
    let versions: Vec<_> = query
        .relations
        .into_values()
        .map(|relation| relation.as_of)
        .collect();
    assert_eq!(versions.len(), 3);
    for wanted in [None, version(1), version(2)] {
        assert!(versions.contains(&wanted), "{versions:?}");
    }
}

#[test]
fn bad_versions_are_refused() {
    for sql in [
        "SELECT * FROM t TIMESTAMP AS OF 'yesterday'",
        "SELECT * FROM t TIMESTAMP AS OF now()",
        "SELECT * FROM t VERSION AS OF 1.5",
        "SELECT * FROM t VERSION AS OF 'No Name'",
    ] {
        assert!(
            matches!(
                refused(sql),
                QueryError::Invalid(_) | QueryError::Syntax { .. }
            ),
            "{sql}"
        );
    }
}

#[test]
fn table_functions_name_their_table() {
    let (name, relation) = only_relation("SELECT * FROM table_history('t')", &[]);
    assert_eq!(
        (relation.view, relation.table),
        (View::History, TableReference::bare("t"))
    );
    assert_eq!(name, TableReference::bare("table_history(t)"));
    let (_, relation) = only_relation(
        "SELECT * FROM TABLE_FILES($1)",
        &[ScalarValue::from("default.t")],
    );
    assert_eq!(relation.table, TableReference::partial("default", "t"));
    let (_, relation) = only_relation("DESCRIBE t", &[]);
    assert_eq!(relation.view, View::Columns);
    for sql in [
        "SELECT * FROM table_history()",
        "SELECT * FROM table_files(1 + 1)",
        "SELECT * FROM table_snapshots('t', 1)",
        "SELECT * FROM table_changes('t')",
        "SELECT * FROM table_changes('t', 1, 2, 3)",
        "SELECT * FROM table_changes('t', now())",
        "SELECT * FROM table_changes('t', 1.5)",
        "SELECT * FROM table_changes('t', to => 1)",
        "SELECT * FROM key_history('t')",
        "SELECT * FROM key_history('t', NULL)",
        "SELECT * FROM key_history('t', 1 + 1)",
    ] {
        assert!(matches!(refused(sql), QueryError::Invalid(_)), "{sql}");
    }
}

#[test]
fn a_common_table_expression_is_no_table() {
    let query = parse("WITH t AS (SELECT 1 a) SELECT * FROM t", &[]).unwrap();
    assert!(query.relations.is_empty());
    let (name, _) = only_relation("WITH t AS (SELECT * FROM t) SELECT * FROM t", &[]);
    assert_eq!(name, TableReference::bare("t"));
}

#[test]
fn is_distinct_from_ends_before_and() {
    use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SetExpr, Statement as Sql};
    let condition = |sql: &str| {
        let sql = format!("SELECT 1 FROM t WHERE {sql}");
        let Statement::Statement(inner) = parse(&sql, &[]).unwrap().statement else {
            panic!("{sql}");
        };
        let Sql::Query(query) = *inner else {
            panic!("{sql}");
        };
        let SetExpr::Select(select) = *query.body else {
            panic!("{sql}");
        };
        select.selection.unwrap()
    };
    for (sql, wanted) in [
        ("a IS DISTINCT FROM b AND c", BinaryOperator::And),
        ("a IS NOT DISTINCT FROM b AND c", BinaryOperator::And),
        ("a IS NOT DISTINCT FROM b OR c = 1", BinaryOperator::Or),
    ] {
        let found = condition(sql);
        let Expr::BinaryOp { left, op, .. } = found else {
            panic!("{sql}: {found:?}");
        };
        assert_eq!(op, wanted, "{sql}");
        assert!(
            matches!(
                *left,
                Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..)
            ),
            "{sql}: {left:?}"
        );
    }
    let found = condition("a + 1 IS DISTINCT FROM b + 1");
    assert!(matches!(found, Expr::IsDistinctFrom(..)), "{found:?}");
    let found = condition("NOT a IS NOT DISTINCT FROM b");
    assert!(matches!(found, Expr::UnaryOp { .. }), "{found:?}");
    assert!(matches!(condition("a IS NOT NULL"), Expr::IsNotNull(_)));
    // The left side is copied.
    refused(&format!("SELECT a{}", " IS DISTINCT FROM b".repeat(2_000)));
    let sum = format!("1{}", " + 1".repeat(10_000));
    let union = format!("SELECT 1{}", " UNION SELECT 1".repeat(900));
    for chain in [sum, union] {
        refused(&format!("SELECT ({chain}) IS DISTINCT FROM 1"));
    }
}

#[test]
fn queries_within_expressions_are_bounded() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!("{}SELECT 1{}", open.repeat(levels), close.repeat(levels))
    };
    for (open, close) in [
        ("SELECT 1 WHERE EXISTS (", ")"),
        ("SELECT 1 WHERE 1 IN (", ")"),
        ("SELECT * FROM t WHERE a > (", ")"),
    ] {
        parse(&nested(open, close, 10), &[]).unwrap_or_else(|error| panic!("{open}: {error}"));
        let error = refused(&nested(open, close, 11));
        assert!(matches!(error, QueryError::NotAllowed(_)), "{open}");
        assert!(error.to_string().contains("10 is the most"), "{error}");
    }
    parse(&nested("SELECT * FROM (", ") x", 20), &[]).unwrap();
}

#[test]
fn grouping_sets_are_bounded() {
    let columns = |count: usize| {
        let names: Vec<_> = (0..count).map(|place| format!("c{place}")).collect();
        names.join(", ")
    };
    let grouped = |by: String| format!("SELECT count(*) FROM t GROUP BY {by}");
    for by in [
        columns(300),
        format!("CUBE ({})", columns(12)),
        format!("a, b, CUBE ({}), ROLLUP ({})", columns(8), columns(15)),
        format!("ROLLUP ({})", columns(64)),
        format!("{} WITH CUBE", columns(12)),
    ] {
        let sql = grouped(by);
        parse(&sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    for by in [
        format!("CUBE ({})", columns(13)),
        format!("CUBE ({})", columns(28)),
        format!("CUBE ({})", columns(64)),
        format!("{} WITH CUBE", columns(13)),
        format!("CUBE ({}), CUBE ({})", columns(6), columns(7)),
        format!("ROLLUP ({0}), ROLLUP ({0}), ROLLUP ({0})", columns(16)),
        ["GROUPING SETS ((a), (b), ())"; 8].join(", "),
        format!("ROLLUP ({})", columns(2_000)),
    ] {
        let sql = grouped(by);
        assert!(matches!(refused(&sql), QueryError::NotAllowed(_)), "{sql}");
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let sql = format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(matches!(refused(&sql), QueryError::NotAllowed(_)));
}

#[test]
fn changes_and_keys_are_read_from_literals_and_parameters() {
    let version = |number| AsOf::Version(TableVersion(number));
    let name = |name| AsOf::Snapshot(SnapshotName::new(name).unwrap());
    for (sql, from, to) in [
        ("SELECT * FROM table_changes('t', 3)", version(3), None),
        (
            "SELECT * FROM table_changes('t', 3, $1)",
            version(3),
            Some(version(7)),
        ),
        (
            "SELECT * FROM table_changes('t', 'before', 'after')",
            name("before"),
            Some(name("after")),
        ),
    ] {
        let (_, relation) = only_relation(sql, &[ScalarValue::from(7i64)]);
        assert_eq!(relation.view, View::Changes { from, to }, "{sql}");
        assert_eq!(relation.table, TableReference::bare("t"));
    }
    let (_, relation) = only_relation(
        "SELECT * FROM key_history('t', -5, 'eu', true, $2, DATE '2026-01-01')",
        &[ScalarValue::from(0i64), ScalarValue::from("x")],
    );
    let text = |text: &str| KeyPart::Text(text.into());
    let key = vec![
        KeyPart::Value(json!(-5)),
        text("eu"),
        KeyPart::Value(json!(true)),
        text("x"),
        text("2026-01-01"),
    ];
    assert_eq!(relation.view, View::KeyHistory { key });
    let two = "SELECT * FROM table_changes('t', 1) a JOIN table_changes('t', 2) b USING (id)";
    assert_eq!(parse(two, &[]).unwrap().relations.len(), 2);
}

#[test]
fn snapshots_are_created_and_dropped_by_statements() {
    let read = |sql: &str| command(sql, &[ScalarValue::from(7i64)]);
    let create = |as_of| {
        Some(Command::CreateSnapshot {
            name: SnapshotName::new("before").unwrap(),
            table: TableReference::bare("t"),
            as_of,
        })
    };
    let seven = Some(AsOf::Version(TableVersion(7)));
    for (sql, wanted) in [
        ("CREATE SNAPSHOT before FOR TABLE t", create(None)),
        (
            "create snapshot Before for table T as of version 7;",
            create(seven.clone()),
        ),
        (
            "/* x */ CREATE SNAPSHOT \"before\" FOR TABLE t VERSION AS OF $1",
            create(seven),
        ),
        (
            "CREATE SNAPSHOT before FOR TABLE t AS OF TIMESTAMP '1970-01-01T00:00:01Z'",
            create(Some(AsOf::Timestamp(1000))),
        ),
        (
            "DROP SNAPSHOT before FOR TABLE default.t",
            Some(Command::DropSnapshot {
                name: SnapshotName::new("before").unwrap(),
                table: TableReference::partial("default", "t"),
            }),
        ),
        ("SELECT * FROM snapshot", None),
        ("CREATE TABLE snapshot (a int)", None),
        ("SELECT 'snapshot", None),
    ] {
        assert_eq!(read(sql).unwrap(), wanted, "{sql}");
    }
    for sql in [
        "CREATE SNAPSHOT FOR TABLE t",
        "CREATE SNAPSHOT a FOR t",
        "CREATE SNAPSHOT a FOR TABLE t AS OF 7",
        "CREATE SNAPSHOT a FOR TABLE t AS OF VERSION 1.5",
        "CREATE SNAPSHOT a FOR TABLE t AS OF VERSION 1 2",
        "CREATE SNAPSHOT \"A b\" FOR TABLE t",
        "CREATE SNAPSHOT a FOR TABLE t; SELECT 1",
        "DROP SNAPSHOT a FOR TABLE t AS OF VERSION 7",
        "DROP SNAPSHOT a",
    ] {
        assert!(read(sql).is_err(), "{sql}");
    }
}
