//! Decimals beside numbers, in the tail and in files.

use super::*;

#[tokio::test]
async fn a_decimal_is_found_by_the_number_that_was_written() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true},
        {"name": "k", "type": "decimal(10,2)", "required": false},
        {"name": "f", "type": "double", "required": false}]}"#;
    let mut table = world.table("d", schema, 1).await;
    let rows: Vec<Value> = (0..200)
        .map(|id| json!({"id": id, "k": format!("{}.{:02}", id / 7, id % 100), "f": 1.5}))
        .collect();
    table.push(0, &rows);
    for flushed in [false, true] {
        if flushed {
            table.flush(0, 1).await;
        }
        for id in 0..200 {
            let number = format!("{}.{:02}", id / 7, id % 100);
            let sql = format!(
                "SELECT count(*) FILTER (WHERE k = {number} AND id = {id}), \
                 count(*) FILTER (WHERE k IN ({number}, 1000000.5) AND id = {id}), \
                 count(*) FILTER (WHERE k BETWEEN {number} AND {number} AND id = {id}), \
                 count(*) FILTER (WHERE k <> {number} AND id = {id}) FROM d"
            );
            assert_eq!(world.rows(&sql).await, json!([[1, 1, 1, 0]]), "{sql}");
        }
        // What no decimal can be compares as a float.
        let sql = "SELECT count(*) FILTER (WHERE k < 1e20), count(*) FILTER (WHERE k > f), \
             count(*) FILTER (WHERE k < CAST('NaN' AS double)), \
             count(*) FILTER (WHERE k > -1e300) FROM d";
        let more = rows
            .iter()
            .filter(|row| row["k"].as_str().unwrap().parse::<f64>().unwrap() > 1.5);
        assert_eq!(
            world.rows(sql).await,
            json!([[200, more.count(), 200, 200]])
        );
    }
}
