//! What producers write: an append set, a register for each key, and bank transfers.
//!
//! | workload | table | writes | holds at every version |
//! | --- | --- | --- | --- |
//! | append set | `events` | rows that are each written once, alone or many in a message | each message's rows exactly once |
//! | registers | `registers` | values and tombstones of a few keys, some of them into a wrong bucket | the last write of each key |
//! | bank | `bank` | both sides of a transfer in one message | the sum of all accounts |
//!
//! Producers write straight to the log, as Kafka clients do, and repeat what was not acknowledged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use arrow::array::{Int64Array, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use tidelake_codec::packed;
use tidelake_core::partition::bucket_of;
use tidelake_core::{Bucket, headers};
use tidelake_log::TopicWriter;
use tidelake_log::memory::MemoryLog;
use tidelake_log::{LogError, Message};

use crate::dice::Dice;
use crate::machine::pass;
use crate::model::{INTENT, Intent, Intents, Op, buckets};
use crate::sim::{Sim, lock};
use crate::tables::Table;

/// Keys of the registers.
const KEYS: u64 = 60;
/// What each account has at first.
pub(crate) const MONEY: i64 = 100;

/// Who writes.
#[derive(Debug, Clone)]
pub(crate) struct Producers {
    pub log: MemoryLog,
    pub sim: Arc<Sim>,
    pub intents: Arc<Mutex<Intents>>,
    /// By bucket: behind the last message whose writer was told that it is there.
    pub acknowledged: Arc<Mutex<Ends>>,
}

