//! Answers as of positions that were seen before, whatever came since.

use datafusion::common::ScalarValue;
use serde_json::{Value, json};
use tidelake_core::{TableVersion, TenantId};

use crate::engine::Seen;
use crate::error::QueryError;
use crate::problem::Condition;
use crate::request::Request;
use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

const UPSERTS: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "note", "type": "string", "required": false}]}"#;
const APPENDS: &str = r#"{"type": "struct", "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "note", "type": "string", "required": false}]}"#;
const SQL: &str = "SELECT concat(id, ':', note) FROM t ORDER BY 1";

/// The rows' texts, and what was seen.
async fn ask(
    world: &World,
    sql: &str,
    exactly: &[Seen],
) -> Result<(Vec<String>, Vec<Seen>), QueryError> {
    let request = Request {
        exactly: exactly.to_vec(),
        ..Request::new(sql, world.engine.settings())
    };
    let id = world.engine.fresh_id();
    let tenant = TenantId::default();
    let mut answer = world.engine.query(&tenant, id, &request).await?;
    let mut texts = Vec::new();
    while let Some(batch) = answer.rows.next().await? {
        for row in 0..batch.num_rows() {
            let cell = ScalarValue::try_from_array(batch.column(0), row)?;
            texts.push(cell.to_string());
        }
    }
    Ok((texts, answer.seen))
}

fn rows(ids: impl IntoIterator<Item = i64>, note: &str) -> Vec<Value> {
    let rows = ids.into_iter().map(|id| json!({"id": id, "note": note}));
    rows.collect()
}

