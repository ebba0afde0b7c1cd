//! What DataFusion's rules would make of a plan, and must not.

use super::*;

#[tokio::test]
async fn aggregates_stand_on_unions_of_what_is_computed() {
    let (world, _table) = world().await;
    let two = "generate_series(1, 2)";
    for (sql, answer) in [
        (
            format!(
                "SELECT g, count(*) FROM (SELECT 1 g UNION ALL SELECT -value FROM {two}) GROUP BY g ORDER BY g"
            ),
            json!([[-2, 1], [-1, 1], [1, 1]]),
        ),
        (
            format!("SELECT value FROM {two} UNION SELECT value * 2 FROM {two} ORDER BY 1"),
            json!([[1], [2], [4]]),
        ),
        (
            format!(
                "SELECT g, count(*) FROM (SELECT 'a' g UNION ALL SELECT 'b' || value FROM {two}) \
                 GROUP BY g ORDER BY g"
            ),
            json!([["a", 1], ["b1", 1], ["b2", 1]]),
        ),
        (
            "SELECT count(*) FROM (SELECT id FROM orders UNION SELECT id - 1 FROM orders)".into(),
            json!([[16]]),
        ),
        (
            "SELECT max(n) FROM (SELECT id n FROM orders UNION ALL SELECT id * 3 FROM orders)"
                .into(),
            json!([[42]]),
        ),
    ] {
        assert_eq!(world.rows(&sql).await, answer, "{sql}");
    }
}

#[tokio::test]
async fn an_aggregate_does_not_lose_the_rows_that_another_has_no_need_of() {
    let (world, _table) = world().await;
    for (sql, answer) in [
        ("max(concat(id, 'x')), min(id)", json!([["9x", 0]])),
        ("min(id), max(abs(id - 3))", json!([[0, 6]])),
        ("max(id), min(id % 7)", json!([[9, 0]])),
    ] {
        let sql = format!("SELECT {sql} FROM orders");
        let body = json!({"sql": sql, "consistency": "committed"});
        assert_eq!(world.rows_of(body).await, answer, "{sql}");
    }
}
