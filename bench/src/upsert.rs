//! `upsert_uniform`, `upsert_zipf`, `upsert_recent`, `upsert_100m`: updates of a table of many live
//! keys, in Arrow bodies through HTTP, with a commit every second; from the first byte until the last
//! row is committed. `upsert_kafka`: single JSON records of a Kafka backlog instead.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use serde_json::{Value, json};
use tidelake_schema::arrow::to_arrow;

use crate::records;
use crate::report::{Stopwatch, round};
use crate::system::{Options, System};

const BODY_RECORDS: u64 = 250_000;
const CLIENTS: usize = 2;
pub(crate) const ARROW: &str = "application/vnd.apache.arrow.stream";

/// Which keys are updated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys {
    /// All alike.
    Uniform,
    /// A few very often: Zipf's law, exponent 0.99, spread over the key space.
    Zipf,
    /// Those that were written last, and one new key in ten.
    Recent,
}

/// A small generator of our own: the same keys in every run.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Keys {
    /// The keys of one body; `live` keys are there already.
    fn pick(self, dice: &mut Dice, live: u64, body: u64, rows: u64) -> Vec<i64> {
        let mut newest = live + body * rows / 10;
        let key = |_| match self {
            Self::Uniform => dice.below(live),
            Self::Zipf => {
                let rest = 1.0 - 0.99;
                let rank = ((live as f64).powf(rest) - 1.0).mul_add(dice.unit(), 1.0);
                let rank = (rank.powf(1.0 / rest) as u64).min(live - 1);
                // Neighbours in rank are no neighbours in key order.
                rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) % live
            }
            Self::Recent => {
                if dice.below(10) == 0 {
                    newest += 1;
                    newest
                } else {
                    let age = -(dice.unit().max(1e-12)).ln() * 100_000.0;
                    newest.saturating_sub(age as u64)
                }
            }
        };
        (0..rows).map(key).map(|key| key as i64).collect()
    }
}

/// Rows with these ids; the other columns vary with `salt`.
pub(crate) fn rows(ids: Vec<i64>, salt: u64) -> Result<RecordBatch> {
    let mixes: Vec<u64> = ids
        .iter()
        .enumerate()
        .map(|(at, id)| {
            let mix = (*id as u64 ^ salt).wrapping_add(at as u64);
            (mix ^ 0x5DEE_CE66D).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 17
        })
        .collect();
    let texts = |text: &dyn Fn(u64) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            mixes.iter().map(|mix| text(*mix)),
        ))
    };
    let amounts = mixes.iter().map(|mix| (mix % 50_000) as f64 / 100.0);
    let times = (0..ids.len()).map(|at| 1_790_000_000_000 + (salt + at as u64 / 3) as i64);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids)),
        texts(&|mix| format!("u{:06}", mix % 500_000)),
        Arc::new(Float64Array::from_iter_values(amounts)),
        Arc::new(Int64Array::from_iter_values(times)),
        texts(&|mix| records::COUNTRIES[(mix >> 9) as usize % 12].to_owned()),
        texts(&|mix| records::EVENTS[(mix >> 5) as usize % 5].to_owned()),
    ];
    Ok(RecordBatch::try_new(
        to_arrow(&records::schema()?),
        columns,
    )?)
}

/// Rows as the body of a request.
pub(crate) fn body(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    let mut from = 0;
    while from < batch.num_rows() {
        let rows = (batch.num_rows() - from).min(64 * 1024);
        writer.write(&batch.slice(from, rows))?;
        from += rows;
    }
    Ok(writer.into_inner()?)
}

/// A commit every second, as the figures ask.
pub(crate) fn every_second() -> Options {
    Options {
        kafka: None,
        environment: vec![("TIDELAKE__FLUSHER__FLUSH_AGE_MS".into(), "1000".into())],
    }
}

/// Writes the keys `0..count`, in order, and waits until they are committed.
pub(crate) async fn fill(system: &Arc<System>, table: &str, count: u64) -> Result<()> {
    let bodies = (0..count).step_by(BODY_RECORDS as usize).map(move |from| {
        let to = (from + BODY_RECORDS).min(count);
        (from as i64..to as i64).collect::<Vec<_>>()
    });
    send(system, table, bodies.collect()).await?;
    system.flush(table).await?;
    Ok(())
}

