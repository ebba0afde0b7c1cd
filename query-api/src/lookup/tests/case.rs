//! A table under random histories, and what each of its keys should be found as.

use super::*;

pub(super) const BUCKETS: u32 = 2;
/// The key is (region, id): not in the order of the columns.
pub(super) const ORDERS: &str = r#"{"type": "struct", "identifier-field-ids": [2, 1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "region", "type": "string", "required": true},
    {"id": 3, "name": "note", "type": "string", "required": false},
    {"id": 4, "name": "at", "type": "time", "required": false}]}"#;
pub(super) const USERS: &str = r#"{"type": "struct", "identifier-field-ids": [1], "fields": [
    {"id": 1, "name": "name", "type": "string", "required": true},
    {"id": 2, "name": "age", "type": "int", "required": false}]}"#;

pub(super) type Key = (String, i64);

/// What a message did: keys, with a note or deleted.
pub(super) type Changes = Vec<(Key, Option<Option<String>>)>;

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Single records, a tombstone where there is no note.
    Records(Changes),
    /// One message for each bucket.
    Packed(Changes),
    /// A record in a bucket that is not its key's.
    Misplaced(Key),
    Rejected(u32),
    /// The flusher commits so much of each bucket, and may or may not say so.
    Flush {
        shares: [f64; 2],
        announced: bool,
    },
    Look,
}

pub(super) struct Case {
    pub(super) world: World,
    pub(super) table: TestTable,
    /// Of each bucket and offset.
    pub(super) log: [Vec<Changes>; 2],
}

pub(super) fn text(key: &Key) -> String {
    json!([key.0, key.1]).to_string()
}

pub(super) fn home(key: &Key) -> u32 {
    bucket_of(text(key).as_bytes(), BUCKETS).0
}

pub(super) fn record(key: &Key, note: &Option<String>) -> Value {
    let at = format!("10:00:{:02}", key.1 % 60);
    json!({"id": key.1, "region": key.0, "note": note, "at": at})
}

impl Case {
    pub(super) async fn new(settings: QuerySettings) -> Self {
        Self::of(World::new(settings).await).await
    }

    pub(super) async fn of(world: World) -> Self {
        let table = world.table("orders", ORDERS, BUCKETS).await;
        Self {
            world,
            table,
            log: [Vec::new(), Vec::new()],
        }
    }

    pub(super) fn push(&mut self, bucket: u32, message: Wire, changes: Changes) {
        let topic = &self.table.entry.topic;
        self.world.log.push(topic, bucket, message);
        self.log[bucket as usize].push(changes);
    }

    pub(super) fn put(&mut self, key: &Key, note: &str) {
        let note = Some(note.to_owned());
        let message = Wire::json(&record(key, &note).to_string());
        self.push(home(key), message, vec![(key.clone(), Some(note))]);
    }

    pub(super) async fn step(&mut self, step: &Step) {
        match step {
            Step::Records(changes) => {
                for (key, change) in changes {
                    let message = match change {
                        Some(note) => Wire::json(&record(key, note).to_string()),
                        None => Wire::tombstone(&text(key)),
                    };
                    self.push(home(key), message, vec![(key.clone(), change.clone())]);
                }
            }
            Step::Packed(changes) => {
                for bucket in 0..BUCKETS {
                    let own = changes.iter().filter(|(key, _)| home(key) == bucket);
                    let own: Changes = own.cloned().collect();
                    if !own.is_empty() {
                        let message = self.packed(&own);
                        self.push(bucket, message, own);
                    }
                }
            }
            Step::Misplaced(key) => {
                let message = Wire::json(&record(key, &None).to_string());
                self.push(1 - home(key), message, Vec::new());
            }
            Step::Rejected(bucket) => {
                self.push(*bucket, Wire::json("{\"id\": \"x\"}"), Vec::new());
            }
            Step::Flush { shares, announced } => {
                let mut ends = Vec::new();
                for bucket in 0..BUCKETS {
                    let from = self.table.watermark(bucket);
                    let end = self.log[bucket as usize].len() as i64;
                    let to = from + ((end - from) as f64 * shares[bucket as usize]) as i64;
                    if to > from {
                        ends.push((bucket, to));
                    }
                }
                if ends.is_empty() {
                    return;
                }
                let version = self.table.flush_upserts(&ends).await;
                if *announced {
                    self.world.log.announce(&self.table.entry.id, version);
                }
            }
            Step::Look => self.check().await,
        }
    }

    pub(super) fn packed(&self, changes: &Changes) -> Wire {
        let schema = &self.table.schema;
        let mut decoder =
            tidelake_codec::json::JsonDecoder::new(schema, Default::default()).unwrap();
        for (key, change) in changes {
            let record = record(key, change.as_ref().unwrap_or(&None)).to_string();
            decoder.push_record(record.as_bytes()).unwrap();
        }
        let deletes: BooleanBuffer = changes.iter().map(|(_, change)| change.is_none()).collect();
        let batch = decoder.finish().unwrap();
        let bytes = packed::encode_with(&batch, Some(&deletes)).unwrap();
        Wire {
            value: Some(bytes.to_vec()),
            encoding: Some(packed::ENCODING.as_bytes().to_vec()),
            ..Wire::default()
        }
    }

    /// What the messages before these offsets make.
    pub(super) fn model(&self, ends: [i64; 2]) -> BTreeMap<Key, Option<String>> {
        let mut model = BTreeMap::new();
        for (messages, end) in self.log.iter().zip(ends) {
            for (key, change) in messages.iter().take(end as usize).flatten() {
                match change {
                    Some(note) => model.insert(key.clone(), note.clone()),
                    None => model.remove(key),
                };
            }
        }
        model
    }

