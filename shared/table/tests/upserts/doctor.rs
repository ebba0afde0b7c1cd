//! What the doctor finds across buckets, in files of other engines, and in the log's past.

use tidelake_manifest::action::Remove;
use tidelake_table::check::Report;

use super::*;

impl World {
    pub(super) async fn checked(&self) -> Report {
        let loader = Some(&self.writers[0].loader);
        let snapshot = self.latest().await;
        let checked = check(&self.table, &snapshot, &TOPIC, loader, false);
        checked.await.unwrap()
    }

    async fn brings(&self, adds: Vec<Add>, removes: Vec<Remove>, engine: &str) {
        let base = self.latest().await;
        let info = CommitInfo {
            engine_info: Some(engine.into()),
            ..CommitInfo::default()
        };
        let mut actions = vec![Action::CommitInfo(info)];
        actions.extend(removes.into_iter().map(Action::Remove));
        actions.extend(adds.into_iter().map(Action::Add));
        let name = format!("_delta_log/{:020}.json", base.version().next().0);
        let bytes = write_commit(&actions);
        self.table.store().put(&name, bytes.into()).await.unwrap();
    }
}

fn rows(keys: &[u32]) -> Vec<Record> {
    keys.iter().map(|key| (*key, Some(Some(7)))).collect()
}

fn named(report: &Report) -> Vec<(&'static str, &str)> {
    let findings = report.findings.iter();
    findings
        .map(|found| (found.check, found.detail.as_str()))
        .collect()
}

#[tokio::test]
async fn a_key_that_lives_in_a_foreign_file_and_in_ours_is_found() {
    let mut world = World::new(Shape::Long).await;
    let ours = [(0, vec![rows(&[2, 4, 6])]), (1, vec![rows(&[1, 3])])];
    world.flush(0, &ours, true).await;
    // Counted by their footer.
    let foreign = world.foreign_file(&rows(&[8, 9, 11])).await;
    assert_eq!(foreign.stats, None);
    world.brings(vec![foreign], Vec::new(), "another").await;
    let sound = world.checked().await;
    assert!(sound.is_sound(), "{sound:?}");
    assert_eq!((sound.keys, sound.live_rows), (8, 8));
    let twins = world.foreign_file(&rows(&[3, 4, 13])).await;
    world.brings(vec![twins], Vec::new(), "another").await;
    let report = world.checked().await;
    let found = named(&report);
    assert_eq!(found.len(), 2, "{report:?}");
    assert!(
        found
            .iter()
            .all(|(check, _)| *check == "each_key_is_live_once")
    );
}

#[tokio::test]
async fn a_key_in_a_file_of_another_bucket_is_found() {
    let mut world = World::new(Shape::TextAndInt).await;
    world.flush(0, &[(0, vec![rows(&[2, 4])])], true).await;
    let misplaced = world.file_of(0, &rows(&[6, 7, 9])).await;
    world.brings(vec![misplaced], Vec::new(), "another").await;
    let report = world.checked().await;
    let [("keys_stand_in_their_bucket", detail)] = named(&report)[..] else {
        panic!("{report:?}")
    };
    assert!(detail.contains("row 1 has a key of bucket 1"), "{detail}");
    assert!(detail.ends_with("1 rows more"), "{detail}");
}

