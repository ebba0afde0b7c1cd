//! Tables read back by readers that we did not write: the same rows and the right types.

use anyhow::{Context, Result};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use serde_json::{Value, json};
use tidelake_testkit::{Readers, S3Server};
use tidelake_tests::{Client, Installation};

use crate::others;

fn every_type() -> Value {
    let field = |id: u32, name: &str, ty: Value| json!({"id": id, "name": name, "required": id == 1, "type": ty});
    json!({"type": "struct", "schema-id": 0, "fields": [
        field(1, "id", json!("long")),
        field(2, "flag", json!("boolean")),
        field(3, "small", json!("int")),
        field(4, "ratio", json!("float")),
        field(5, "value", json!("double")),
        field(6, "price", json!("decimal(12,3)")),
        field(7, "day", json!("date")),
        field(8, "clock", json!("time")),
        field(9, "local", json!("timestamp")),
        field(10, "instant", json!("timestamptz")),
        field(11, "fine", json!("timestamp_ns")),
        field(12, "text", json!("string")),
        field(13, "uid", json!("uuid")),
        field(14, "code", json!("fixed[4]")),
        field(15, "raw", json!("binary")),
        field(16, "tags", json!({"type": "list", "element-id": 17, "element": "string", "element-required": false})),
        field(18, "attrs", json!({"type": "map", "key-id": 19, "key": "string", "value-id": 20, "value": "long", "value-required": false})),
        field(21, "pt", json!({"type": "struct", "fields": [
            {"id": 22, "name": "x", "required": false, "type": "double"},
            {"id": 23, "name": "label", "required": false, "type": "string"}]})),
    ]})
}

const RECORDS: [&str; 3] = [
    r#"{"id":1,"flag":true,"small":-7,"ratio":0.5,"value":1e300,"price":"123456789.125","day":"2026-11-21","clock":"12:34:56.789012","local":"2026-11-21T12:34:56.000001","instant":"2026-11-21T12:34:56.25+02:00","fine":"2026-11-21T12:34:56.123456789","text":"Grüße, 世界","uid":"123E4567-e89b-12d3-a456-426614174000","code":"AAECAw==","raw":"//4=","tags":["a",null,""],"attrs":{"k":5,"n":null},"pt":{"x":1.5,"label":"here"}}"#,
    r#"{"id":2}"#,
    r#"{"id":9223372036854775807,"flag":false,"small":2147483647,"ratio":-1.25,"value":-0.0,"price":"-0.001","day":"1969-12-31","clock":"00:00:00","local":"1969-12-31T23:59:59.999999","instant":"1970-01-01T00:00:00Z","fine":"1969-12-31T23:59:59.999999999","text":"","uid":"00000000-0000-0000-0000-000000000000","code":"/////w==","raw":"","tags":[],"attrs":{},"pt":{"x":null,"label":null}}"#,
];

