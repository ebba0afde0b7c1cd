//! Lookups as Arrow batches beside the same lookups as JSON.

use tidelake_core::TenantId;

use super::*;
use crate::error::QueryError;
use crate::formats::OddFloats;
use crate::formats::objects::Objects;
use crate::lookup::KeyedBatches;
use crate::lookup::ask::{Ask, Wanted};
use crate::lookup::serve::Answered;

async fn ask(world: &World, table: &str, wanted: &Wanted<'_>) -> Answered {
    let ask = Ask::new(table, world.engine.settings()).unwrap();
    let answered = world
        .engine
        .lookup(&TenantId::default(), &ask, wanted)
        .await;
    answered.unwrap()
}

fn raw(keys: &Value) -> Vec<Box<serde_json::value::RawValue>> {
    let keys = keys.as_array().unwrap().iter();
    keys.map(|key| serde_json::value::to_raw_value(key).unwrap())
        .collect()
}

/// As the route has them: a null for each key without a row.
fn rendered(made: &KeyedBatches) -> Value {
    let mut rows = made.batches.iter().flat_map(|batch| {
        assert_eq!(batch.schema(), made.schema);
        let objects = Objects::new(batch, OddFloats::default()).unwrap();
        let rows = (0..batch.num_rows()).map(|row| {
            let mut out = Vec::new();
            objects.write(row, &mut out);
            serde_json::from_slice(&out).unwrap()
        });
        rows.collect::<Vec<Value>>()
    });
    let all = made.present.iter().map(|present| match present {
        true => rows.next().expect("a row for each key that has one"),
        false => Value::Null,
    });
    let all = all.collect();
    assert!(rows.next().is_none());
    all
}

#[tokio::test]
async fn batches_have_the_rows_that_json_has_in_the_order_of_their_keys() {
    let mut case = Case::new(QuerySettings::default()).await;
    let keys: Vec<Key> = (0..IDS).map(|id| ("eu".to_owned(), id)).collect();
    for round in 0..2 {
        for key in &keys[round..] {
            case.put(key, &format!("v{round}"));
        }
        let shares = [1.0, 1.0];
        let announced = true;
        case.step(&Step::Flush { shares, announced }).await;
    }
    case.put(&keys[1], "fresh");
    case.put(&("us".to_owned(), 7), "fresh");
    let keys = json!([
        {"region": "eu", "id": 1}, {"region": "eu", "id": 0}, {"region": "nowhere", "id": 1},
        {"region": "us", "id": 7}, {"region": "eu", "id": 1}, {"region": "eu", "id": 2},
    ]);
    let (_, body) = case
        .world
        .post("/v1/tables/orders/lookup", &json!({ "keys": keys }))
        .await;
    let texts = raw(&keys);
    let texts = texts.iter().map(AsRef::as_ref).collect();
    let mut found = ask(&case.world, "orders", &Wanted::Json(texts)).await;
    let made = found.batches(usize::MAX).unwrap();
    assert_eq!(rendered(&made), body["rows"]);
    assert_eq!(body["version"]["orders"], found.seen.version.0);
    // The columns are those that SQL answers with.
    let sql = crate::request::Request::new("SELECT * FROM orders", case.world.engine.settings());
    let id = case.world.engine.fresh_id();
    let answer = case
        .world
        .engine
        .query(&TenantId::default(), id, &sql)
        .await;
    let types = |schema: &datafusion::arrow::datatypes::Schema| {
        let fields = schema.fields().iter();
        fields
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(types(&made.schema), types(&answer.unwrap().schema));
    let none = ask(&case.world, "orders", &Wanted::Json(Vec::new()))
        .await
        .batches(10)
        .unwrap();
    assert!(none.batches.is_empty() && types(&none.schema) == types(&made.schema));

    // A range page by page.
    let (mut from, mut paged) = (None, Vec::new());
    loop {
        let (to, limit) = (None, 2);
        let mut page = ask(&case.world, "orders", &Wanted::Range { from, to, limit }).await;
        let made = page.batches(usize::MAX).unwrap();
        paged.extend(rendered(&made).as_array().unwrap().clone());
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    let (_, body) = case.world.get("/v1/tables/orders/rows").await;
    assert_eq!(json!(paged), body["rows"]);
}

#[tokio::test]
async fn batches_are_bounded_by_bytes_before_they_are_made() {
    let world = World::new(QuerySettings::default()).await;
    let schema = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
        {"id": 1, "name": "name", "type": "string", "required": true},
        {"id": 2, "name": "doc", "type": "string", "required": false}]}"#;
    let table = world.table("docs", schema, 1).await;
    let doc = "x".repeat(30_000);
    let rows: Vec<Value> = (0..8)
        .map(|name| json!({"name": name.to_string(), "doc": doc}))
        .collect();
    table.push(0, &rows);
    let keys = raw(&json!(vec!["3"; 10_000]));
    let keys = || keys.iter().map(AsRef::as_ref).collect();
    let mut found = ask(&world, "docs", &Wanted::Json(keys())).await;
    let refused = found.batches(100_000).unwrap_err();
    assert!(matches!(
        refused,
        QueryError::ResultTooLarge { bytes_max: 100_000 }
    ));
    // So many of them take many batches, none of which is large.
    let made = found.batches(usize::MAX).unwrap();
    assert_eq!(made.present.len(), 10_000);
    let largest = made.batches.iter().map(RecordBatch::num_rows).max();
    assert!((1..=40).contains(&largest.unwrap()), "{largest:?} rows");
    // A range goes on where it became too large.
    let (mut from, mut names, mut pages) = (None, 0, 0);
    loop {
        let (to, limit) = (None, 8);
        let mut page = ask(&world, "docs", &Wanted::Range { from, to, limit }).await;
        names += page.batches(100_000).unwrap().present.len();
        pages += 1;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!((names, pages), (8, 3));
}
