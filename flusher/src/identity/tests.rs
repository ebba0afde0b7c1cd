use tidelake_core::{TableId, TableName, TenantId, TopicId};
use tidelake_schema::dead_letters;

use super::*;

fn entry(mode: TableMode) -> TableEntry {
    let id = TableId::new(
        TenantId::new("acme").unwrap(),
        TableName::new("orders").unwrap(),
    );
    TableEntry {
        id,
        mode,
        schema: dead_letters::schema().clone(),
        buckets: 2,
        topic: "tidelake.acme.orders".into(),
        topic_id: TopicId([1; 16]),
        properties: BTreeMap::new(),
        created_ms: 0,
        dead_letters_topic_id: None,
        restores: 0,
    }
}

fn topic(id: u8, buckets: u32, start: i64, end: i64) -> TopicState {
    let all = |offset| (0..buckets).map(|b| (Bucket(b), Offset(offset))).collect();
    TopicState {
        info: Some(TopicInfo {
            id: TopicId([id; 16]),
            buckets,
        }),
        starts: all(start),
        ends: all(end),
    }
}

fn mark(bucket: u32, watermark: Option<i64>) -> Mark {
    Mark {
        bucket: Bucket(bucket),
        watermark: watermark.map(Watermark),
        lost: false,
    }
}

fn cause(checked: Result<(), Trouble>) -> Option<Cause> {
    let trouble = checked.err()?;
    for said in [
        "acme.orders",
        "`tidelake table drop orders`",
        "`tidelake table create orders",
    ] {
        assert!(
            trouble.text.contains(said),
            "{said} is missing in: {}",
            trouble.text
        );
    }
    Some(trouble.cause)
}

#[test]
fn another_topic_of_the_same_name_is_not_the_table_s() {
    let entry = entry(TableMode::Append);
    let check = |state: &TopicState| cause(check_topic(&entry, state.info.as_ref()));
    assert_eq!(check(&topic(1, 2, 0, 9)), None);
    assert_eq!(check(&topic(2, 2, 0, 9)), Some(Cause::TopicReplaced));
    assert_eq!(check(&TopicState::default()), Some(Cause::TopicMissing));
    assert_eq!(check(&topic(1, 1, 0, 9)), Some(Cause::PartitionsMissing));
    assert_eq!(
        check(&topic(1, 5, 0, 9)),
        None,
        "added ones are looked at one by one"
    );
}

#[test]
fn a_watermark_outside_of_the_log_stops_the_bucket() {
    let entry = entry(TableMode::Append);
    let check = |state, mark| cause(check_bucket(&entry, &state, &mark));
    assert_eq!(check(topic(1, 2, 0, 9), mark(0, Some(9))), None);
    assert_eq!(
        check(topic(1, 2, 0, 8), mark(0, Some(9))),
        Some(Cause::LogCutBack)
    );
    assert_eq!(check(topic(1, 2, 9, 9), mark(0, Some(9))), None);
    assert_eq!(
        check(topic(1, 2, 10, 20), mark(0, Some(9))),
        Some(Cause::RetentionOverrun)
    );
    let lost = Mark {
        lost: true,
        ..mark(1, None)
    };
    assert_eq!(check(topic(1, 2, 0, 9), lost), Some(Cause::WatermarkLost));
}

#[test]
fn added_partitions_are_followed_by_append_tables_and_stop_upsert_tables() {
    let check = |mode, bucket| {
        cause(check_bucket(
            &entry(mode),
            &topic(1, 4, 0, 40),
            &mark(bucket, None),
        ))
    };
    assert_eq!(check(TableMode::Append, 3), None);
    assert_eq!(check(TableMode::Upsert, 1), None);
    assert_eq!(check(TableMode::Upsert, 2), Some(Cause::PartitionsAdded));
}
