//! Every version read back row by row, and what the states say of the newest.

use super::*;

impl World {
    pub(super) async fn dead(&self, file: &DataFile) -> vector::DeletedRows {
        match file.dv() {
            Some(dv) => self.table.deleted_rows(dv).await.unwrap(),
            None => vector::DeletedRows::new(),
        }
    }

    /// Physical row to bucket, key and value.
    pub(super) async fn rows_of(&self, file: &DataFile) -> FileRows {
        let bytes = self.table.store().get(file.path()).await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .unwrap()
            .build()
            .unwrap();
        let mut rows = BTreeMap::new();
        for batch in reader {
            let batch = batch.unwrap();
            let columns = self.schema.fields.len();
            let own = batch.schema();
            let names = self.schema.fields.iter().map(|field| field.name.as_str());
            let places: Vec<usize> = names.map(|name| own.index_of(name).unwrap()).collect();
            let stored = batch.project(&places).unwrap();
            self.check_extras(&batch);
            let batch = conform(&stored, &to_arrow(&self.schema), Identity::Name).unwrap();
            let values = batch
                .column(columns - 1)
                .as_primitive::<Int64Type>()
                .clone();
            for row in 0..batch.num_rows() {
                let key = self.shape.key_of(&batch, row);
                let value = (!values.is_null(row)).then(|| values.value(row));
                rows.insert(rows.len() as u64, (key % 2, key, value));
            }
        }
        rows
    }

    /// The vectors of a commit of ours lie in one file, whatever stood in the log before: Spark
    /// vacuums no table with one that stands there.
    pub(super) fn check_new_vectors(&self, before: &Snapshot, writer: usize) {
        let mut names = std::collections::BTreeSet::new();
        for file in self.writers[writer].base.files() {
            let old = before.file(file.path()).and_then(|file| file.dv());
            let Some(new) = file.dv().filter(|new| Some(*new) != old) else {
                continue;
            };
            let vector::Place::File { name, .. } = vector::locate(new).unwrap() else {
                panic!("it stands in the log: {new:?}")
            };
            names.insert(name);
        }
        assert!(names.len() <= 1, "{names:?}");
    }

    /// Every version holds what the model says, each key once.
    pub(super) async fn check_versions(&self) {
        for (version, model) in &self.versions {
            let snapshot = self
                .table
                .snapshot_at(TableVersion(*version))
                .await
                .unwrap();
            let mut found = Rows::new();
            for file in snapshot.files() {
                let dead = self.dead(file).await;
                let rows = self.rows_of(file).await;
                assert!(
                    (dead.len() as usize) < rows.len(),
                    "a file without live rows stays"
                );
                for (row, (bucket, key, value)) in rows {
                    if !dead.contains(row) {
                        let before = found.insert((bucket, key), value);
                        assert_eq!(before, None, "key {key} is live twice at {version}");
                    }
                }
            }
            assert_eq!(&found, model, "version {version}");
        }
    }

    /// The states say where every key is, in key order, and what is not there.
    pub(super) async fn check_states(&self) {
        let snapshot = self.latest().await;
        let spec = KeySpec::of(snapshot.schema()).unwrap();
        let mut contents: HashMap<String, FileRows> = HashMap::new();
        for file in snapshot.files() {
            contents.insert(file.path().to_owned(), self.rows_of(file).await);
        }
        let all: Vec<u32> = (0..KEYS).chain(0..3).collect();
        let keys = Columns::of(&snapshot).keys(self.shape.delete_columns(&all));
        let keys = spec.keys(&keys).unwrap();
        for writer in &self.writers {
            for bucket in 0..2 {
                let previous = writer.states.get(&Bucket(bucket));
                let load = writer
                    .loader
                    .load(&self.table, &snapshot, Bucket(bucket), previous);
                let (state, _) = load.await.unwrap();
                let found = state.find(&keys).unwrap();
                for (key, place) in all.iter().zip(&found) {
                    let value = place.as_ref().map(|place| {
                        let (at, found, value) = contents[&*place.file][&u64::from(place.row)];
                        assert_eq!((at, found), (bucket, *key));
                        value
                    });
                    assert_eq!(value, self.model.get(&(bucket, *key)).copied(), "key {key}");
                }
                let everything = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let range = state.range(everything.0, everything.1, usize::MAX).unwrap();
                let live = self.model.keys().filter(|(at, _)| *at == bucket).count();
                assert_eq!(range.len(), live);
                let first: Vec<_> = state.range(everything.0, everything.1, 3).unwrap();
                assert_eq!(first, range[..live.min(3)]);
                let mut sorted: Vec<u32> = all[..KEYS as usize].to_vec();
                sorted.sort_by_key(|key| keys.get(*key as usize));
                let live = sorted
                    .iter()
                    .filter(|key| self.model.contains_key(&(bucket, **key)));
                let in_order = live.map(|key| found[*key as usize].clone().unwrap());
                assert_eq!(range, in_order.collect::<Vec<_>>(), "not in key order");
            }
        }
        assert!(self.homes.path().exists());
    }
}
