//! Which column a name means.

use super::*;

fn names_of_tables() -> FoldedNames {
    use datafusion::arrow::datatypes::{DataType, Field, Fields};
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    let inner = DataType::Struct(Fields::from(vec![column("postCode")]));
    let mut names = FoldedNames::default();
    let mut add = |table: &str, fields| {
        names.add(&TableReference::parse_str(table), &Fields::from(fields));
    };
    add(
        "t",
        vec![
            column("userId"),
            Field::new("Address", inner, true),
            column("plain"),
            column("Twice"),
            column("tWICE"),
        ],
    );
    add("b", vec![column("userId"), column("y")]);
    add("c", vec![column("userid"), column("Y")]);
    add("user", vec![column("User"), column("Name")]);
    names.add(
        &TableReference::bare("default.t version 0"),
        &Fields::from(vec![column("userId")]),
    );
    names
}

#[test]
fn mixed_case_columns_are_found_without_quotes() {
    let names = names_of_tables();
    for (sql, wanted) in [
        ("SELECT userId FROM t", r#"SELECT "userId" FROM t"#),
        ("SELECT T.USERID FROM t", r#"SELECT T."userId" FROM t"#),
        (
            "SELECT default.t.USERID FROM t",
            r#"SELECT default.t."userId" FROM t"#,
        ),
        ("SELECT x.USERID FROM t x", r#"SELECT x."userId" FROM t x"#),
        ("SELECT \"userid\" FROM t", r#"SELECT "userid" FROM t"#),
        (
            "SELECT address.postcode, t.address.POSTCODE FROM t",
            r#"SELECT "Address"."postCode", t."Address"."postCode" FROM t"#,
        ),
        ("SELECT Plain FROM t", "SELECT Plain FROM t"),
        // A name that a query gives is its own, whatever a table has.
        (
            "SELECT userid FROM (SELECT plain AS userid FROM t) x ORDER BY userid",
            "SELECT userid FROM (SELECT plain AS userid FROM t) x ORDER BY userid",
        ),
        (
            "WITH x (userid) AS (SELECT 1) SELECT userid FROM x",
            "WITH x (userid) AS (SELECT 1) SELECT userid FROM x",
        ),
        (
            "SELECT USERID FROM (SELECT * FROM t) x ORDER BY userid",
            r#"SELECT "userId" FROM (SELECT * FROM t) x ORDER BY "userId""#,
        ),
        (
            "SELECT plain AS USERID FROM t WHERE userid = 1 GROUP BY plain ORDER BY userid",
            r#"SELECT plain AS USERID FROM t WHERE "userId" = 1 GROUP BY plain ORDER BY userid"#,
        ),
        (
            "SELECT userId, y FROM t JOIN b USING (userId)",
            r#"SELECT "userId", y FROM (t GLOBAL JOIN b USING("userId"))"#,
        ),
        (
            "SELECT * EXCLUDE (USERID) FROM b",
            r#"SELECT * EXCLUDE ("userId") FROM b"#,
        ),
        (
            "SELECT b.* EXCEPT (USERID) FROM b",
            r#"SELECT b.* EXCEPT ("userId") FROM b"#,
        ),
        (
            "SELECT * REPLACE (userid + 1 AS userId) FROM b",
            r#"SELECT * REPLACE ("userId" + 1 AS "userId") FROM b"#,
        ),
        // A table's name is no column's.
        (
            "SELECT user.name FROM user",
            r#"SELECT user."Name" FROM user"#,
        ),
        (
            "SELECT u.NAME FROM user u",
            r#"SELECT u."Name" FROM user u"#,
        ),
        // The same name in another case elsewhere changes nothing.
        (
            "SELECT t.userId FROM t JOIN c ON t.userId = c.userid",
            r#"SELECT t."userId" FROM t JOIN c ON t."userId" = c.userid"#,
        ),
        (
            "SELECT userId FROM t WHERE EXISTS (SELECT 1 FROM c WHERE c.userid = t.USERID)",
            r#"SELECT "userId" FROM t WHERE EXISTS (SELECT 1 FROM c WHERE c.userid = t."userId")"#,
        ),
        (
            "SELECT (SELECT max(userid) FROM c) FROM t UNION ALL SELECT userid FROM t",
            r#"SELECT (SELECT max(userid) FROM c) FROM t UNION ALL SELECT "userId" FROM t"#,
        ),
        (
            "WITH RECURSIVE n AS (SELECT userid AS i FROM t UNION ALL SELECT i + 1 FROM n) SELECT I FROM n",
            r#"WITH RECURSIVE n AS (SELECT "userId" AS i FROM t UNION ALL SELECT i + 1 FROM n) SELECT I FROM n"#,
        ),
        (
            "SELECT default.t.userid FROM default.t VERSION AS OF 0",
            r#"SELECT t."userId" FROM "default.t version 0" AS "t""#,
        ),
    ] {
        let mut statement = parse(sql, &[]).unwrap().statement;
        fold_columns(&mut statement, &names).unwrap();
        let told = statement.to_string();
        assert_eq!(told, wanted);
    }
    for sql in [
        "SELECT twice FROM t",
        "SELECT count(*) FROM t JOIN c USING (userId)",
    ] {
        let mut statement = parse(sql, &[]).unwrap().statement;
        let error = fold_columns(&mut statement, &names).unwrap_err();
        assert!(matches!(error, QueryError::Invalid(_)), "{sql}: {error}");
    }
}

#[test]
fn names_of_what_is_not_known_are_nobody_elses() {
    let names = names_of_tables();
    let folded = |sql: &str| {
        let mut statement = parse(sql, &[]).unwrap().statement;
        let before = statement.to_string();
        fold_columns(&mut statement, &names).unwrap();
        (before, statement.to_string())
    };
    // `c` has "Y", which none of these means.
    for sql in [
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 FROM unnest([1, 2]) AS u (y) WHERE y = 2)",
        "SELECT userid FROM c WHERE userid IN (SELECT y FROM unnest([7]) AS u (y))",
        "SELECT y FROM unnest([7]) AS u (y), c",
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 FROM (SELECT (y) FROM b) q WHERE y = 6)",
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 FROM (SELECT y::text FROM b) q WHERE y = '6')",
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 FROM information_schema.tables WHERE y = 1)",
        "SELECT y FROM information_schema.tables, c",
        "SELECT userid FROM c WHERE EXISTS \
         (SELECT 1 FROM (SELECT * FROM information_schema.tables) q WHERE y = 1)",
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 FROM range(3) AS r (y) WHERE y = 1)",
        "SELECT userid FROM c WHERE EXISTS (SELECT 1 AS a FROM t |> EXTEND 2 AS y |> WHERE y = 2)",
    ] {
        let (before, after) = folded(sql);
        assert_eq!(after, before);
    }
    for (sql, wanted) in [
        (
            "SELECT USERID, n FROM t, unnest([1]) AS u (n)",
            r#"SELECT "userId", n FROM"#,
        ),
        (
            "SELECT x.USERID FROM (t JOIN b ON true) AS x",
            r#"SELECT x."userId" FROM"#,
        ),
        (
            "SELECT plain, (SELECT t.USERID FROM information_schema.tables i LIMIT 1) FROM t",
            r#"SELECT plain, (SELECT t."userId" FROM"#,
        ),
        // What has no name keeps its place.
        (
            "SELECT q.f.postcode FROM (SELECT 1 + 1, * FROM t) AS q (a, b, f, c, d, e)",
            r#"SELECT q.f."postCode" FROM"#,
        ),
        (
            "SELECT q.f.postcode FROM (SELECT 1 + 1, * FROM t) AS q (a, f, b, c, d, e)",
            "SELECT q.f.postcode FROM",
        ),
    ] {
        let (_, after) = folded(sql);
        assert!(after.starts_with(wanted), "{sql}: {after}");
    }
}
