//! What other engines do to a table counts from the next look at its log on.

use bytes::Bytes;
use tidelake_core::{TableId, TableName, TenantId};

use super::*;

/// Commits a change of the table's columns as another engine does.
async fn alter(harness: &Harness, version: u64, change: impl FnOnce(&mut Value)) {
    alter_metadata(harness, version, |_, schema| change(schema)).await;
}

/// [`alter`], of the metadata and of the columns in it.
async fn alter_metadata(
    harness: &Harness,
    version: u64,
    change: impl FnOnce(&mut Value, &mut Value),
) {
    let log = harness.store.scoped("default/orders/_delta_log");
    let before = format!("{:020}.json", version - 1);
    let bytes = log.get(&before).await.unwrap();
    let actions = std::str::from_utf8(&bytes).unwrap().lines();
    let actions = actions.map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut metadata = actions
        .into_iter()
        .find(|action| action.get("metaData").is_some())
        .unwrap();
    let text = metadata["metaData"]["schemaString"].as_str().unwrap();
    let mut schema: Value = serde_json::from_str(text).unwrap();
    change(&mut metadata["metaData"], &mut schema);
    metadata["metaData"]["schemaString"] = schema.to_string().into();
    let next = format!("{version:020}.json");
    log.put(&next, metadata.to_string().into()).await.unwrap();
}

