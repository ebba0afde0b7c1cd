//! P3 and P4 over a random history: every version is what the table was then, for us and for others,
//! and the difference between two versions leads from the one to the other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tidelake_tests::{Client, Installation};

use crate::others::{self, State};
use crate::upsert_load::schema;

const KEYS: u64 = 400;
const ROUNDS: usize = 24;
const DIFFERENCES: usize = 20;

type Model = BTreeMap<u64, u64>;

/// xorshift: the same history in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A few bodies of upserts and deletes: some of a handful of keys, some of most of them; keys repeat
/// within a body.
async fn change(client: &Client, random: &mut Random, model: &mut Model) -> Result<()> {
    for _ in 0..=random.below(4) {
        let records = match random.below(3) {
            0 => 1 + random.below(5),
            1 => 1 + random.below(60),
            _ => KEYS,
        };
        let delete = random.below(3) == 0;
        let mut lines = String::new();
        for _ in 0..records {
            let (id, v) = (random.below(KEYS), random.below(50));
            if delete {
                lines.push_str(&format!("{{\"id\":{id}}}\n"));
                model.remove(&id);
            } else {
                lines.push_str(&format!("{{\"id\":{id},\"v\":{v}}}\n"));
                model.insert(id, v);
            }
        }
        if delete {
            client.delete("t", &lines).await?.ok()?;
        } else {
            client.ndjson("t", &lines).await?.ok()?;
        }
    }
    Ok(())
}

/// What a difference makes of a model; every change must fit it.
fn applied(model: &Model, changes: &[Value]) -> Result<Model> {
    let mut after = model.clone();
    let mut before = BTreeSet::new();
    let mut changed = BTreeSet::new();
    for change in changes {
        let id = change[1].as_u64().context("no id")?;
        let v = change[2].as_u64().context("no value")?;
        let fits = match change[0].as_str() {
            Some("insert") => !model.contains_key(&id) && after.insert(id, v).is_none(),
            Some("delete") => model.get(&id) == Some(&v) && after.remove(&id).is_some(),
            Some("update_preimage") => model.get(&id) == Some(&v) && before.insert(id),
            Some("update_postimage") => {
                after.insert(id, v);
                model.contains_key(&id) && changed.insert(id)
            }
            other => bail!("a change of kind {other:?}"),
        };
        ensure!(fits, "{change} does not fit {:?}", model.get(&id));
    }
    ensure!(before == changed, "updates without their other half");
    Ok(after)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_and_every_difference_is_exact() {
    let mut local = Installation::start().await.unwrap();
    local.client.create_upsert("t", &schema(), 3).await.unwrap();
    let mut random = Random(0x7469_6465_6c61_6b65);
    let mut model = Model::new();
    let mut versions: Vec<(u64, Model)> = Vec::new();
    for round in 0..ROUNDS {
        change(&local.client, &mut random, &mut model)
            .await
            .unwrap();
        if round == ROUNDS / 2 {
            local.process.kill().unwrap();
            local.restart().await.unwrap();
        }
        let version = local.client.flushed("t").await.unwrap();
        versions.push((version, model.clone()));
    }
    let client = &local.client;
    let sql = "SELECT id, v FROM t ORDER BY id";
    for (version, model) in &versions {
        let rows = client.pairs_at(sql, *version).await.unwrap();
        let rows: Vec<_> = rows.into_iter().collect();
        assert!(rows.iter().copied().eq(model.clone()), "version {version}");
    }
    for _ in 0..DIFFERENCES {
        let to = 1 + random.below(ROUNDS as u64 - 1) as usize;
        let from = random.below(to as u64) as usize;
        let (from, to) = (&versions[from], &versions[to]);
        let sql = format!(
            "SELECT _change_type, id, v FROM table_changes('t', {}, {})",
            from.0, to.0
        );
        let changes = client.sql(&sql, "committed").await.unwrap();
        let after = applied(&from.1, &changes).unwrap();
        assert_eq!(after, to.1, "from version {} to {}", from.0, to.0);
    }
    let folder = local.table_folder("t").unwrap();
    let sample = [0, ROUNDS / 3, ROUNDS / 2, ROUNDS - 2, ROUNDS - 1];
    let states: Vec<_> = sample
        .map(|round| {
            let (version, model) = &versions[round];
            State {
                folder: folder.clone(),
                version: *version,
                rows: model.iter().map(|(id, v)| (*id, *v)).collect(),
            }
        })
        .into();
    others::agree(&states, ["id", "v"]).await.unwrap();
}
