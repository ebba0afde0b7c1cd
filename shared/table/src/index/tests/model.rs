//! Random histories of flushes, deaths and merges against a map of key to places.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

type Place = (u32, u32);

#[derive(Debug, Clone)]
enum Step {
    /// The keys of a file's rows.
    Flush(Vec<OwnedKey>),
    /// A file goes, by its number among those that live.
    Remove(usize),
    /// Every n-th row of every file dies.
    Kill(u32),
    /// What is due is merged; all runs if nothing is.
    Merge,
    /// These runs are merged (by bits).
    MergeSome(u32),
    /// Two runs are merged while a file is added.
    MergeBeside(Vec<OwnedKey>),
    Probe(Vec<OwnedKey>),
    Range(Bound<OwnedKey>, Bound<OwnedKey>),
    Stop(usize),
}

fn steps(kind: KeyKind) -> impl Strategy<Value = Vec<Step>> {
    let key = key_of(kind);
    let keys = prop_oneof![
        3 => prop::collection::vec(key.clone(), 0..40),
        1 => prop::collection::vec(key.clone(), 200..400),
    ];
    let bound = prop_oneof![
        1 => Just(Bound::Unbounded),
        2 => key.clone().prop_map(Bound::Included),
        2 => key.prop_map(Bound::Excluded),
    ];
    let step = prop_oneof![
        6 => keys.clone().prop_map(Step::Flush),
        1 => (0..8_usize).prop_map(Step::Remove),
        1 => (2..20_u32).prop_map(Step::Kill),
        2 => Just(Step::Merge),
        1 => any::<u32>().prop_map(Step::MergeSome),
        1 => keys.clone().prop_map(Step::MergeBeside),
        2 => keys.prop_map(Step::Probe),
        3 => (bound.clone(), bound).prop_map(|(from, to)| Step::Range(from, to)),
        1 => (1..50_usize).prop_map(Step::Stop),
    ];
    prop::collection::vec(step, 1..30)
}

struct Model {
    entries: BTreeMap<OwnedKey, BTreeSet<Place>>,
    files: Vec<u32>,
    next: u32,
}

impl Model {
    fn slot(&self) -> impl Fn(&str) -> Option<u32> + use<> {
        let files = self.files.clone();
        move |path| slot(path).filter(|file| files.contains(file))
    }

    fn holds(&self, key: &OwnedKey, place: Place) -> bool {
        self.entries
            .get(key)
            .is_some_and(|places| places.contains(&place))
    }
}

struct Sut {
    kind: KeyKind,
    home: IndexHome,
    index: Index,
    model: Model,
}

impl Sut {
    fn new(kind: KeyKind, home: IndexHome) -> Self {
        let model = Model {
            entries: BTreeMap::new(),
            files: Vec::new(),
            next: 0,
        };
        let index = Index::new(kind);
        Self {
            kind,
            home,
            index,
            model,
        }
    }

    fn flush(&mut self, rows: &[OwnedKey]) {
        let file = self.model.next;
        self.model.next += 1;
        self.model.files.push(file);
        let entries = Entries::of_rows(&keys_of(self.kind, rows));
        let path: Arc<str> = file.to_string().into();
        let added = if file.is_multiple_of(2) {
            self.index
                .with_entries(&self.home, Arc::clone(&path), &entries)
        } else {
            let bytes = encode_sidecar(&entries);
            self.index
                .with_sidecar(&self.home, Arc::clone(&path), bytes)
        };
        self.index = added.unwrap();
        // A second time changes nothing.
        let again = self
            .index
            .with_entries(&self.home, Arc::clone(&path), &entries)
            .unwrap();
        assert_eq!(again.entries(), self.index.entries());
        assert!(self.index.covers(&path));
        for (row, key) in rows.iter().enumerate() {
            let places = self.model.entries.entry(key.clone()).or_default();
            places.insert((file, row as u32));
        }
    }

    fn remove(&mut self, number: usize) {
        if !self.model.files.is_empty() {
            let file = self.model.files.remove(number % self.model.files.len());
            for places in self.model.entries.values_mut() {
                places.retain(|place| place.0 != file);
            }
        }
    }

    fn kill(&mut self, nth: u32) {
        for places in self.model.entries.values_mut() {
            places.retain(|place| place.1 % nth != 1);
        }
    }