#[tokio::test]
async fn records_are_checked_by_the_schema_of_the_table_s_own_log() {
    let harness = with_orders().await;
    let record = r#"{"id":1,"extra":"x"}"#;
    let reply = harness.post(JSON, record).await;
    reply.is_problem(422, "UNKNOWN_FIELD");
    alter(&harness, 1, |schema| {
        let fields = schema["fields"].as_array_mut().unwrap();
        let mut extra = fields[1].clone();
        extra["name"] = "extra".into();
        // Engines that know of no field ids give none.
        extra["metadata"] = json!({});
        fields.push(extra);
    })
    .await;
    // Nothing is refused by a schema that was not the latest when the record came.
    harness.post(JSON, record).await.answered();
    // A column that is gone is refused by either, instead of becoming a dead letter.
    alter(&harness, 2, |schema| {
        schema["fields"]
            .as_array_mut()
            .unwrap()
            .retain(|field| field["name"] != "note");
    })
    .await;
    let fresh = harness.another().await;
    let reply = fresh.post(JSON, r#"{"id":2,"note":"n"}"#).await;
    reply.is_problem(422, "UNKNOWN_FIELD");
}

#[tokio::test]
async fn looks_at_the_log_are_shared_and_bounded() {
    let harness = with_orders().await;
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let before = harness.store.requests();
    let started = moment::now();
    for _ in 0..50 {
        harness.post(JSON, r#"{"id":1}"#).await.answered();
    }
    let spent = harness.store.requests().total() - before.total();
    let looks = 2 + moment::age(started).as_millis() as u64 / 500;
    // The catalog is looked at twice for each body here, by one request each.
    assert!(spent <= 2 * 50 + 3 * looks, "{spent} requests");
}

#[tokio::test]
async fn a_table_whose_log_cannot_be_read_says_so() {
    let harness = with_orders().await;
    let log = harness.store.scoped("default/orders/_delta_log");
    log.put(
        "00000000000000000001.json",
        Bytes::from_static(b"{\"metaData\":3}"),
    )
    .await
    .unwrap();
    let reply = harness.another().await.post(JSON, r#"{"id":1}"#).await;
    reply.is_problem(503, "TABLE_UNAVAILABLE");
    for version in ["00000000000000000000.json", "00000000000000000001.json"] {
        log.delete(version).await.unwrap();
    }
    // The catalog has the table, so it is not missing.
    let reply = harness.another().await.post(JSON, r#"{"id":1}"#).await;
    let problem = reply.is_problem(503, "TABLE_UNAVAILABLE");
    assert!(
        problem["detail"].as_str().unwrap().contains("no commit"),
        "{problem}"
    );
    assert_eq!(harness.log.message_count(), 0);
}

#[tokio::test]
async fn a_topic_that_is_gone_is_no_missing_table() {
    let harness = with_orders().await;
    let id = TableId::new(TenantId::default(), TableName::new("orders").unwrap());
    let table = harness.gateway.tables.current(&id).await.unwrap();
    harness.log.delete_topic(&table.entry.topic).await.unwrap();
    let reply = harness.post(JSON, r#"{"id":1}"#).await;
    reply.is_problem(409, "TOPIC_REPLACED");
    harness
        .call(Method::DELETE, "/v1/tables/orders", Body::empty())
        .await
        .answered();
    let reply = harness.post(JSON, r#"{"id":1}"#).await;
    reply.is_problem(404, "TABLE_NOT_FOUND");
}

#[tokio::test]
async fn a_long_body_that_a_changed_schema_would_take_is_sent_again() {
    let harness = with_orders().await;
    let record = r#"{"id":1,"extra":"x"}"#;
    harness
        .post(JSON, record)
        .await
        .is_problem(422, "UNKNOWN_FIELD");
    alter(&harness, 1, |schema| {
        let fields = schema["fields"].as_array_mut().unwrap();
        let mut extra = fields[1].clone();
        extra["name"] = "extra".into();
        extra["metadata"] = json!({});
        fields.push(extra);
    })
    .await;
    // A body without a length is read as it comes, and is gone once it was refused.
    let streamed = || {
        let request = Request::post("/v1/tables/orders/records").header("content-type", JSON);
        request.body(Body::from(record)).unwrap()
    };
    harness
        .send(streamed())
        .await
        .is_problem(503, "SCHEMA_CHANGED");
    harness.send(streamed()).await.answered();
}

#[tokio::test]
async fn refused_records_share_their_looks_at_the_log() {
    let harness = with_orders().await;
    let before = harness.store.requests();
    let record = r#"{"id":1,"extra":"x"}"#;
    let posts = (0..200).map(|_| harness.post(JSON, record));
    for reply in futures::future::join_all(posts).await {
        reply.is_problem(422, "UNKNOWN_FIELD");
    }
    let spent = harness.store.requests().total() - before.total();
    // The catalog costs each body one request here.
    assert!(spent < 200 + 50, "{spent} requests");
}

#[tokio::test]
async fn a_table_that_no_commit_of_ours_can_follow_takes_no_records() {
    let harness = with_orders().await;
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    let log = harness.store.scoped("default/orders/_delta_log");
    let protocol = json!({"protocol": {
        "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["clustering", "rowTracking"],
    }});
    let version = "00000000000000000001.json";
    log.put(version, protocol.to_string().into()).await.unwrap();
    moment::advance(Duration::from_secs(1));
    let before = harness.log.message_count();
    for _ in 0..2 {
        let reply = harness.post(JSON, r#"{"id":2}"#).await;
        let problem = reply.is_problem(503, "TABLE_UNAVAILABLE");
        assert!(
            problem["detail"].as_str().unwrap().contains("rowTracking"),
            "{problem}"
        );
    }
    assert_eq!(harness.log.message_count(), before);
    // It goes on where somebody takes it back.
    let version = "00000000000000000002.json";
    let protocol = json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}});
    log.put(version, protocol.to_string().into()).await.unwrap();
    moment::advance(Duration::from_secs(1));
    harness.post(JSON, r#"{"id":2}"#).await.answered();
}

#[tokio::test]
async fn ids_that_another_engine_gives_anew_are_no_other_key() {
    let harness = Harness::new().await;
    let mut upserts = orders();
    upserts["mode"] = json!("upsert");
    upserts["schema"]["identifier-field-ids"] = json!([1]);
    harness.create(upserts).await.answered();
    harness.post(JSON, r#"{"id":1}"#).await.answered();
    // Spark numbers all columns on from the last id where it turns column mapping on.
    alter_metadata(&harness, 1, |metadata, schema| {
        metadata["configuration"]["delta.columnMapping.mode"] = "name".into();
        let fields = schema["fields"].as_array_mut().unwrap();
        for (id, field) in (7_i32..).zip(fields) {
            field["metadata"]["delta.columnMapping.id"] = id.into();
            field["metadata"]["delta.columnMapping.physicalName"] = field["name"].clone();
        }
    })
    .await;
    moment::advance(Duration::from_secs(1));
    harness.post(JSON, r#"{"id":2}"#).await.answered();
    // Without a key it is another table.
    alter(&harness, 2, |schema| {
        let id = &mut schema["fields"].as_array_mut().unwrap()[0];
        let metadata = id["metadata"].as_object_mut().unwrap();
        metadata.remove("tidelake.identifier").unwrap();
    })
    .await;
    moment::advance(Duration::from_secs(1));
    let reply = harness.post(JSON, r#"{"id":3}"#).await;
    reply.is_problem(503, "TABLE_UNAVAILABLE");
}

/// Turns column mapping on, as it stands after a rename: files keep the first names.
fn mapped(metadata: &mut Value, schema: &mut Value, names: &[(&str, &str, &str)]) {
    metadata["configuration"]["delta.columnMapping.mode"] = "name".into();
    metadata["configuration"]["delta.columnMapping.maxColumnId"] = "199".into();
    let fields = schema["fields"].as_array_mut().unwrap();
    for (id, field) in fields.iter_mut().enumerate() {
        let was = field["name"].clone();
        let known = names.iter().find(|(name, ..)| was == *name);
        let (_, physical, now) = known.copied().unwrap_or(("", was.as_str().unwrap(), ""));
        field["metadata"]["delta.columnMapping.id"] = (100 + id).into();
        field["metadata"]["delta.columnMapping.physicalName"] = physical.into();
        if !now.is_empty() {
            field["name"] = now.into();
        }
    }
}

/// The columns' names, and those in files, of all messages.
fn names_sent(harness: &Harness) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let messages = harness.log.messages("tidelake.default.orders");
    for message in messages.into_iter().flatten() {
        let value = message.value.unwrap();
        let reader = arrow::ipc::reader::StreamReader::try_new(value.as_ref(), None).unwrap();
        names.extend(reader.schema().fields().iter().map(|field| {
            let mark = &field.metadata()[tidelake_codec::packed::COLUMN_KEY];
            (field.name().clone(), mark.clone())
        }));
    }
    names
}

#[tokio::test]
async fn messages_say_what_their_columns_are_called_in_files() {
    let harness = with_orders().await;
    harness
        .post(JSON, r#"{"id":1,"note":"n"}"#)
        .await
        .answered();
    let sent = names_sent(&harness);
    assert!(sent.contains(&("note".into(), "note".into())), "{sent:?}");
    alter_metadata(&harness, 1, |metadata, schema| {
        mapped(metadata, schema, &[("note", "note", "remark")]);
    })
    .await;
    let fresh = harness.another().await;
    fresh
        .post(JSON, r#"{"id":2,"remark":"n"}"#)
        .await
        .answered();
    let sent = names_sent(&fresh);
    assert!(sent.contains(&("remark".into(), "note".into())), "{sent:?}");
    let reply = fresh
        .call(Method::GET, "/v1/tables/orders", Body::empty())
        .await;
    let told = reply.answered()["physical_names"].clone();
    assert!(
        told.as_object()
            .unwrap()
            .values()
            .any(|name| name == "note"),
        "{told}"
    );
}