/// What Tidelake's SQL gives: the rows in JSON, and the declared types.
async fn ours(client: &Client) -> Result<(Vec<Value>, Vec<String>)> {
    let answer = client
        .sql_with("SELECT * FROM t ORDER BY id", json!({}))
        .await?
        .ok()?;
    let columns = answer["columns"].as_array().context("no columns")?;
    let types = columns
        .iter()
        .map(|column| column["type"].to_string())
        .collect();
    Ok((answer["rows"].as_array().context("no rows")?.clone(), types))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_comes_back_as_it_was_declared_and_other_readers_agree() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    client.create_table("t", &every_type(), 2).await.unwrap();
    client
        .ndjson("t", &RECORDS.join("\n"))
        .await
        .unwrap()
        .ok()
        .unwrap();
    let (fresh, fresh_types) = ours(client).await.unwrap();
    client.flush("t").await.unwrap();
    let (rows, types) = ours(client).await.unwrap();
    assert_eq!(
        (&fresh, &fresh_types),
        (&rows, &types),
        "from the tail as from the files"
    );
    assert_eq!(rows.len(), 3);
    let row = |n: usize, column: usize| rows[n][column].clone();
    assert_eq!(row(0, 5), "123456789.125");
    assert_eq!(row(0, 7), "12:34:56.789012");
    assert_eq!(row(0, 9), "2026-11-21T10:34:56.250Z");
    assert_eq!(row(0, 10), "2026-11-21T12:34:56.123456789");
    assert_eq!(row(0, 12), "123e4567-e89b-12d3-a456-426614174000");
    assert_eq!(row(0, 14), "//4=");
    assert_eq!(row(2, 10), "1969-12-31T23:59:59.999999999");
    assert_eq!(row(2, 0).as_i64(), Some(i64::MAX));
    assert!(
        (1..18).all(|column| row(1, column).is_null()),
        "{}",
        rows[1]
    );

    let described = client.get("/v1/tables/t").await.unwrap().ok().unwrap();
    assert_eq!(described["schema"]["fields"], every_type()["fields"]);

    let folder = local.table_folder("t").unwrap();
    let kernel = others::kernel(&folder, None).unwrap();
    assert_eq!(kernel.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
    let schema = kernel[0].schema();
    assert_eq!(schema.fields().len(), 18, "no hidden column shows");
    let kernel_type = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
    assert_eq!(kernel_type("clock"), DataType::Int64);
    assert_eq!(kernel_type("price"), DataType::Decimal128(12, 3));
    let ids: i64 = kernel
        .iter()
        .flat_map(|batch| {
            batch
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        })
        .fold(0, i64::wrapping_add);
    assert_eq!(ids, 3i64.wrapping_add(i64::MAX));

    let Some(readers) = Readers::new().unwrap() else {
        return;
    };
    let path = folder.display().to_string();
    let sql = "SELECT * FROM t ORDER BY id";
    let duckdb = readers.duckdb(&path, None, sql).await.unwrap();
    let delta_rs = readers.delta_rs(&path, None, sql).await.unwrap();
    for (name, found) in [("duckdb", &duckdb), ("delta-rs", &delta_rs)] {
        assert_eq!(found.len(), 3, "{name}: {found:?}");
        let first = &found[0];
        let said = format!("{name}: {first}");
        assert_eq!(first.as_object().unwrap().len(), 18, "{said}");
        assert_eq!(first["price"], "123456789.125", "{said}");
        assert_eq!(first["day"], "2026-11-21", "{said}");
        assert_eq!(first["clock"], 45_296_789_012_i64, "{said}");
        assert_eq!(first["local"], "2026-11-21T12:34:56.000001", "{said}");
        assert_eq!(first["instant"], "2026-11-21T10:34:56.250000Z", "{said}");
        assert_eq!(first["fine"], 1_795_264_496_123_456_789_i64, "{said}");
        assert_eq!(first["text"], "Grüße, 世界", "{said}");
        assert_eq!(
            first["uid"], "123e4567-e89b-12d3-a456-426614174000",
            "{said}"
        );
        assert_eq!(first["code"], "AAECAw==", "{said}");
        assert_eq!(first["raw"], "//4=", "{said}");
        assert_eq!(first["tags"], json!(["a", null, ""]), "{said}");
        assert_eq!(first["attrs"], json!({"k": 5, "n": null}), "{said}");
        assert_eq!(first["pt"], json!({"x": 1.5, "label": "here"}), "{said}");
        assert_eq!(found[1]["text"], Value::Null, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_reads_the_same_in_every_reader() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    client
        .create_table("t", &crate::numbered(), 3)
        .await
        .unwrap();
    let Some(readers) = Readers::new().unwrap() else {
        return;
    };
    let mut versions = Vec::new();
    for round in 0..4u64 {
        let ids = round * 100..round * 100 + 37 * (round + 1);
        client
            .ndjson("t", &crate::lines(ids))
            .await
            .unwrap()
            .ok()
            .unwrap();
        let flushed = client.flush("t").await.unwrap();
        versions.push(flushed["version"].as_u64().unwrap());
    }
    let path = local.table_folder("t").unwrap().display().to_string();
    let sql = "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT note) AS d FROM t";
    for version in versions {
        let ours = client
            .sql_with(sql, json!({"as_of_version": version}))
            .await
            .unwrap();
        let ours = &ours.ok().unwrap()["rows"][0];
        let expected = json!([ours[0], ours[1].to_string().trim_matches('"'), ours[2]]);
        for reader in ["duckdb", "delta-rs"] {
            let rows = match reader {
                "duckdb" => readers.duckdb(&path, Some(version), sql).await.unwrap(),
                _ => readers.delta_rs(&path, Some(version), sql).await.unwrap(),
            };
            let row = &rows[0];
            let sum = row["s"].to_string();
            let found = json!([row["n"], sum.trim_matches('"'), row["d"]]);
            assert_eq!(found, expected, "{reader} at version {version}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pipeline_works_on_an_s3_store() {
    let Some(server) = S3Server::start(&["lake"]).await.unwrap() else {
        return;
    };
    let url = server.url("lake", "root");
    let environment = server.env();
    let pairs: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut local = Installation::start_with(&["--store", &url], &pairs)
        .await
        .unwrap();
    local
        .client
        .create_table("t", &crate::numbered(), 2)
        .await
        .unwrap();
    local
        .client
        .ndjson("t", &crate::lines(0..500))
        .await
        .unwrap()
        .ok()
        .unwrap();
    local.client.flush("t").await.unwrap();
    local
        .client
        .ndjson("t", &crate::lines(500..600))
        .await
        .unwrap()
        .ok()
        .unwrap();
    local.process.kill().unwrap();
    local.restart().await.unwrap();
    let ids = local
        .client
        .ids("SELECT id FROM t ORDER BY id", "latest")
        .await
        .unwrap();
    assert_eq!(ids, (0..600).collect::<Vec<_>>());
    local.client.flush("t").await.unwrap();
    let Some(readers) = Readers::new().unwrap() else {
        return;
    };
    let readers = readers.with_env(server.env());
    let path = format!("{url}/default/t");
    let rows = readers
        .delta_rs(&path, None, "SELECT count(*) AS n FROM t")
        .await
        .unwrap();
    assert_eq!(rows[0]["n"], 600);
}
