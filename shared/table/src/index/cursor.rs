//! Walking through runs in key order: one run, or many as one.

use std::ops::Bound;

use super::decode::Block;
use super::error::IndexError;
use super::keys::KeyRef;
use super::run::{Reader, Run};
use super::sort::common_prefix;

/// A place in a run that moves upwards, block by block.
#[derive(Debug)]
struct Cursor<'a> {
    run: &'a Run,
    reader: Reader<'a>,
    block: Block,
    positions: Vec<u64>,
    at: usize,
    /// The next block to read.
    next: usize,
    /// Blocks below this are fetched.
    fetched: usize,
    /// Bytes of the next read; grows up to `read_bytes_max`.
    read_bytes: u64,
    read_bytes_max: u64,
}

impl<'a> Cursor<'a> {
    /// Stands on the first entry not below `from`; None where there is none.
    fn open(
        run: &'a Run,
        from: Bound<KeyRef<'_>>,
        read_bytes: u64,
        read_bytes_max: u64,
    ) -> Result<Option<Self>, IndexError> {
        let next = match from {
            Bound::Unbounded => 0,
            Bound::Included(key) | Bound::Excluded(key) => run.fences().walk().seek(key),
        };
        let mut cursor = Self {
            run,
            reader: Reader::new(run),
            block: Block::default(),
            positions: Vec::new(),
            at: 0,
            next,
            fetched: 0,
            read_bytes,
            read_bytes_max,
        };
        if !cursor.read_block()? {
            return Ok(None);
        }
        let (Bound::Included(key) | Bound::Excluded(key)) = from else {
            return Ok(Some(cursor));
        };
        loop {
            cursor.at = cursor.block.lower_bound(0, key);
            if matches!(from, Bound::Excluded(_)) {
                let equal = |at| at < cursor.block.len() && cursor.block.key(at) == key;
                let mut at = cursor.at;
                while equal(at) {
                    at += 1;
                }
                cursor.at = at;
            }
            if cursor.at < cursor.block.len() {
                return Ok(Some(cursor));
            }
            if !cursor.read_block()? {
                return Ok(None);
            }
        }
    }

    fn read_block(&mut self) -> Result<bool, IndexError> {
        let fences = self.run.fences();
        if self.next >= fences.len() {
            return Ok(false);
        }
        if self.next >= self.fetched {
            let end = fences.offset(self.next) + self.read_bytes;
            let mut to = self.next + 1;
            while to < fences.len() && fences.offset(to + 1) <= end {
                to += 1;
            }
            self.reader.fetch(self.next, to)?;
            self.fetched = to;
            self.read_bytes = (2 * self.read_bytes).min(self.read_bytes_max);
        }
        let raw = self.reader.raw(self.next)?;
        let damaged = |problem| self.run.damaged(problem);
        let header = raw.header().map_err(damaged)?;
        let first = fences.first(self.next);
        self.block.read(raw, &header, first).map_err(damaged)?;
        self.positions.resize(header.entries, 0);
        header.positions.all(raw, &mut self.positions);
        self.next += 1;
        self.at = 0;
        Ok(true)
    }

    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.block.key(self.at)
    }

    /// False at the end.
    #[inline]
    fn advance(&mut self) -> Result<bool, IndexError> {
        self.at += 1;
        if self.at < self.block.len() {
            return Ok(true);
        }
        self.read_block()
    }
}

/// All entries of some runs in key order. Equal keys come one after the other, in any order.
///
/// A tournament: each inner node keeps the cursor that lost there, so a step compares once at each
/// level.
#[derive(Debug)]
pub(super) struct Merged<'a> {
    cursors: Vec<Cursor<'a>>,
    /// Which run each cursor walks through.
    runs: Vec<usize>,
    /// So many bytes are the same in all keys.
    shared: usize,
    /// The head of each cursor's key behind them; the greatest one at the end.
    heads: Vec<u128>,
    ended: Vec<bool>,
    /// Node `n` has the children `2 n` and `2 n + 1`; those from the number of cursors on are the
    /// cursors. Node 0 is the winner.
    losers: Vec<usize>,
}

