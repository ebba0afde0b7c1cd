//! A table, what it should hold at each version, and its files.

use super::*;

pub(super) const BUCKETS: u32 = 2;
/// The key is (region, id): not in the order of the columns.
pub(super) const SCHEMA: &str = r#"{"type": "struct", "identifier-field-ids": [2, 1], "fields": [
    {"id": 1, "name": "id", "type": "long", "required": true},
    {"id": 2, "name": "Region", "type": "string", "required": true},
    {"id": 3, "name": "note", "type": "string", "required": false},
    {"id": 4, "name": "at", "type": "time", "required": false}]}"#;

pub(super) type Key = (String, i64);

/// A row and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) note: Option<String>,
    /// Unique for each write.
    pub(super) offset: i64,
}

pub(super) type Model = BTreeMap<Key, Row>;

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) add: Add,
    pub(super) rows: Vec<(Key, Row)>,
    pub(super) dead: BTreeSet<u64>,
}

/// A table, what it should hold at each version, and its files.
pub(super) struct Case {
    pub(super) world: World,
    pub(super) table: TestTable,
    pub(super) versions: Vec<Model>,
    pub(super) files: BTreeMap<String, Stored>,
    pub(super) writes: i64,
    pub(super) names: usize,
    /// Every so many of the files have a sidecar; none where it is 0.
    pub(super) indexed: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Upserts (with a note) and deletes, in this order.
    Flush(Vec<(Key, Option<Option<String>>)>),
    /// Files by number are rewritten as one for each bucket.
    Compact(Vec<prop::sample::Index>),
}

impl Case {
    pub(super) async fn new() -> Self {
        Self::with(QuerySettings::default()).await
    }

    pub(super) async fn with(settings: QuerySettings) -> Self {
        let world = World::new(settings).await;
        let table = world.table("orders", SCHEMA, BUCKETS).await;
        Self {
            world,
            table,
            versions: vec![Model::new()],
            files: BTreeMap::new(),
            writes: 0,
            names: 0,
            indexed: 0,
        }
    }

    pub(super) fn model(&self) -> &Model {
        self.versions.last().unwrap()
    }

    pub(super) async fn step(&mut self, step: &Step) {
        match step {
            Step::Flush(changes) => self.flush(changes).await,
            Step::Compact(picks) => self.compact(picks).await,
        }
    }

    pub(super) async fn flush(&mut self, changes: &[(Key, Option<Option<String>>)]) {
        let mut newest: BTreeMap<Key, Option<Row>> = BTreeMap::new();
        for (key, change) in changes {
            self.writes += 1;
            let offset = self.writes;
            let row = change.clone().map(|note| Row { note, offset });
            newest.insert(key.clone(), row);
        }
        let mut model = self.model().clone();
        let before = self.files.clone();
        for (key, row) in &newest {
            for stored in self.files.values_mut() {
                let place = stored.rows.iter().position(|(found, _)| found == key);
                stored.dead.extend(place.map(|place| place as u64));
            }
            match row {
                Some(row) => model.insert(key.clone(), row.clone()),
                None => model.remove(key),
            };
        }
        let rows = newest
            .into_iter()
            .filter_map(|(key, row)| Some((key, row?)));
        self.write(rows.collect()).await;
        self.commit(before, model, true).await;
    }

    pub(super) async fn compact(&mut self, picks: &[prop::sample::Index]) {
        let names: Vec<_> = self.files.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let before = self.files.clone();
        let picked: BTreeSet<_> = picks.iter().map(|pick| pick.get(&names)).collect();
        let mut rows = Vec::new();
        for name in picked {
            let stored = self.files.remove(name).unwrap();
            let live = stored.rows.into_iter().enumerate();
            let live = live.filter(|(place, _)| !stored.dead.contains(&(*place as u64)));
            rows.extend(live.map(|(_, row)| row));
        }
        // Moved rows stand in another order.
        rows.reverse();
        self.write(rows).await;
        let model = self.model().clone();
        self.commit(before, model, false).await;
    }

