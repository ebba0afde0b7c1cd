//! Columns that a statement shows more than once.

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use datafusion::arrow::ipc::reader::StreamReader;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::settings::QuerySettings;
use crate::testing::{TestTable, World};

const TABLE: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "b", "type": "string", "required": false},
    {"id": 3, "name": "userId", "type": "int", "required": false}]}"#;

async fn world() -> (World, TestTable) {
    let world = World::new(QuerySettings::default()).await;
    let table = world.table("t", TABLE, 1).await;
    table.push(0, &[json!({"id": 1, "b": "x", "userId": 5})]);
    (world, table)
}

async fn columns(world: &World, sql: &str) -> (Value, Value) {
    let (parts, mut body) = world.sql(json!({ "sql": sql })).await;
    assert_eq!(parts.status, 200, "{sql}: {body}");
    let names = body["columns"].as_array().unwrap().iter();
    let names = names.map(|column| column["name"].clone()).collect();
    (names, body["rows"].take())
}

#[tokio::test]
async fn every_column_has_a_name_of_its_own() {
    let (world, _table) = world().await;
    for (sql, names, row) in [
        ("SELECT b, b FROM t", json!(["b", "b_2"]), json!(["x", "x"])),
        (
            "SELECT b, B, t.b FROM t",
            json!(["b", "b_2", "b_3"]),
            json!(["x", "x", "x"]),
        ),
        (
            "SELECT *, id FROM t",
            json!(["id", "b", "userId", "id_2"]),
            json!([1, "x", 5, 1]),
        ),
        (
            "SELECT userid, * FROM t",
            json!(["userId_2", "id", "b", "userId"]),
            json!([5, 1, "x", 5]),
        ),
        (
            "SELECT t.*, t.id, b FROM t",
            json!(["id", "b", "userId", "id_2", "b_2"]),
            json!([1, "x", 5, 1, "x"]),
        ),
        (
            "SELECT id AS b, b FROM t",
            json!(["b", "b_2"]),
            json!([1, "x"]),
        ),
        (
            "SELECT b, id AS b, b AS b_2 FROM t",
            json!(["b", "b_3", "b_2"]),
            json!(["x", 1, "x"]),
        ),
        (
            "SELECT count(*), COUNT(*) FROM t",
            json!(["count(*)", "count(*)_2"]),
            json!([1, 1]),
        ),
        (
            "SELECT DISTINCT b, b FROM t ORDER BY b",
            json!(["b", "b_2"]),
            json!(["x", "x"]),
        ),
        (
            "SELECT b, b FROM t GROUP BY b HAVING count(*) = 1",
            json!(["b", "b_2"]),
            json!(["x", "x"]),
        ),
        (
            "SELECT b, b FROM t WHERE id = 1",
            json!(["b", "b_2"]),
            json!(["x", "x"]),
        ),
        (
            "SELECT b, b FROM t UNION ALL SELECT b, b FROM t WHERE id = 9",
            json!(["b", "b_2"]),
            json!(["x", "x"]),
        ),
        (
            "WITH w AS (SELECT id FROM t) SELECT id, id FROM w",
            json!(["id", "id_2"]),
            json!([1, 1]),
        ),
        (
            "SELECT t.b, u.b FROM t JOIN t u ON t.id = u.id",
            json!(["b", "b_2"]),
            json!(["x", "x"]),
        ),
        (
            "SELECT \"userId\", userid AS \"UserId\" FROM t",
            json!(["userId", "UserId"]),
            json!([5, 5]),
        ),
    ] {
        let (shown, rows) = columns(&world, sql).await;
        assert_eq!((shown, rows), (names, json!([row])), "{sql}");
    }
    let plan = world.rows("EXPLAIN SELECT b, b FROM t WHERE id = 1").await;
    assert!(plan.to_string().contains("physical_plan"), "{plan}");
    // Within another query a name has a meaning.
    let inner = json!({"sql": "SELECT b FROM (SELECT b, b FROM t)"});
    assert_eq!(world.code(inner).await.0, 400);
}

async fn answered(world: &World, accept: &str) -> Vec<u8> {
    let body = json!({"sql": "SELECT *, id, b AS id FROM t"}).to_string();
    let request = Request::post("/v1/sql")
        .header("content-type", "application/json")
        .header("accept", accept)
        .body(Body::from(body))
        .unwrap();
    let (parts, bytes) = world.http(request).await;
    assert_eq!(parts.status, 200, "{}", String::from_utf8_lossy(&bytes));
    bytes
}

#[tokio::test]
async fn every_format_tells_repeated_columns_apart() {
    let (world, _table) = world().await;
    let wanted = ["id", "b", "userId", "id_2", "id_3"];
    let csv = String::from_utf8(answered(&world, "text/csv").await).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines, ["id,b,userId,id_2,id_3", "1,x,5,1,x"]);
    let line = answered(&world, "application/x-ndjson").await;
    let row: Value =
        serde_json::from_slice(line.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!(
        row,
        json!({"id": 1, "b": "x", "userId": 5, "id_2": 1, "id_3": "x"})
    );
    let names = |schema: &datafusion::arrow::datatypes::Schema| -> Vec<String> {
        let fields = schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    };
    let bytes = answered(&world, "application/vnd.apache.arrow.stream").await;
    let stream = StreamReader::try_new(&bytes[..], None).unwrap();
    assert_eq!(names(&stream.schema()), wanted);
    let bytes = answered(&world, "application/vnd.apache.parquet").await;
    let file = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    assert_eq!(names(file.schema()), wanted);
}