/// One entry, with the place of its run among those given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    pub run: usize,
    pub key: KeyRef<'a>,
    pub position: u64,
}

impl<'a> Merged<'a> {
    /// Begins with reads of `read_bytes` of each run and doubles them up to `read_bytes_max`.
    pub(super) fn open(
        runs: impl IntoIterator<Item = &'a Run> + Clone,
        from: Bound<KeyRef<'_>>,
        read_bytes: u64,
        read_bytes_max: u64,
    ) -> Result<Self, IndexError> {
        let prefixes = runs.clone().into_iter().filter(|run| run.entries() > 0);
        let shared = prefixes
            .map(Run::prefix)
            .reduce(|a, b| &a[..common_prefix(a, b)]);
        let mut merged = Self {
            cursors: Vec::new(),
            runs: Vec::new(),
            shared: shared.map_or(0, <[u8]>::len),
            heads: Vec::new(),
            ended: Vec::new(),
            losers: Vec::new(),
        };
        for (place, run) in runs.into_iter().enumerate() {
            if let Some(cursor) = Cursor::open(run, from, read_bytes, read_bytes_max)? {
                merged.heads.push(cursor.key().head_behind(merged.shared));
                merged.ended.push(false);
                merged.runs.push(place);
                merged.cursors.push(cursor);
            }
        }
        merged.play_all();
        Ok(merged)
    }

    fn play_all(&mut self) {
        let count = self.cursors.len();
        self.losers = vec![0; count];
        let mut winners = vec![0; 2 * count];
        for (cursor, winner) in winners[count..].iter_mut().enumerate() {
            *winner = cursor;
        }
        for node in (1..count).rev() {
            let (a, b) = (winners[2 * node], winners[2 * node + 1]);
            let (winner, loser) = if self.less(b, a) { (b, a) } else { (a, b) };
            (winners[node], self.losers[node]) = (winner, loser);
        }
        if count > 1 {
            self.losers[0] = winners[1];
        }
    }

    /// Gives every entry to `each`, until it returns false.
    pub(super) fn drain(
        mut self,
        mut each: impl FnMut(Entry<'_>) -> Result<bool, IndexError>,
    ) -> Result<(), IndexError> {
        while let Some(&winner) = self.losers.first()
            && !self.ended[winner]
        {
            let cursor = &mut self.cursors[winner];
            let entry = Entry {
                run: self.runs[winner],
                key: cursor.key(),
                position: cursor.positions[cursor.at],
            };
            if !each(entry)? {
                break;
            }
            self.heads[winner] = if cursor.advance()? {
                cursor.key().head_behind(self.shared)
            } else {
                self.ended[winner] = true;
                u128::MAX
            };
            self.replay(winner);
        }
        Ok(())
    }

    /// Plays the last winner against those that lost on its way.
    #[inline]
    fn replay(&mut self, mut winner: usize) {
        let mut node = (self.losers.len() + winner) / 2;
        while node > 0 {
            let loser = self.losers[node];
            let overtaken = self.less(loser, winner);
            self.losers[node] = if overtaken { winner } else { loser };
            winner = if overtaken { loser } else { winner };
            node /= 2;
        }
        self.losers[0] = winner;
    }

    #[inline]
    fn less(&self, a: usize, b: usize) -> bool {
        let (head_a, head_b) = (self.heads[a], self.heads[b]);
        head_a < head_b || (head_a == head_b && self.less_behind_heads(a, b))
    }

    fn less_behind_heads(&self, a: usize, b: usize) -> bool {
        if self.ended[a] || self.ended[b] {
            return !self.ended[a];
        }
        self.cursors[a].key() < self.cursors[b].key()
    }
}