    pub(super) async fn check(&self) {
        let latest = self.model([i64::MAX; 2]);
        let committed = [0, 1].map(|bucket| self.table.watermark(bucket));
        self.check_view(&latest, "latest").await;
        self.check_view(&self.model(committed), "committed").await;
    }

    /// Every way to the rows shows the same.
    pub(super) async fn check_view(
        &self,
        model: &BTreeMap<Key, Option<String>>,
        consistency: &str,
    ) {
        let sql = |text: String| json!({"sql": text, "consistency": consistency});
        let all: Vec<Value> = model
            .iter()
            .map(|(key, note)| json!([key.0, key.1, note]))
            .collect();
        let rows = "SELECT region, id, note FROM orders ORDER BY region, id".to_owned();
        assert_eq!(
            self.world.rows_of(sql(rows)).await,
            json!(all),
            "{consistency}"
        );
        let count = "SELECT count(*) FROM orders".to_owned();
        assert_eq!(self.world.rows_of(sql(count)).await, json!([[model.len()]]));

        let keys: Vec<Key> = REGIONS
            .iter()
            .flat_map(|region| (0..IDS).map(move |id| ((*region).to_owned(), id)))
            .collect();
        let wanted: Vec<Value> = keys.iter().map(|key| self.shown(model, key)).collect();
        let asked: Vec<Value> = keys
            .iter()
            .map(|(region, id)| json!({"region": region, "id": id}))
            .collect();
        let body = json!({"keys": asked, "consistency": consistency});
        let (status, body) = self.world.post("/v1/tables/orders/lookup", &body).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(body["rows"], json!(wanted), "{consistency}");

        for key in keys.iter().step_by(5) {
            let text = text(key).replace('"', "%22").replace(',', "%2C");
            let path = format!("/v1/tables/orders/rows/{text}?consistency={consistency}");
            let (status, body) = self.world.get(&path).await;
            match self.shown(model, key) {
                Value::Null => assert_eq!(status, 404, "{key:?}: {body}"),
                row => assert_eq!((status, body), (200, row)),
            }
            let (region, id) = key;
            let one = format!("SELECT note FROM orders WHERE id = {id} AND region = '{region}'");
            let found: Vec<Value> = model
                .get(key)
                .map(|note| json!([note]))
                .into_iter()
                .collect();
            assert_eq!(self.world.rows_of(sql(one)).await, json!(found), "{key:?}");
        }
        let some =
            "SELECT region, id FROM orders WHERE region IN ('eu', 'zz') AND id IN (1, 3, 5) \
                    AND note IS NOT NULL ORDER BY id"
                .to_owned();
        let found: Vec<Value> = model
            .iter()
            .filter(|((region, id), note)| {
                region == "eu" && [1, 3, 5].contains(id) && note.is_some()
            })
            .map(|(key, _)| json!([key.0, key.1]))
            .collect();
        assert_eq!(self.world.rows_of(sql(some)).await, json!(found));

        let (from, to) = (("eu".to_owned(), 4), ("us".to_owned(), 3));
        let within: Vec<Value> = model
            .range(from.clone()..to.clone())
            .map(|(key, _)| self.shown(model, key))
            .collect();
        assert_eq!(self.range(&from, &to, 3, consistency).await, within);
    }

    /// A range in pages of `limit` rows.
    pub(super) async fn range(
        &self,
        from: &Key,
        to: &Key,
        limit: usize,
        consistency: &str,
    ) -> Vec<Value> {
        let (mut from, to) = (text(from), text(to));
        let mut rows = Vec::new();
        loop {
            let encode = |text: &str| text.replace('"', "%22").replace(',', "%2C");
            let path = format!(
                "/v1/tables/orders/rows?from={}&to={}&limit={limit}&consistency={consistency}",
                encode(&from),
                encode(&to)
            );
            let (status, body) = self.world.get(&path).await;
            assert_eq!(status, 200, "{body}");
            rows.extend(body["rows"].as_array().unwrap().clone());
            match body["next"].as_str() {
                Some(next) => from = next.to_owned(),
                None => return rows,
            }
        }
    }

    pub(super) fn shown(&self, model: &BTreeMap<Key, Option<String>>, key: &Key) -> Value {
        match model.get(key) {
            Some(note) => record(key, note),
            None => Value::Null,
        }
    }
}

pub(super) const REGIONS: [&str; 3] = ["ap", "eu", "us"];
pub(super) const IDS: i64 = 8;

pub(super) fn key() -> impl Strategy<Value = Key> {
    (prop::sample::select(&REGIONS[..]), 0..IDS).prop_map(|(region, id)| (region.to_owned(), id))
}

pub(super) fn changes() -> impl Strategy<Value = Changes> {
    let note = prop::option::of("[a-z]{1,3}");
    prop::collection::vec((key(), prop::option::weighted(0.75, note)), 1..12)
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => changes().prop_map(Step::Records),
        4 => changes().prop_map(Step::Packed),
        1 => key().prop_map(Step::Misplaced),
        1 => (0..BUCKETS).prop_map(Step::Rejected),
        4 => ([0.0..=1.0f64, 0.0..=1.0f64], any::<bool>())
            .prop_map(|(shares, announced)| Step::Flush { shares, announced }),
        2 => Just(Step::Look),
    ]
}

pub(super) fn run(steps: &[Step], settings: QuerySettings) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut case = Case::new(settings).await;
        for step in steps {
            case.step(step).await;
        }
        case.check().await;
    });
}