    /// One file for each bucket that has rows.
    pub(super) async fn write(&mut self, rows: Vec<(Key, Row)>) {
        let mut by_bucket: BTreeMap<u32, Vec<(Key, Row)>> = BTreeMap::new();
        for (key, row) in rows {
            let text = json!([key.0, key.1]).to_string();
            let bucket = tidelake_core::partition::bucket_of(text.as_bytes(), BUCKETS);
            by_bucket.entry(bucket.0).or_default().push((key, row));
        }
        for (bucket, rows) in by_bucket {
            let settings = FileSettings {
                row_group_rows_max: 3,
                ..FileSettings::default()
            };
            let schema = &self.table.schema;
            let sealed = self.sealed(bucket, &rows);
            let sidecar = self.sidecar(&sealed);
            let layout = FileLayout::plain(schema);
            let file = encode(&layout, &[sealed], settings).unwrap().unwrap();
            self.names += 1;
            let path = format!("upsert-{:05}.parquet", self.names);
            let size = file.bytes.len() as i64;
            let store = self.table.delta.store();
            store.put(&path, file.bytes).await.unwrap();
            let mut tags = BTreeMap::from([(TAG_BUCKET.to_owned(), Some(bucket.to_string()))]);
            if self.indexed > 0 && self.names.is_multiple_of(self.indexed) {
                let name = format!("{path}.index");
                store.put(&name, sidecar).await.unwrap();
                tags.insert(TAG_INDEX.to_owned(), Some(name));
            }
            let add = Add {
                path: path.clone(),
                size,
                stats: Some(file.stats.to_json()),
                tags: Some(tags),
                ..Add::default()
            };
            let dead = BTreeSet::new();
            self.files.insert(path, Stored { add, rows, dead });
        }
    }

    fn sidecar(&self, sealed: &Sealed) -> Bytes {
        let schema = Arc::new(self.table.schema.clone());
        let keys = TableKeys::of(&schema, BUCKETS).unwrap().unwrap();
        let spec = keys.spec();
        let mut all = Keys::new(spec.kind());
        for chunk in sealed.chunks.iter() {
            let own = chunk.batch.project(spec.columns()).unwrap();
            all.append(&spec.keys(&own).unwrap());
        }
        encode_sidecar(&Entries::of_rows(&all))
    }

    pub(super) fn sealed(&self, bucket: u32, rows: &[(Key, Row)]) -> Sealed {
        let mut decoder = MessageDecoder::upsert(&self.table.schema, None).unwrap();
        for ((region, id), row) in rows {
            let record = json!({"id": id, "Region": region, "note": row.note,
                "at": format!("10:00:{:02}", row.offset % 60)});
            decoder
                .push(&WireMessage {
                    offset: row.offset,
                    timestamp_ms: 0,
                    key: None,
                    value: Some(record.to_string().as_bytes()),
                    encoding: None,
                    op: None,
                    dead_letter: None,
                })
                .unwrap();
        }
        let decoded = decoder.finish().unwrap().rows;
        let chunks = decoded.into_iter().map(|part| {
            let positions = Positions {
                offsets: part.offsets,
                rows: part.rows,
                timestamps_ms: part.timestamps_ms,
            };
            Chunk::new(part.batch, positions)
        });
        Sealed {
            bucket: Bucket(bucket),
            from: Watermark(0),
            to: Watermark(0),
            chunks: chunks.collect(),
            deletes: Default::default(),
            rows: rows.len(),
            bytes: 0,
        }
    }