/// Everything that was seen on the way shows again exactly, though the follower is elsewhere.
async fn replay(world: &World, told: &[(Vec<String>, Vec<Seen>)]) {
    for (number, (texts, seen)) in told.iter().enumerate() {
        let again = ask(world, SQL, seen).await;
        let (found, as_seen) = again.unwrap_or_else(|error| panic!("{number} {seen:?}: {error}"));
        assert_eq!((&found, &as_seen), (texts, seen), "{number}");
        let (counted, _) = ask(world, "SELECT count(*) FROM t", seen).await.unwrap();
        assert_eq!(counted, [texts.len().to_string()], "{number} {seen:?}");
        let (one, _) = ask(world, "SELECT note FROM t WHERE id = 3", seen)
            .await
            .unwrap();
        let wanted = texts.iter().filter_map(|text| text.strip_prefix("3:"));
        assert_eq!(one, Vec::from_iter(wanted), "{number} {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upsert_table_shows_again_what_was_seen_of_it() {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", UPSERTS, 1).await;
    let topic = table.entry.topic.clone();
    let mut told = vec![ask(&world, SQL, &[]).await.unwrap()];
    let mut end = 0;
    for round in 0..6i64 {
        for (part, ids) in [(0, 0..6), (1, 2..5), (2, 3..4)] {
            table.push(0, &rows(ids, &format!("v{round}.{part}")));
            told.push(ask(&world, SQL, &[]).await.unwrap());
        }
        world
            .log
            .push(&topic, 0, Wire::tombstone(&(round % 5).to_string()));
        end += 11;
        told.push(ask(&world, SQL, &[]).await.unwrap());
        replay(&world, &told[told.len() - 4..]).await;
        if round % 2 == 0 {
            // Not all of it.
            table.flush_upserts(&[(0, end - 2)]).await;
            told.push(ask(&world, SQL, &[]).await.unwrap());
        }
    }
    table.flush_upserts(&[(0, end)]).await;
    replay(&world, &told).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_table_shows_again_what_was_seen_of_it() {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", APPENDS, 2).await;
    let mut told = vec![ask(&world, SQL, &[]).await.unwrap()];
    let mut next = 0;
    for round in 0..5i64 {
        for bucket in 0..2 {
            table.push(bucket, &rows(next..next + 3, "x"));
            next += 3;
            told.push(ask(&world, SQL, &[]).await.unwrap());
        }
        if round % 2 == 1 {
            table.flush(0, (round + 1) * 3 - 1).await;
            table.flush(1, round * 3).await;
            told.push(ask(&world, SQL, &[]).await.unwrap());
        }
        replay(&world, &told).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_follower_has_is_not_read_again() {
    let world = World::new(QuerySettings::default()).await;
    let table = world.table("t", APPENDS, 2).await;
    let mut told = Vec::new();
    for round in 0..4 {
        table.push(round % 2, &rows(0..3, "x"));
        told.push(ask(&world, SQL, &[]).await.unwrap());
    }
    let delivered = world.log.delivered(&table.entry.topic);
    replay(&world, &told).await;
    assert_eq!(world.log.delivered(&table.entry.topic), delivered);

    let (world, table, seen) = flushed().await;
    table.push(0, &rows(0..6, "c"));
    ask(&world, SQL, &[]).await.unwrap();
    let key_files = || world.engine.metrics().tail_key_files.get();
    let read = key_files();
    let (texts, _) = ask(&world, SQL, &[seen]).await.unwrap();
    assert_eq!(texts, ["0:a", "1:a", "2:b", "3:b", "4:b", "5:b"]);
    assert_eq!(key_files(), read);
}

async fn refused(world: &World, seen: &[Seen]) -> Condition {
    ask(world, SQL, seen).await.unwrap_err().condition()
}

async fn flushed() -> (World, TestTable, Seen) {
    let world = World::new(QuerySettings::default()).await;
    let mut table = world.table("t", UPSERTS, 1).await;
    table.push(0, &rows(0..4, "a"));
    table.flush_upserts(&[(0, 4)]).await;
    table.push(0, &rows(2..6, "b"));
    let (_, mut seen) = ask(&world, SQL, &[]).await.unwrap();
    (world, table, seen.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_t_be_read_exactly_is_an_error_that_says_why() {
    let (world, table, seen) = flushed().await;
    let at = |version: u64, offset: i64| {
        let mut seen = seen.clone();
        seen.version = TableVersion(version);
        seen.positions.values_mut().for_each(|mark| mark.0 = offset);
        [seen]
    };
    assert_eq!(seen.positions.values().next().unwrap().0, 8);
    let (texts, _) = ask(&world, SQL, &at(seen.version.0, 6)).await.unwrap();
    assert_eq!(texts, ["0:a", "1:a", "2:b", "3:b"]);
    let (texts, _) = ask(&world, SQL, &at(0, 3)).await.unwrap();
    assert_eq!(texts, ["0:a", "1:a", "2:a"]);
    // The version holds more than that.
    assert_eq!(
        refused(&world, &at(seen.version.0, 3)).await,
        Condition::Request
    );
    assert_eq!(refused(&world, &at(99, 8)).await, Condition::NoVersion);
    assert_eq!(
        refused(&world, &at(seen.version.0, 9)).await,
        Condition::TailBehind
    );
    let mut short = seen.clone();
    short.positions.clear();
    assert_eq!(refused(&world, &[short]).await, Condition::Request);
    assert_eq!(
        refused(&world, &[seen.clone(), seen.clone()]).await,
        Condition::Request
    );
    let mut other = seen.clone();
    other.table.table = tidelake_core::TableName::new("u").unwrap();
    assert_eq!(refused(&world, &[other]).await, Condition::Request);
    // Retention has taken what lay behind the first version.
    world.log.cut(&table.entry.topic, 0, 4);
    assert_eq!(refused(&world, &at(0, 3)).await, Condition::PositionGone);
    let (texts, _) = ask(&world, SQL, &at(seen.version.0, 5)).await.unwrap();
    assert_eq!(texts, ["0:a", "1:a", "2:b", "3:a"]);
    // A topic of the same name is not the table's.
    world.log.remake_topic(&table.entry.topic);
    assert_eq!(
        refused(&world, &at(seen.version.0, 6)).await,
        Condition::TopicReplaced
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_is_read_again_is_bounded_as_any() {
    let (world, table, seen) = flushed().await;
    drop((world, table));
    let settings = QuerySettings {
        tail_bytes_max: 100_000,
        ..QuerySettings::default()
    };
    let world = World::new(settings).await;
    let mut table = world.table("t", UPSERTS, 1).await;
    let note = "x".repeat(1000);
    for from in 0..10i64 {
        table.push(0, &rows(from * 40..from * 40 + 40, &note));
        let end = (from + 1) * 40;
        table.flush_upserts(&[(0, end)]).await;
    }
    let mut first = seen;
    first.version = TableVersion(0);
    first.positions.values_mut().for_each(|mark| mark.0 = 400);
    assert_eq!(
        refused(&world, &[first.clone()]).await,
        Condition::TailTooLarge
    );
    first.positions.values_mut().for_each(|mark| mark.0 = 20);
    let (texts, _) = ask(&world, SQL, &[first]).await.unwrap();
    assert_eq!(texts.len(), 20);
}
