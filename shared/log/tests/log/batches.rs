//! Record batches, made and changed by hand.

/// A record batch's parts that are of interest (Kafka's format, version 2).
const LENGTH: std::ops::Range<usize> = 8..12;
const CRC: std::ops::Range<usize> = 17..21;
pub(crate) const ATTRIBUTES: usize = 21;
pub(crate) const RECORDS: usize = 61;

/// Changes the batch that begins at an offset.
pub(crate) fn batch_at(
    offset: i64,
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> impl Fn(&[u8]) -> Vec<u8> {
    move |mut records| {
        let mut changed = Vec::new();
        while records.len() > RECORDS {
            let base = i64::from_be_bytes(records[..8].try_into().unwrap());
            let length = i32::from_be_bytes(records[LENGTH].try_into().unwrap()) as usize;
            let (batch, rest) = records.split_at((LENGTH.end + length).min(records.len()));
            match base == offset {
                true => changed.extend(change(batch.to_vec())),
                false => changed.extend(batch),
            }
            records = rest;
        }
        changed
    }
}

pub(crate) fn sealed(mut batch: Vec<u8>) -> Vec<u8> {
    let length = (batch.len() - LENGTH.end) as i32;
    batch[LENGTH].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[CRC].copy_from_slice(&crc.to_be_bytes());
    batch
}

pub(crate) fn rebased(mut batch: Vec<u8>, base: i64) -> Vec<u8> {
    batch[..8].copy_from_slice(&base.to_be_bytes());
    batch
}

/// A whole batch (of no codec: 0) of records that are packed already.
pub(crate) fn batch(base: i64, records: i32, codec: u8, packed: &[u8]) -> Vec<u8> {
    let mut batch = vec![0; RECORDS];
    batch[16] = 2;
    batch[ATTRIBUTES + 1] = codec;
    batch[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    // No timestamps, no producer.
    batch[27..57].fill(0xFF);
    batch[57..61].copy_from_slice(&records.to_be_bytes());
    batch.extend(packed);
    rebased(sealed(batch), base)
}

/// Records with these values, not packed yet.
pub(crate) fn records<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut records = Vec::new();
    for (delta, value) in values.into_iter().enumerate() {
        let mut record = vec![0, 0];
        varint(delta as i64, &mut record);
        varint(-1, &mut record);
        varint(value.len() as i64, &mut record);
        record.extend(value);
        record.push(0);
        varint(record.len() as i64, &mut records);
        records.extend(record);
    }
    records
}

fn varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