    /// Commits the way from `before` to the files of now.
    pub(super) async fn commit(
        &mut self,
        before: BTreeMap<String, Stored>,
        model: Model,
        data_change: bool,
    ) {
        let mut pen = VectorFile::new(ids::random().next_uuid());
        let mut tx = Transaction {
            operation: if data_change { "FLUSH" } else { "COMPACT" }.into(),
            ..Transaction::default()
        };
        let all_dead = |stored: &Stored| stored.dead.len() == stored.rows.len();
        self.files.retain(|_, stored| !all_dead(stored));
        let remove = |stored: &Stored| -> Remove { stored.add.to_remove(1, data_change) };
        for (name, old) in &before {
            match self.files.get(name) {
                Some(new) if new.dead == old.dead => {}
                _ => tx.removes.push(remove(old)),
            }
        }
        for (place, (name, new)) in self.files.iter_mut().enumerate() {
            let old = before.get(name);
            if old.is_some_and(|old| old.dead == new.dead) {
                continue;
            }
            new.add.data_change = data_change;
            if !new.dead.is_empty() {
                let dead: DeletedRows = new.dead.iter().copied().collect();
                let inline = (place + self.names).is_multiple_of(2);
                new.add.deletion_vector = Some(match inline {
                    true => vector::inline(&dead),
                    false => pen.push(&dead),
                });
                let stats = tidelake_manifest::DataFile::of(new.add.clone())
                    .unwrap()
                    .widened_stats();
                new.add.stats = Some(stats.unwrap());
            }
            tx.adds.push(new.add.clone());
        }
        for (name, bytes) in pen.finish() {
            let store = self.table.delta.store();
            store.put(&name, bytes.into()).await.unwrap();
        }
        self.world.clock.advance(std::time::Duration::from_secs(1));
        let version = self.table.commit(tx).await;
        self.versions.push(model);
        assert_eq!(version.0, self.versions.len() as u64 - 1);
    }

    pub(super) async fn rows(&self, sql: &str) -> Vec<String> {
        let body = json!({"sql": sql, "consistency": "committed"});
        sorted(self.world.rows_of(body).await)
    }

    pub(super) async fn check_version(&self, version: usize) {
        let sql = format!("SELECT * FROM orders VERSION AS OF {version}");
        let wanted = self.versions[version]
            .iter()
            .map(|(key, row)| shown(key, row));
        let mut wanted: Vec<_> = wanted.map(|row| Value::from(row).to_string()).collect();
        wanted.sort();
        assert_eq!(self.rows(&sql).await, wanted, "version {version}");
    }

    /// Every key of the version, by route and by SQL, alone and among others.
    pub(super) async fn check_points(&self, version: usize) {
        let model = &self.versions[version];
        let keys: Vec<Key> = ["eu", "us"]
            .iter()
            .flat_map(|region| (0..6).map(|id| key(region, id)))
            .collect();
        let asked: Vec<Value> = keys
            .iter()
            .map(|(region, id)| json!({"Region": region, "id": id}))
            .collect();
        let found = keys.iter().map(|key| model.get(key));
        let object = |(key, row): (&Key, Option<&Row>)| match row {
            Some(row) => {
                let row = shown(key, row);
                json!({"id": row[0], "Region": row[1], "note": row[2], "at": row[3]})
            }
            None => Value::Null,
        };
        let wanted: Vec<Value> = keys.iter().zip(found).map(object).collect();
        let body = json!({"keys": asked, "as_of_version": version});
        let (status, body) = self.world.post("/v1/tables/orders/lookup", &body).await;
        assert_eq!((status, &body["rows"]), (200, &json!(wanted)), "{version}");
        for (region, id) in &keys {
            let wanted = model.get(&key(region, *id)).map(|row| json!([row.note]));
            let wanted: Vec<Value> = wanted.into_iter().collect();
            let one = format!("SELECT note FROM orders WHERE region = '{region}' AND id = {id}");
            let body = json!({"sql": one, "as_of_version": version});
            assert_eq!(
                self.world.rows_of(body).await,
                json!(wanted),
                "{version}: {one}"
            );
        }
        let some = "SELECT count(*) FROM orders WHERE region IN ('eu', 'xx') AND id IN (1, 3, 9) \
                    AND note IS NOT NULL";
        let is_wanted = |(key, row): &(&Key, &Row)| {
            key.0 == "eu" && [1, 3].contains(&key.1) && row.note.is_some()
        };
        let wanted = model.iter().filter(is_wanted).count();
        let body = json!({"sql": some, "as_of_version": version});
        assert_eq!(
            self.world.rows_of(body).await,
            json!([[wanted]]),
            "{version}"
        );
    }

