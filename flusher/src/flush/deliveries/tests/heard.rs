//! What the bucket of the keys makes of deliveries: flushers that follow each other, or do not know
//! that they were replaced, over a log that was away; heard by the intake of the target's flusher.

use std::sync::OnceLock;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use tidelake_core::partition::bucket_of;
use tidelake_core::{TableVersion, clock, ids};
use tidelake_intake::{BucketIntake, IntakeTable, TableKind, Taken};
use tidelake_manifest::{CreateTable, DeltaTable, Snapshot};
use tidelake_schema::TableSchema;
use tidelake_storage::{Store, StoreOptions};

use super::*;

const TOPIC: TopicId = TopicId([1; 16]);
const BUCKETS: u32 = 2;
/// Records come through bucket 0, their keys belong here.
const TARGET: Bucket = Bucket(1);

/// An upsert table, for its schema and its id.
fn table() -> Arc<Snapshot> {
    static TABLE: OnceLock<Arc<Snapshot>> = OnceLock::new();
    let made = TABLE.get_or_init(|| {
        let text = r#"{"type":"struct","schema-id":0,"identifier-field-ids":[1],"fields":[
            {"id":1,"name":"id","required":true,"type":"long"},
            {"id":2,"name":"v","required":false,"type":"long"}]}"#;
        let create = CreateTable {
            name: "t".into(),
            schema: TableSchema::from_iceberg_json(text).unwrap(),
            append_only: false,
            properties: BTreeMap::new(),
            first_version: TableVersion(0),
        };
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let table = DeltaTable::new(store, clock::system(), ids::random());
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        let created = runtime.block_on(table.create(create)).unwrap();
        Arc::clone(created.snapshot())
    });
    Arc::clone(made)
}

/// A log that keeps whole messages, as long as it is there.
#[derive(Debug, Default)]
struct Away {
    /// Of the next messages; those after them are kept.
    fates: Mutex<Vec<Fate>>,
    kept: Mutex<Vec<Message>>,
}

impl Sends for Away {
    fn send(&self, message: Message) -> BoxFuture<'_, Result<Offset, LogError>> {
        let fate = self.fates.lock().unwrap().pop().unwrap_or(Fate::Kept);
        let mut kept = self.kept.lock().unwrap();
        let timed_out = LogError::Unacknowledged {
            topic: message.topic.to_string(),
            bucket: message.bucket,
            reason: "timed out".into(),
        };
        if fate != Fate::Lost {
            kept.push(message);
        }
        let answer = match fate {
            Fate::Kept => Ok(Offset(0)),
            Fate::Unanswered | Fate::Lost => Err(timed_out),
        };
        futures::future::ready(answer).boxed()
    }
}

/// The flush of everything that bucket 0 holds of the target's keys: `(offset, id)`.
fn flush(records: &[(i64, i64)]) -> Deliveries {
    let records = records.iter().map(|(offset, id)| Misrouted {
        offset: Offset(*offset),
        key: *id as u64,
        message: Outgoing {
            bucket: TARGET,
            key: Some(id.to_string().into()),
            value: Some(format!("{{\"id\":{id},\"v\":{offset}}}").into()),
            headers: OwnedHeaders::default(),
            timestamp_ms: Some(1),
        },
    });
    Deliveries {
        routes: Routes {
            origin_key: OriginKey::of(&table(), TOPIC),
            ..routes()
        },
        lanes: vec![Lane::new(Bucket(0), records.collect())],
        dead_letters: Vec::new(),
    }
}

/// One try of a flush.
fn try_once(flush: &mut Deliveries, log: &Away) -> bool {
    let delivered = flush.deliver(log).now_or_never();
    delivered.expect("the log answers at once").is_ok()
}

