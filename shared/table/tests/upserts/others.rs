//! What other writers do to the table.

use super::*;

impl World {
    /// What another engine commits: by rules of its own, which are fewer than ours.
    pub(super) async fn commit_of_others(&self, base: &Snapshot, tx: Transaction) {
        let info = CommitInfo {
            timestamp: Some(base.timestamp_ms() + 1),
            operation: Some(tx.operation),
            engine_info: Some("another".into()),
            ..CommitInfo::default()
        };
        let mut actions = vec![Action::CommitInfo(info)];
        actions.extend(tx.metadata.map(Action::Metadata));
        actions.extend(tx.removes.into_iter().map(Action::Remove));
        actions.extend(tx.adds.into_iter().map(Action::Add));
        let name = format!("_delta_log/{:020}.json", base.version().next().0);
        let bytes = write_commit(&actions);
        self.table.store().put(&name, bytes.into()).await.unwrap();
    }

    pub(super) async fn delete(&mut self, every: u64, file: usize) {
        let snapshot = self.latest().await;
        let files: Vec<_> = snapshot.files().cloned().collect();
        if files.is_empty() {
            return;
        }
        let file = &files[file % files.len()];
        let rows = self.rows_of(file).await;
        let mut deleted = self.dead(file).await;
        for (row, (bucket, key, _)) in &rows {
            if row % every == 0 && deleted.insert(*row) {
                self.model.remove(&(*bucket, *key));
            }
        }
        let all = deleted.len() as usize == rows.len();
        let vector = vector::inline(&deleted);
        let tx = Transaction {
            operation: "DELETE".into(),
            removes: vec![file.add.to_remove(1, true)],
            adds: (!all)
                .then(|| Add {
                    deletion_vector: Some(vector),
                    stats: Some(widened(file.add.stats.as_deref(), rows.len() as u64)),
                    ..file.add.clone()
                })
                .into_iter()
                .collect(),
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// Writes a file's live rows anew.
    pub(super) async fn rewrite(&mut self, file: usize) {
        let snapshot = self.latest().await;
        let files: Vec<_> = snapshot.files().cloned().collect();
        if files.is_empty() {
            return;
        }
        let file = &files[file % files.len()];
        let dead = self.dead(file).await;
        let rows = self.rows_of(file).await;
        let live = rows.iter().filter(|(row, _)| !dead.contains(**row));
        let live: Vec<_> = live.map(|(_, row)| *row).collect();
        let mut adds = Vec::new();
        if let Some((bucket, ..)) = live.first() {
            let records: Vec<Record> = live.iter().rev().map(|(_, k, v)| (*k, Some(*v))).collect();
            adds.push(Add {
                data_change: false,
                ..match file.tag(TAG_BUCKET) {
                    Some(_) => self.file_of(*bucket, &records).await,
                    None => self.foreign_file(&records).await,
                }
            });
        }
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            removes: vec![file.add.to_remove(1, false)],
            adds,
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// Writes all live rows anew, as one file.
    pub(super) async fn optimize(&mut self) {
        let snapshot = self.latest().await;
        let mut records: Vec<Record> = Vec::new();
        for file in snapshot.files() {
            let dead = self.dead(file).await;
            for (row, (_, key, value)) in self.rows_of(file).await {
                if !dead.contains(row) {
                    records.push((key, Some(value)));
                }
            }
        }
        if records.is_empty() {
            return;
        }
        let add = self.foreign_file(&records).await;
        let tx = Transaction {
            operation: "OPTIMIZE".into(),
            removes: snapshot
                .files()
                .map(|file| file.add.to_remove(1, false))
                .collect(),
            adds: vec![Add {
                data_change: false,
                ..add
            }],
            ..Transaction::default()
        };
        self.commit_of_others(&snapshot, tx).await;
    }

    /// A data file as other engines leave it: keys of all buckets, no tags, no hidden columns, and
    /// statistics or none.
    pub(super) async fn foreign_file(&self, records: &[Record]) -> Add {
        let (keys, values): (Vec<u32>, Vec<Option<i64>>) = records
            .iter()
            .map(|(key, value)| (*key, value.unwrap()))
            .unzip();
        let mut columns = self.shape.key_columns(&keys);
        columns.push(Arc::new(Int64Array::from(values)));
        let fields = to_arrow(&self.schema);
        let fields = fields.fields().iter();
        // Most engines write no field ids.
        let fields = fields.map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = writer.into_inner().unwrap();
        let name = format!("part-{}.parquet", uuid().simple());
        let size = bytes.len() as i64;
        self.table.store().put(&name, bytes.into()).await.unwrap();
        let counted = !records.len().is_multiple_of(3);
        Add {
            path: name,
            size,
            data_change: true,
            stats: counted.then(|| format!(r#"{{"numRecords":{}}}"#, records.len())),
            ..Add::default()
        }
    }

    /// A data file of one bucket as another compactor leaves it: without an index sidecar.
    pub(super) async fn file_of(&self, bucket: u32, records: &[Record]) -> Add {
        let mut memtable = Memtable::new(Bucket(bucket), Watermark(0));
        fill(
            self.shape,
            &Columns::first(&self.schema),
            &mut memtable,
            0,
            records,
        );
        let sealed = [memtable.seal()];
        let layout = FileLayout::plain(&self.schema);
        let encoded = encode(&layout, &sealed, FileSettings::default());
        let encoded = encoded.unwrap().unwrap();
        let name = format!("{}.parquet", uuid().simple());
        let size = encoded.bytes.len() as i64;
        self.table.store().put(&name, encoded.bytes).await.unwrap();
        Add {
            path: name,
            size,
            data_change: true,
            stats: Some(encoded.stats.to_json()),
            tags: Some(BTreeMap::from([(
                TAG_BUCKET.into(),
                Some(bucket.to_string()),
            )])),
            ..Add::default()
        }
    }

    /// Inserts those of the records whose keys have no row.
    pub(super) async fn insert(&mut self, bucket: Option<u32>, records: &[Record]) {
        let mut fresh = Rows::new();
        for (key, value) in records {
            let at = (key % 2, *key);
            if let Some(value) = value.filter(|_| !self.model.contains_key(&at)) {
                fresh.insert(at, value);
            }
        }
        if fresh.is_empty() {
            return;
        }
        let records: Vec<Record> = fresh.iter().map(|((_, k), v)| (*k, Some(*v))).collect();
        let tx = Transaction {
            operation: "WRITE".into(),
            adds: vec![match bucket {
                Some(bucket) => self.file_of(bucket, &records).await,
                None => self.foreign_file(&records).await,
            }],
            ..Transaction::default()
        };
        let base = self.latest().await;
        self.commit_of_others(&base, tx).await;
        self.model.extend(fresh);
    }

    /// With the columns of that version, or those that are there now.
    pub(super) async fn restore(&mut self, version: usize, columns: bool) {
        let versions: Vec<u64> = self.versions.keys().copied().collect();
        if versions.is_empty() {
            return;
        }
        let version = versions[version % versions.len()];
        let (now, then) = (
            self.latest().await,
            self.table.snapshot_at(TableVersion(version)).await.unwrap(),
        );
        let other = |file: &DataFile, in_: &Snapshot| {
            let found = in_.file(file.path());
            found.is_none_or(|found| found.dv() != file.dv())
        };
        let gone = now.files().filter(|file| other(file, &then));
        let back = then.files().filter(|file| other(file, &now));
        let tx = Transaction {
            operation: "RESTORE".into(),
            removes: gone.map(|file| file.add.to_remove(1, true)).collect(),
            adds: back.map(|file| file.add.clone()).collect(),
            metadata: columns.then(|| then.metadata().clone()),
            ..Transaction::default()
        };
        if tx.removes.is_empty() && tx.adds.is_empty() && !columns {
            return;
        }
        if columns && now.metadata() != then.metadata() {
            self.altered = now.version().next().0;
            self.restored = self.altered;
        }
        self.revived = now.version().next().0;
        self.commit_of_others(&now, tx).await;
        self.model = self.versions[&version].clone();
    }
}