    /// What the model knows of as live, with what died but may still stand in a run.
    fn merge(&mut self, job: &MergeJob, beside: Option<&[OwnedKey]>) {
        let slot = self.model.slot();
        let live: BTreeSet<Place> = self.model.entries.values().flatten().copied().collect();
        let dead = |file, row| !live.contains(&(file, row));
        let run = self.index.merge(job, &self.home, &slot, &dead).unwrap();
        let of_run = |place: &&Place| run.files().contains(&place.0.to_string());
        let kept = live.iter().filter(of_run).count();
        assert_eq!(run.entries(), kept as u64, "the dead are gone");
        if let Some(rows) = beside {
            self.flush(rows);
        }
        let before = self.index.clone();
        self.index = before.replaced(job, run);
        let files: Vec<_> = self.index.files().cloned().collect();
        let distinct: BTreeSet<_> = files.iter().collect();
        assert_eq!(distinct.len(), files.len(), "a file stands in one run");
        for file in &self.model.files {
            assert!(self.index.covers(&file.to_string()));
        }
    }

    /// The hits that are true. Others must be dead ones.
    fn true_hits(&self, key: &OwnedKey, hits: &[Place]) -> BTreeSet<Place> {
        let of_live_files = hits.iter().all(|hit| self.model.files.contains(&hit.0));
        assert!(of_live_files, "no hit in a file without a slot");
        let distinct: BTreeSet<Place> = hits.iter().copied().collect();
        assert_eq!(distinct.len(), hits.len(), "each entry once");
        let holds = |hit: &Place| self.model.holds(key, *hit);
        distinct.into_iter().filter(holds).collect()
    }

    fn probe(&self, keys: &[OwnedKey]) {
        let wanted: BTreeSet<&OwnedKey> = keys.iter().chain(self.model.entries.keys()).collect();
        for keys in [keys.iter().collect(), wanted] {
            let keys: Vec<&OwnedKey> = keys
                .into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            let mut found = vec![Vec::new(); keys.len()];
            let probes = keys_of(self.kind, keys.iter().copied());
            self.index
                .probe(&probes, &self.model.slot(), &mut |key, slot, row| {
                    found[key].push((slot, row));
                })
                .unwrap();
            let none = BTreeSet::new();
            for (key, hits) in keys.iter().zip(&found) {
                let expected = self.model.entries.get(*key).unwrap_or(&none);
                assert_eq!(&self.true_hits(key, hits), expected, "key {key:?}");
            }
        }
    }

    fn range(&self, from: &Bound<OwnedKey>, to: &Bound<OwnedKey>, stop: usize) {
        let mut found: Vec<(OwnedKey, Place)> = Vec::new();
        let (from, to) = (from.as_ref(), to.as_ref());
        let (low, high) = (from.map(OwnedKey::as_ref), to.map(OwnedKey::as_ref));
        self.index
            .range(low, high, &self.model.slot(), &mut |key, slot, row| {
                found.push((OwnedKey::of(key), (slot, row)));
                found.len() < stop
            })
            .unwrap();
        assert!(found.is_sorted_by_key(|(key, _)| key));
        let within = |key: &OwnedKey| {
            (match from {
                Bound::Included(from) => from <= key,
                Bound::Excluded(from) => from < key,
                Bound::Unbounded => true,
            }) && (match to {
                Bound::Included(to) => key <= to,
                Bound::Excluded(to) => key < to,
                Bound::Unbounded => true,
            })
        };
        assert!(found.iter().all(|(key, _)| within(key)));
        let stopped = found.len() == stop;
        let last = found.last().map(|(key, _)| key.clone());
        let mut by_key: BTreeMap<OwnedKey, Vec<Place>> = BTreeMap::new();
        for (key, place) in found {
            by_key.entry(key).or_default().push(place);
        }
        for (key, places) in &self.model.entries {
            // The last key may have been cut.
            let cut = stopped && last.as_ref().is_none_or(|last| key >= last);
            if within(key) && !cut {
                let hits = by_key.get(key).map_or(&[][..], Vec::as_slice);
                assert_eq!(&self.true_hits(key, hits), places, "key {key:?}");
            }
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Flush(rows) => self.flush(rows),
            Step::Remove(number) => self.remove(*number),
            Step::Kill(nth) => self.kill(*nth),
            Step::Merge => {
                let job = self.index.due().or_else(|| self.index.merge_all());
                if let Some(job) = job {
                    self.merge(&job, None);
                }
            }
            Step::MergeSome(bits) => {
                let chosen = |i: &usize| bits >> (i % 32) & 1 == 1;
                let runs = self.index.runs();
                let places = (0..runs.len()).filter(chosen);
                let runs = places.map(|i| Arc::clone(&runs[i])).collect();
                self.merge(&MergeJob { runs }, None);
            }
            Step::MergeBeside(rows) => {
                let runs = self.index.runs().iter().take(2).cloned().collect();
                self.merge(&MergeJob { runs }, Some(rows));
            }
            Step::Probe(keys) => self.probe(keys),
            Step::Range(from, to) => self.range(from, to, usize::MAX),
            Step::Stop(after) => self.range(&Bound::Unbounded, &Bound::Unbounded, *after),
        }
    }
}