    pub(super) async fn check_changes(&self, from: usize, to: usize) {
        let (a, b) = (&self.versions[from], &self.versions[to]);
        let mut wanted = Vec::new();
        let keys: BTreeSet<&Key> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let mut tell = |row: &Row, kind: &str| {
                let mut columns = shown(key, row);
                columns.extend([json!(kind), json!(to)]);
                wanted.push(Value::from(columns));
            };
            match (a.get(key), b.get(key)) {
                (Some(old), Some(new)) if old == new => {}
                (Some(old), Some(new)) => {
                    tell(old, "update_preimage");
                    tell(new, "update_postimage");
                }
                (Some(old), None) => tell(old, "delete"),
                (None, Some(new)) => tell(new, "insert"),
                (None, None) => {}
            }
        }
        let all = sorted(Value::from(wanted.clone()));
        let sql = format!("SELECT * FROM table_changes('orders', {from}, {to})");
        assert_eq!(self.rows(&sql).await, all, "{sql}");
        // The key's columns alone, in another order, and filters on both sides of the pairing.
        let few = wanted.iter().filter(|row| row[0].as_i64() < Some(3));
        let few = few.map(|row| json!([row[4], row[1], row[0]]));
        let sql = format!(
            "SELECT _change_type, region, id FROM table_changes('orders', {from}, {to}) WHERE id < 3"
        );
        assert_eq!(self.rows(&sql).await, sorted(few.collect()), "{sql}");
        let noted = wanted.iter().filter(|row| row[2] == "x").cloned();
        let sql = format!("SELECT * FROM table_changes('orders', {from}, {to}) WHERE note = 'x'");
        assert_eq!(self.rows(&sql).await, sorted(noted.collect()), "{sql}");
    }

    pub(super) async fn check_key(&self, key: &Key) {
        let mut wanted = Vec::new();
        let mut before: Option<&Row> = None;
        for (version, model) in self.versions.iter().enumerate() {
            let now = model.get(key);
            let kind = match (before, now) {
                (None, Some(_)) => "insert",
                (Some(_), None) => "delete",
                (Some(old), Some(new)) if old != new => "update",
                _ => continue,
            };
            let mut row = vec![json!(version), json!(kind)];
            match now {
                Some(now) => row.extend(shown(key, now)),
                None => row.extend([json!(key.1), json!(key.0), Value::Null, Value::Null]),
            }
            wanted.push(Value::from(row));
            before = now;
        }
        wanted.reverse();
        let sql = format!(
            "SELECT _commit_version, _change_type, id, region, note, at \
             FROM key_history('orders', '{}', {})",
            key.0, key.1
        );
        assert_eq!(self.world.rows(&sql).await, Value::from(wanted), "{sql}");
    }
}

pub(super) fn shown(key: &Key, row: &Row) -> Vec<Value> {
    let at = format!("10:00:{:02}", row.offset % 60);
    vec![json!(key.1), json!(key.0), json!(row.note), json!(at)]
}

pub(super) fn sorted(rows: Value) -> Vec<String> {
    let mut rows: Vec<_> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    rows.sort();
    rows
}

pub(super) fn key(region: &str, id: i64) -> Key {
    (region.into(), id)
}

pub(super) fn upsert(region: &str, id: i64, note: &str) -> (Key, Option<Option<String>>) {
    (key(region, id), Some(Some(note.into())))
}

pub(super) fn delete(region: &str, id: i64) -> (Key, Option<Option<String>>) {
    (key(region, id), None)
}

pub(super) fn any_key() -> impl Strategy<Value = Key> {
    (prop::sample::select(vec!["eu", "us"]), 0i64..6).prop_map(|(region, id)| key(region, id))
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    let note = prop::option::of(prop::sample::select(vec!["x", "y"]).prop_map(str::to_owned));
    let change = prop_oneof![4 => note.prop_map(Some), 1 => Just(None)];
    let flush = prop::collection::vec((any_key(), change), 1..8).prop_map(Step::Flush);
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 1..4).prop_map(Step::Compact);
    prop_oneof![4 => flush, 1 => picks]
}
