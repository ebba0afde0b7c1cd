//! A write's token makes every query node show it at once; one that is not covered is told apart.

use anyhow::{Result, ensure};
use serde_json::json;
use tidelake_core::{Bucket, Token, Watermark};
use tidelake_testkit::EmbeddedBroker;
use tidelake_tests::{Client, Fleet};

use crate::upsert_load::schema;

const FLUSHER: [(&str, &str); 2] = [
    ("TIDELAKE__FLUSH_AGE_MS", "250"),
    ("TIDELAKE__DISCOVERY_MS", "200"),
];
const KEYS: u64 = 12;

/// All keys have the value, by SQL and by lookup.
async fn shows(client: &Client, token: &str, value: u64) -> Result<()> {
    let sql = "SELECT count(*), min(v), max(v) FROM t";
    let answer = client
        .sql_with(sql, json!({ "token": token }))
        .await?
        .ok()?;
    let row = &answer["rows"][0];
    ensure!(
        *row == json!([KEYS, value, value]),
        "SQL: {row} for {value}"
    );
    let keys: Vec<u64> = (0..KEYS).collect();
    let request = json!({ "keys": keys, "token": token });
    let answer = client.lookup("t", &request).await?.ok()?;
    for row in answer["rows"].as_array().into_iter().flatten() {
        ensure!(row["v"] == value, "lookup: {row} for {value}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_seen_at_once_on_every_node_by_its_token() {
    let broker = EmbeddedBroker::start().await.unwrap();
    let mut fleet = Fleet::start(&broker.bootstrap(), &FLUSHER).await.unwrap();
    let mut second = fleet.services.start("query-api", &[]).await.unwrap();
    let near = fleet.client().unwrap();
    let far = fleet.services.client(&fleet.gateway, &second).unwrap();
    near.create_upsert("t", &schema(), 3).await.unwrap();
    for value in 0..60 {
        let lines: String = (0..KEYS)
            .map(|id| format!("{{\"id\":{id},\"v\":{value}}}\n"))
            .collect();
        let accepted = near.ndjson("t", &lines).await.unwrap().ok().unwrap();
        let token = accepted["token"].as_str().unwrap();
        tokio::try_join!(shows(&near, token, value), shows(&far, token, value)).unwrap();
        if value % 20 == 7 {
            // What is committed waits for the token.
            let request = json!({ "token": token, "consistency": "committed" });
            for client in [&near, &far] {
                let sql = "SELECT min(v) FROM t";
                let answer = client.sql_with(sql, request.clone()).await.unwrap();
                assert_eq!(answer.ok().unwrap()["rows"], json!([[value]]));
            }
        }
    }

    let token = Token::new([(Bucket(1), Watermark(1_000_000))]).to_string();
    for client in [&near, &far] {
        let request = json!({ "token": token, "timeout_ms": 2000 });
        let sql = client
            .sql_with("SELECT count(*) FROM t", request)
            .await
            .unwrap();
        let request = json!({ "keys": [1], "token": token, "timeout_ms": 2000 });
        let lookup = client.lookup("t", &request).await.unwrap();
        for answer in [sql, lookup] {
            assert_eq!((answer.status, answer.code()), (503, "TOKEN_NOT_COVERED"));
            let detail = answer.body["detail"].as_str().unwrap_or_default();
            assert!(
                detail.contains("bucket 1") && detail.contains("1000000"),
                "{detail}"
            );
        }
    }
    second.stop().await.unwrap();
    fleet.stop().await.unwrap();
}