/// Offsets by table and bucket.
pub(crate) type Ends = BTreeMap<(&'static str, u32), i64>;

/// A message before it is numbered.
#[derive(Debug)]
struct Draft {
    ops: Vec<Op>,
    is_poison: bool,
    bucket: u32,
    key: Option<Bytes>,
    value: Option<Bytes>,
    is_packed: bool,
}

impl Draft {
    fn json(op: Op, bucket: u32) -> Self {
        let key = op.key();
        let value = match op {
            Op::Put(key, value) => Some(format!("{{\"id\":{key},\"value\":{value}}}").into()),
            Op::Delete(_) => None,
        };
        Self {
            ops: vec![op],
            is_poison: false,
            bucket,
            key: Some(key.to_string().into()),
            value,
            is_packed: false,
        }
    }

    fn packed(ops: Vec<Op>, bucket: u32) -> Result<Self> {
        let value = pack(&ops)?;
        Ok(Self {
            ops,
            is_poison: false,
            bucket,
            key: None,
            value: Some(value),
            is_packed: true,
        })
    }

    fn poison(bucket: u32) -> Self {
        Self {
            ops: Vec::new(),
            is_poison: true,
            bucket,
            key: Some("1".into()),
            value: Some("{\"id\":\"no number\"".into()),
            is_packed: false,
        }
    }
}

/// Rows as the gateway packs them.
fn pack(ops: &[Op]) -> Result<Bytes> {
    let keys = ops.iter().map(|op| op.key());
    let values = ops.iter().map(|op| match op {
        Op::Put(_, value) => Some(*value),
        Op::Delete(_) => None,
    });
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let columns = vec![
        Arc::new(Int64Array::from_iter_values(keys)) as _,
        Arc::new(Int64Array::from_iter(values)) as _,
    ];
    let batch = RecordBatch::try_new(Arc::new(schema), columns)?;
    let deletes = ops.iter().map(|op| matches!(op, Op::Delete(_)));
    let deletes = BooleanBuffer::from_iter(deletes);
    Ok(packed::encode_with(&batch, Some(&deletes))?)
}

fn home(key: i64, buckets: u32) -> u32 {
    bucket_of(key.to_string().as_bytes(), buckets).0
}

/// Accounts: keys of one bucket, so that one message can change two of them.
pub(crate) fn accounts(buckets: u32) -> Vec<i64> {
    (0..200)
        .filter(|key| home(*key, buckets) == 0)
        .take(8)
        .collect()
}

impl Producers {
    /// Writes rows that are each written once, until it is stopped.
    pub(crate) async fn append_set(self, table: Table) -> Result<()> {
        let mut next = 0;
        loop {
            self.waits().await;
            let buckets = buckets(&self.log, &table.entry.topic).count() as u64;
            let draft = self.sim.draw(|dice| {
                let bucket = dice.of(0..buckets.max(1)) as u32;
                let mut id = || {
                    next += 1;
                    Op::Put(next, next % 7)
                };
                match dice.of(0..10) {
                    0 => Ok(Draft::poison(bucket)),
                    1..5 => Draft::packed((0..dice.of(1..50)).map(|_| id()).collect(), bucket),
                    _ => Ok(Draft::json(id(), bucket)),
                }
            });
            self.write(&table, draft?).await;
        }
    }

    /// Writes values and tombstones of a few keys, until it is stopped.
    pub(crate) async fn registers(self, table: Table) -> Result<()> {
        let mut value = 0;
        loop {
            self.waits().await;
            let draft = self.sim.draw(|dice| {
                let buckets = table.buckets;
                let mut op = |dice: &mut Dice, key: i64| {
                    value += 1;
                    match dice.hits(200) {
                        true => Op::Delete(key),
                        false => Op::Put(key, value),
                    }
                };
                let key = dice.of(0..KEYS) as i64;
                match dice.of(0..12) {
                    0 => Ok(Draft::poison(home(1, buckets))),
                    1 => {
                        let elsewhere = dice.of(0..u64::from(buckets)) as u32;
                        Ok(Draft::json(op(dice, key), elsewhere))
                    }
                    2..6 => {
                        let bucket = home(key, buckets);
                        let keys = (0..KEYS as i64).filter(|key| home(*key, buckets) == bucket);
                        let keys: Vec<_> = keys.filter(|_| dice.hits(300)).chain([key]).collect();
                        Draft::packed(keys.into_iter().map(|key| op(dice, key)).collect(), bucket)
                    }
                    _ => Ok(Draft::json(op(dice, key), home(key, buckets))),
                }
            });
            self.write(&table, draft?).await;
        }
    }

    /// Moves money between accounts, until it is stopped.
    pub(crate) async fn bank(self, table: Table) -> Result<()> {
        let accounts = accounts(table.buckets);
        let opening = accounts.iter().map(|key| Op::Put(*key, MONEY)).collect();
        let mut opening = Some(Draft::packed(opening, 0)?);
        let mut balances = vec![MONEY; accounts.len()];
        loop {
            let draft = match opening.take() {
                Some(draft) => draft,
                None => {
                    self.waits().await;
                    let (from, to, money) = self.sim.draw(|dice| {
                        let mut account = || dice.of(0..accounts.len() as u64) as usize;
                        (account(), account(), dice.of(1..20) as i64)
                    });
                    if from == to {
                        continue;
                    }
                    balances[from] -= money;
                    balances[to] += money;
                    let side = |at: usize| Op::Put(accounts[at], balances[at]);
                    Draft::packed(vec![side(from), side(to)], 0)?
                }
            };
            self.write(&table, draft).await;
        }
    }

    async fn waits(&self) {
        pass(self.sim.draw(|dice| dice.of(5..400))).await;
    }

    /// Writes a message until it is acknowledged. As with a producer that is not idempotent, each
    /// try may put it into the log once more.
    async fn write(&self, table: &Table, draft: Draft) {
        let Draft {
            ops,
            is_poison,
            bucket,
            key,
            value,
            is_packed,
        } = draft;
        let intent = Intent { ops, is_poison };
        let number = lock(&self.intents).add(intent);
        let mut named = vec![(INTENT.into(), Bytes::from(number.to_string()))];
        if is_packed {
            let arrow = Bytes::from_static(headers::ENCODING_ARROW);
            named.push((headers::ENCODING.into(), arrow));
        }
        let message = Message {
            topic: table.topic(),
            bucket: Bucket(bucket),
            key,
            value,
            headers: named,
            timestamp_ms: None,
        };
        loop {
            let fate = self.sim.fate();
            pass(fate.there_ms).await;
            if !fate.arrives {
                continue;
            }
            let written = self.log.send(message.clone()).await;
            let name = table.name;
            self.sim.note(format_args!(
                "{name}/{bucket} <- intent {number}: {written:?}"
            ));
            pass(fate.back_ms).await;
            if let (true, Ok(offset)) = (fate.answered, &written) {
                let mut ends = lock(&self.acknowledged);
                let end = ends.entry((table.name, bucket)).or_default();
                *end = offset.next().0.max(*end);
            }
            let gone = matches!(written, Err(LogError::NoTopic(_)));
            if gone || fate.answered && written.is_ok() {
                return;
            }
        }
    }
}