/// Sends bodies by several clients; rows are made while others are under way.
async fn send(system: &Arc<System>, table: &str, bodies: Vec<Vec<i64>>) -> Result<u64> {
    let queue = Arc::new(tokio::sync::Mutex::new(bodies.into_iter().enumerate()));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (system, queue, table) = (system.clone(), queue.clone(), table.to_owned());
        clients.push(tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let next = queue.lock().await.next();
                let Some((at, ids)) = next else {
                    return anyhow::Ok(sent);
                };
                let body = body(&rows(ids, at as u64 * 1_000_003)?)?;
                let path = format!("/v1/tables/{table}/records");
                let answer = system.post(&path, body, ARROW).await?;
                sent += answer["records"].as_u64().unwrap_or_default();
            }
        }));
    }
    let mut sent = 0;
    for client in clients {
        sent += client.await??;
    }
    Ok(sent)
}

/// Fills a table of `live` keys, then measures `count` updates.
pub(crate) async fn run(name: &str, keys: Keys, live: u64, count: u64, target: f64) -> Result<()> {
    let system = Arc::new(System::start(&every_second())?);
    system.create_upsert("clicks", 4).await?;
    let loading = Stopwatch::start(&[("tidelake", system.pid())]);
    fill(&system, "clicks", live).await?;
    loading.report("upsert_load", live, None, json!({"for": name}));
    let folder = system.table_folder("clicks")?;
    let before = Written::of(&folder)?;
    let mut dice = Dice::new(7);
    let bodies: Vec<Vec<i64>> = (0..count.div_ceil(BODY_RECORDS))
        .map(|at| keys.pick(&mut dice, live, at, BODY_RECORDS))
        .collect();
    let watch = Stopwatch::start(&[("tidelake", system.pid())]);
    let sent = send(&system, "clicks", bodies).await?;
    system.flush("clicks").await?;
    let cpu = watch.cpu_seconds("tidelake");
    let written = Written::of(&folder)?.since(&before);
    let row_bytes = written.parquet as f64 / sent as f64;
    let more = json!({
        "live_keys": live,
        "commits": written.commits,
        "system_cpu_seconds_per_million": round(cpu * 1e6 / sent as f64, 3),
        "bytes_per_upsert": round(written.total() as f64 / sent as f64, 1),
        "parquet_bytes_per_upsert": round(row_bytes, 1),
        "bytes_written_per_parquet_byte": round(written.total() as f64 / written.parquet as f64, 2),
        "index_bytes_per_key": round(before.index as f64 / live as f64, 2),
        "written": written.json(),
    });
    watch.report(name, sent, Some(target), more);
    if !matches!(keys, Keys::Recent) {
        let found = system.count("clicks").await?;
        ensure!(found == live, "{found} live rows, expected {live}");
    }
    Ok(())
}

/// Bytes in a table's folder, by what they are.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    pub parquet: u64,
    pub index: u64,
    pub vectors: u64,
    pub log: u64,
    pub commits: u64,
}

impl Written {
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let mut sum = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let bytes = entry.metadata()?.len();
                let in_log = path
                    .components()
                    .any(|part| part.as_os_str() == "_delta_log");
                match path.extension().and_then(|text| text.to_str()) {
                    _ if in_log => {
                        sum.log += bytes;
                        sum.commits += u64::from(path.extension().is_some_and(|e| e == "json"));
                    }
                    Some("parquet") => sum.parquet += bytes,
                    Some("idx") => sum.index += bytes,
                    Some("bin") => sum.vectors += bytes,
                    _ => {}
                }
            }
        }
        Ok(sum)
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            parquet: self.parquet - before.parquet,
            index: self.index - before.index,
            vectors: self.vectors - before.vectors,
            log: self.log - before.log,
            commits: self.commits - before.commits,
        }
    }

    fn total(&self) -> u64 {
        self.parquet + self.index + self.vectors + self.log
    }

    fn json(&self) -> Value {
        json!({"parquet": self.parquet, "index": self.index, "vectors": self.vectors, "log": self.log})
    }
}