#[tokio::test]
async fn a_vector_that_lost_rows_in_a_commit_of_ours_is_found() {
    for (engine, found) in [("Tidelake/0.1.0", true), ("another", false)] {
        let mut world = World::new(Shape::Long).await;
        world
            .flush(0, &[(0, vec![rows(&[2, 4, 6, 8])])], true)
            .await;
        world.flush(0, &[(0, vec![rows(&[2, 4])])], true).await;
        let snapshot = world.latest().await;
        let touched = snapshot.files().find(|file| file.dv().is_some()).unwrap();
        let less = Add {
            deletion_vector: Some(vector::inline(&[0].into_iter().collect())),
            ..touched.add.clone()
        };
        let remove = touched.add.to_remove(1, true);
        world.brings(vec![less], vec![remove], engine).await;
        // And again the way it was, so that the newest version alone looks sound.
        let snapshot = world.latest().await;
        let now = snapshot.file(touched.path()).unwrap();
        let remove = now.add.to_remove(2, true);
        world
            .brings(vec![touched.add.clone()], vec![remove], "another")
            .await;
        let report = world.checked().await;
        let names: Vec<_> = named(&report).iter().map(|(check, _)| *check).collect();
        let expected = if found {
            vec!["vectors_only_grow"]
        } else {
            vec![]
        };
        assert_eq!(names, expected, "{report:?}");
    }
}

#[tokio::test]
async fn a_vector_that_names_rows_beyond_an_uncounted_file_is_found() {
    let world = World::new(Shape::Long).await;
    let foreign = world.foreign_file(&rows(&[2, 4, 6])).await;
    let vector = vector::inline(&[1, 3].into_iter().collect());
    let foreign = Add {
        deletion_vector: Some(vector),
        ..foreign
    };
    world.brings(vec![foreign], Vec::new(), "another").await;
    let report = world.checked().await;
    assert_eq!(
        named(&report),
        [(
            "vectors_name_rows_of_their_file",
            "row 3 is deleted, the file has 3"
        )]
    );
}

impl World {
    /// The doctor finds nothing; and finds what is damaged on purpose.
    pub(super) async fn check_doctor(&self) {
        let snapshot = self.latest().await;
        let loader = Some(&self.writers[0].loader);
        let checked = check(&self.table, &snapshot, &TOPIC, loader, false)
            .await
            .unwrap();
        assert!(checked.is_sound(), "{checked:?}");
        assert_eq!(checked.keys as usize, self.model.len());
        let Some(file) = snapshot.files().find(|file| file.tag(TAG_INDEX).is_some()) else {
            return;
        };
        let name = file.tag(TAG_INDEX).unwrap();
        let sidecar = self.table.store().get(name).await.unwrap();
        let mut damaged = sidecar.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        self.table.store().put(name, damaged.into()).await.unwrap();
        let checked = check(&self.table, &snapshot, &TOPIC, loader, false)
            .await
            .unwrap();
        assert_eq!(checked.problems, 1, "{checked:?}");
        // A reader goes by the file meanwhile.
        let bucket = file.buckets().unwrap()[0];
        let load = self.writers[0]
            .loader
            .load(&self.table, &snapshot, bucket, None);
        let (state, loaded) = load.await.unwrap();
        assert_eq!((loaded.damaged, state.live_rows() > 0), (1, true));
        let mended = check(&self.table, &snapshot, &TOPIC, loader, true)
            .await
            .unwrap();
        assert!(
            mended.is_sound() && mended.findings.len() == 1,
            "{mended:?}"
        );
        assert_eq!(self.table.store().get(name).await.unwrap(), sidecar);
        // A file of live keys comes in a second time.
        let twin = "twin.parquet";
        let bytes = self.table.store().get(file.path()).await.unwrap();
        self.table.store().put(twin, bytes).await.unwrap();
        let add = Add {
            path: twin.into(),
            ..file.add.clone()
        };
        let tx = Transaction::flush(vec![add], Vec::new());
        let outcome = self.table.commit(&snapshot, tx).await.unwrap();
        let CommitOutcome::Committed { snapshot, .. } = outcome else {
            panic!("no contention")
        };
        let checked = check(&self.table, &snapshot, &TOPIC, loader, true)
            .await
            .unwrap();
        let live = file.live_rows().unwrap();
        assert_eq!(checked.problems, live, "{checked:?}");
        assert!(
            checked
                .findings
                .iter()
                .all(|found| found.check == "each_key_is_live_once")
        );
    }
}