/// What the target takes: how many rows, and the value that each key shows.
fn heard(messages: &[Message]) -> (usize, BTreeMap<i64, i64>) {
    let snapshot = table();
    let table = IntakeTable::of(TableKind::Upsert, TOPIC, BUCKETS, &snapshot);
    let mut intake = BucketIntake::open(&table, TARGET, &snapshot).unwrap();
    let mut rows = 0;
    for (offset, message) in messages.iter().enumerate() {
        let headers = OwnedHeaders(message.headers.clone());
        let seen = Seen {
            offset: Offset(offset as i64),
            timestamp_ms: 1,
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            headers: &headers,
        };
        match intake.take(&seen) {
            Taken::Rows(taken) => rows += taken,
            Taken::Repeated => {}
            other => panic!("{message:?}: {other:?}"),
        }
    }
    let mut shown = BTreeMap::new();
    for chunk in intake.drain().unwrap().chunks {
        let column = |at: usize| chunk.batch.column(at).as_primitive::<Int64Type>().clone();
        let (ids, values) = (column(0), column(1));
        for row in 0..chunk.rows() {
            shown.insert(ids.value(row), values.value(row));
        }
    }
    (rows, shown)
}

/// So many records of these many keys, each of which belongs to the target.
fn records(count: usize, keys: usize) -> Vec<(i64, i64)> {
    let ours = |id: &i64| bucket_of(id.to_string().as_bytes(), BUCKETS) == TARGET;
    let ids: Vec<i64> = (0..).filter(ours).take(keys).collect();
    let records = (0..count).map(|n| (n as i64 * 3, ids[n * n % keys]));
    records.collect()
}

fn newest(records: &[(i64, i64)]) -> BTreeMap<i64, i64> {
    records.iter().map(|(offset, id)| (*id, *offset)).collect()
}

/// The log is away for longer than the producer tries: the first records time out, some of them
/// kept all the same, while later ones get through.
#[test]
fn what_times_out_while_later_records_get_through_is_taken_once() {
    let records = records(400, 399);
    for unanswered in [1, 7, 31] {
        let log = Away::default();
        let mut sent = flush(&records);
        let mut fates = vec![Fate::Kept; 31 - unanswered];
        fates.extend(vec![Fate::Unanswered; unanswered]);
        fates.push(Fate::Lost);
        *log.fates.lock().unwrap() = fates;
        assert!(!try_once(&mut sent, &log), "the first one timed out");
        assert!(
            log.kept.lock().unwrap().len() > 20,
            "later ones got through"
        );
        log.fates.lock().unwrap().clear();
        assert!(try_once(&mut sent, &log), "it is back");
        let (rows, shown) = heard(&log.kept.lock().unwrap());
        assert_eq!(rows, records.len());
        assert_eq!(shown, newest(&records));
    }
}

proptest! {
    /// Two flushers that hold the same records, each of which may die and begin anew, over a log
    /// that comes and goes; one of them finishes, the other, a zombie by then, as well.
    #[test]
    fn whatever_the_log_and_its_flushers_go_through_each_record_is_taken_once(
        count in 1usize..150,
        tries in prop::collection::vec(
            (any::<bool>(), prop::bool::weighted(0.2), prop::collection::vec(
                prop::sample::select(vec![Fate::Kept, Fate::Unanswered, Fate::Lost]),
                0..40,
            )),
            0..20,
        ),
    ) {
        let records = records(count, 7);
        let log = Away::default();
        let mut flushers = [flush(&records), flush(&records)];
        for (first, dies, fates) in tries {
            let own = &mut flushers[usize::from(first)];
            *log.fates.lock().unwrap() = fates;
            try_once(own, &log);
            if dies {
                *own = flush(&records);
            }
        }
        log.fates.lock().unwrap().clear();
        prop_assert!(flushers.iter_mut().all(|own| try_once(own, &log)));
        let (rows, shown) = heard(&log.kept.lock().unwrap());
        prop_assert_eq!(rows, records.len());
        prop_assert_eq!(shown, newest(&records));
    }
}
