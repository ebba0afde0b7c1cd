//! Apache Spark reads what we wrote, and we read what it changed. Slow: see `scripts/test-spark`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidelake_tests::{Client, Installation};

const SCRIPT: &str = include_str!("spark.py");

/// What a Spark statement prints, one JSON object a row.
async fn spark(folder: &str, version: Option<u64>, sql: &str) -> Result<Vec<Value>> {
    let home = std::env::var("TIDELAKE_SPARK").context("run scripts/test-spark")?;
    let version = version.map_or(String::new(), |version| version.to_string());
    let output = tokio::process::Command::new(format!("{home}/venv/bin/python"))
        .args(["-c", SCRIPT, &format!("{home}/jars"), folder, &version, sql])
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows = text.lines().filter(|line| line.starts_with('{'));
    rows.map(|line| Ok(serde_json::from_str(line)?)).collect()
}

async fn ours(client: &Client, sql: &str, version: Option<u64>) -> Result<Value> {
    let request = match version {
        Some(version) => json!({"as_of_version": version}),
        None => json!({"consistency": "committed"}),
    };
    Ok(client.sql_with(sql, request).await?.ok()?["rows"].clone())
}

fn values(rows: &[Value]) -> Value {
    let row = |row: &Value| json!([row["id"], row["v"], row["note"]]);
    rows.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: run scripts/test-spark"]
async fn spark_reads_vectors_and_its_own_changes_come_back() {
    let local = Installation::start().await.unwrap();
    let client = &local.client;
    client
        .create_keyed("t", &crate::keyed_load::keyed(), 2)
        .await
        .unwrap();
    for round in 0..4u64 {
        let lines: String = (0..3000)
            .map(|at| (at * 7 + round * 13) % 4000)
            .map(|id| {
                format!(
                    "{{\"id\":{id},\"v\":{},\"note\":\"n{}\"}}\n",
                    id + round,
                    id % 5
                )
            })
            .collect();
        client.ndjson("t", &lines).await.unwrap().ok().unwrap();
        client.flush("t").await.unwrap();
    }
    let folder = local.table_folder("t").unwrap().display().to_string();
    let sql = "SELECT id, v, note FROM t ORDER BY id";
    let newest = client
        .ids("SELECT max(version) FROM table_history('t')", "committed")
        .await
        .unwrap()[0];
    for version in [newest - 1, newest] {
        let theirs = spark(&folder, Some(version), sql).await.unwrap();
        assert!(theirs.len() > 3000);
        assert_eq!(
            values(&theirs),
            ours(client, sql, Some(version)).await.unwrap()
        );
    }
    // Spark deletes and updates; we go on from there.
    spark(&folder, None, "DELETE FROM t WHERE id % 10 = 3")
        .await
        .unwrap();
    spark(&folder, None, "UPDATE t SET v = -1 WHERE id % 10 = 4")
        .await
        .unwrap();
    let theirs = spark(&folder, None, sql).await.unwrap();
    assert_eq!(values(&theirs), ours(client, sql, None).await.unwrap());
    let lines: String = (0..200)
        .map(|id| format!("{{\"id\":{id},\"v\":77,\"note\":\"back\"}}\n"))
        .collect();
    client.ndjson("t", &lines).await.unwrap().ok().unwrap();
    client.flush("t").await.unwrap();
    let theirs = spark(&folder, None, sql).await.unwrap();
    assert_eq!(values(&theirs), ours(client, sql, None).await.unwrap());
    let back = theirs.iter().filter(|row| row["v"] == 77);
    assert_eq!(back.count(), 200, "each key once, whoever wrote it last");
}