fn runs_true(kind: KeyKind, home: IndexHome, steps: &[Step]) {
    let mut sut = Sut::new(kind, home);
    for step in steps {
        sut.step(step);
    }
    sut.probe(&[]);
    sut.range(&Bound::Unbounded, &Bound::Unbounded, usize::MAX);
}

fn histories() -> impl Strategy<Value = (KeyKind, Vec<Step>)> {
    kinds().prop_flat_map(|kind| (Just(kind), steps(kind)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn runs_in_memory_answer_as_a_map((kind, steps) in histories()) {
        runs_true(kind, IndexHome::memory(), &steps);
    }

    #[test]
    fn runs_in_files_answer_as_a_map((kind, steps) in histories(), most in 0..3000_usize) {
        let folder = tempfile::tempdir().unwrap();
        let home = IndexHome::open(folder.path(), most).unwrap();
        runs_true(kind, home, &steps);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        prop_assert_eq!(left.len(), 1, "only the lock is left: {:?}", left);
    }
}

/// URLs are equal in their first 16 bytes and more: what would be one hash is many keys.
#[test]
fn keys_that_share_their_head_are_all_found_exactly() {
    let url = |i: u32| {
        let text = format!("https://example.com/catalog/items/{i:07}");
        OwnedKey::Bytes(text.into_bytes())
    };
    let all: Vec<OwnedKey> = (0..12_000).map(|i| url(i * 2)).collect();
    let folder = tempfile::tempdir().unwrap();
    for home in [
        IndexHome::memory(),
        IndexHome::open(folder.path(), 100).unwrap(),
    ] {
        let mut sut = Sut::new(KeyKind::Bytes, home);
        for rows in all.chunks(1700) {
            sut.flush(rows);
        }
        let absent: Vec<OwnedKey> = (0..12_000).map(|i| url(i * 2 + 1)).collect();
        sut.probe(&absent);
        let job = sut.index.merge_all().unwrap();
        sut.merge(&job, None);
        assert_eq!(sut.index.runs().len(), 1);
        sut.probe(&absent);
        sut.range(
            &Bound::Excluded(url(99)),
            &Bound::Excluded(url(17_001)),
            usize::MAX,
        );
    }
}

/// More entries of one key than a block has.
#[test]
fn a_key_that_fills_blocks_is_found_in_all_of_them() {
    for (kind, key) in [
        (KeyKind::Fixed { bytes: 4 }, OwnedKey::Fixed(7)),
        (KeyKind::Bytes, OwnedKey::Bytes(b"seven".to_vec())),
        (KeyKind::Bytes, OwnedKey::Bytes(vec![])),
    ] {
        let (below, above) = match &key {
            OwnedKey::Fixed(_) => (OwnedKey::Fixed(6), OwnedKey::Fixed(8)),
            OwnedKey::Bytes(_) => (
                OwnedKey::Bytes(b"a".to_vec()),
                OwnedKey::Bytes(b"z".to_vec()),
            ),
        };
        let mut sut = Sut::new(kind, IndexHome::memory());
        for _ in 0..300 {
            sut.flush(&[below.clone(), key.clone(), above.clone(), key.clone()]);
        }
        let job = sut.index.merge_all().unwrap();
        sut.merge(&job, None);
        sut.probe(std::slice::from_ref(&key));
        for bound in [Bound::Included(key.clone()), Bound::Excluded(key.clone())] {
            sut.range(&bound, &Bound::Unbounded, usize::MAX);
            sut.range(&Bound::Unbounded, &bound, usize::MAX);
        }
    }
}

/// Runs that take several of the largest reads.
#[test]
fn long_runs_in_files_are_read_in_pieces() {
    let count = 150_000_u32;
    let folder = tempfile::tempdir().unwrap();
    let home = IndexHome::open(folder.path(), 0).unwrap();
    for kind in [KeyKind::Fixed { bytes: 8 }, KeyKind::Bytes] {
        let mut keys = Keys::new(kind);
        for row in 0..count {
            let number = row.wrapping_mul(2_654_435_761);
            match kind {
                KeyKind::Fixed { .. } => keys.push(KeyRef::Fixed(number.into())),
                KeyKind::Bytes => keys.push(KeyRef::Bytes(format!("key {number:010}").as_bytes())),
            }
        }
        let entries = Entries::of_rows(&keys);
        let index = Index::new(kind);
        let index = index.with_entries(&home, "0".into(), &entries).unwrap();
        assert!(index.bytes() > 512 << 10);
        let all = |place: usize| (entries.keys.get(place), entries.rows[place]);
        let mut hits = 0;
        let mut hit = |place: usize, _, row| {
            assert_eq!(row, all(place).1);
            hits += 1;
        };
        index.probe(&entries.keys, &slot, &mut hit).unwrap();
        assert_eq!(hits, count);
        for from in [0, 70_001] {
            let mut place = from;
            let bound = Bound::Included(entries.keys.get(from));
            index
                .range(bound, Bound::Unbounded, &slot, &mut |key, _, row| {
                    assert_eq!((key, row), all(place));
                    place += 1;
                    true
                })
                .unwrap();
            assert_eq!(place, count as usize);
        }
    }
}

#[test]
fn a_steady_stream_of_flushes_leaves_few_runs_and_few_rewrites() {
    let kind = KeyKind::Fixed { bytes: 4 };
    let mut index = Index::new(kind);
    let home = IndexHome::memory();
    let (mut rewritten, flushes, rows) = (0, 300_u32, 20_u32);
    for file in 0..flushes {
        let rows: Vec<_> = (0..rows)
            .map(|row| OwnedKey::Fixed(u128::from(row * 1000 + file)))
            .collect();
        let entries = Entries::of_rows(&keys_of(kind, &rows));
        index = index
            .with_entries(&home, file.to_string().into(), &entries)
            .unwrap();
        while let Some(job) = index.due() {
            rewritten += job.entries();
            let run = index.merge(&job, &home, &slot, &|_, _| false).unwrap();
            index = index.replaced(&job, run);
        }
        assert!(index.runs().len() <= 6);
    }
    assert_eq!(index.entries(), u64::from(flushes * rows));
    assert!(rewritten < 7 * u64::from(flushes * rows), "{rewritten}");
}

#[test]
fn many_sidecars_at_once_become_few_runs() {
    let kind = KeyKind::Fixed { bytes: 4 };
    let (mut index, home) = (Index::new(kind), IndexHome::memory());
    for file in 0..200_u32 {
        let key = OwnedKey::Fixed(u128::from(file));
        let entries = Entries::of_rows(&keys_of(kind, [&key]));
        index = index
            .with_entries(&home, file.to_string().into(), &entries)
            .unwrap();
    }
    let mut merges = 0;
    while let Some(job) = index.due() {
        let run = index.merge(&job, &home, &slot, &|_, _| false).unwrap();
        index = index.replaced(&job, run);
        merges += 1;
    }
    assert_eq!(index.entries(), 200);
    assert!(merges <= 4, "{merges}");
}

#[test]
fn a_run_that_is_mostly_dead_is_due_and_shrinks() {
    let kind = KeyKind::Fixed { bytes: 4 };
    let (index, home) = (Index::new(kind), IndexHome::memory());
    let keys: Vec<_> = (0..200_000_u128).map(OwnedKey::Fixed).collect();
    let entries = Entries::of_rows(&keys_of(kind, &keys));
    let index = index.with_entries(&home, "1".into(), &entries).unwrap();
    assert!(index.due_for(&|_| 150_000).is_none());
    let job = index.due_for(&|_| 50_000).unwrap();
    let run = index
        .merge(&job, &home, &slot, &|_, row| row % 4 != 0)
        .unwrap();
    let index = index.replaced(&job, run);
    assert_eq!(index.entries(), 50_000);
    assert!(index.covers("1"));
    assert!(index.due_for(&|_| 50_000).is_none());
    let gone = index.trimmed(&|_| false);
    assert_eq!((gone.runs().len(), gone.covers("1")), (0, false));
}

#[test]
fn a_merge_of_runs_that_were_merged_meanwhile_changes_nothing() {
    let kind = KeyKind::Fixed { bytes: 4 };
    let mut sut = Sut::new(kind, IndexHome::memory());
    for key in 0..3 {
        sut.flush(&[OwnedKey::Fixed(key)]);
    }
    let job = sut.index.merge_all().unwrap();
    let late = sut
        .index
        .merge(&job, &sut.home, &slot, &|_, _| false)
        .unwrap();
    sut.merge(&job, None);
    let after = sut.index.replaced(&job, late);
    assert_eq!((after.entries(), after.runs().len()), (3, 1));
}

/// What the budgets say, on keys that random upserts touch.
#[test]
fn integer_keys_cost_less_than_four_bytes() {
    let kind = KeyKind::Fixed { bytes: 8 };
    let scattered = |i: u128| (i * 6_700_417) % 10_000_019;
    let keys: Vec<_> = (0..125_000)
        .map(|i| OwnedKey::Fixed(scattered(i)))
        .collect();
    let random = encode_sidecar(&Entries::of_rows(&keys_of(kind, &keys)));
    assert!(random.len() < 4 * keys.len(), "{}", random.len());
    let keys: Vec<_> = (0..125_000).map(OwnedKey::Fixed).collect();
    let ascending = encode_sidecar(&Entries::of_rows(&keys_of(kind, &keys)));
    assert!(ascending.len() < keys.len() / 4, "{}", ascending.len());
}
