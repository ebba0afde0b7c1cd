//! How much a scan decodes of a row group at a time: of each column that is read a data page and the
//! dictionary, decompressed.
//!
//! A footer tells what a column's pages take together once they are decompressed, and its offset
//! index where each page begins, compressed: the largest page is taken to be as compressible as all
//! are together. Without an offset index pages are taken to be twice what writers aim at: to count the
//! whole column would refuse what can be read. Nothing here is checked by
//! anybody: sizes that make no sense count as none, and never panic.

use std::ops::Range;

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// Of a page whose size is not known. Writers aim at 1 MiB.
const UNKNOWN_BYTES: u64 = 2 << 20;

/// Bytes that are decompressed at a time where these ranges of the file were fetched.
pub(super) fn decoded(metadata: &ParquetMetaData, ranges: &[Range<u64>]) -> u64 {
    let mut starts: Vec<u64> = ranges.iter().map(|range| range.start).collect();
    starts.sort_unstable();
    let (Some(least), Some(most)) = (starts.first(), starts.last()) else {
        return 0;
    };
    let is_read = |chunk: &ColumnChunkMetaData| {
        place(chunk).is_some_and(|place| {
            let next = starts.partition_point(|start| *start < place.start);
            starts.get(next).is_some_and(|start| *start < place.end)
        })
    };
    let mut sum = 0u64;
    for (group, row_group) in metadata.row_groups().iter().enumerate() {
        // Row groups lie one after another.
        let begin = row_group.columns().first().and_then(place);
        let end = row_group.columns().last().and_then(place);
        if begin.is_some_and(|begin| begin.start > *most)
            || end.is_some_and(|end| end.end <= *least)
        {
            continue;
        }
        for (column, chunk) in row_group.columns().iter().enumerate() {
            if is_read(chunk) {
                sum = sum.saturating_add(largest(metadata, (group, column), chunk));
            }
        }
    }
    sum
}

/// Where a column chunk lies.
fn place(chunk: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let begin = chunk.dictionary_page_offset();
    let begin = begin.unwrap_or_else(|| chunk.data_page_offset());
    let start = u64::try_from(begin).ok()?;
    let bytes = u64::try_from(chunk.compressed_size()).ok()?;
    Some(start..start.checked_add(bytes)?)
}

/// The largest data page of a chunk and its dictionary, decompressed.
fn largest(
    metadata: &ParquetMetaData,
    (group, column): (usize, usize),
    chunk: &ColumnChunkMetaData,
) -> u64 {
    let all = u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
    let offsets = metadata
        .offset_index()
        .and_then(|groups| groups.get(group)?.get(column));
    let Some(pages) = offsets.map(|offsets| offsets.page_locations()) else {
        return all.min(UNKNOWN_BYTES);
    };
    let (Some(first), Ok(compressed)) = (pages.first(), u64::try_from(chunk.compressed_size()))
    else {
        return all.min(UNKNOWN_BYTES);
    };
    let page = pages.iter().map(|page| page.compressed_page_size).max();
    let page = page.and_then(|page| u64::try_from(page).ok()).unwrap_or(0);
    let dictionary = chunk
        .dictionary_page_offset()
        .and_then(|offset| u64::try_from(first.offset.checked_sub(offset)?).ok())
        .unwrap_or(0);
    let part = u128::from(page) + u128::from(dictionary);
    let bytes = u128::from(all) * part / u128::from(compressed.max(1));
    u64::try_from(bytes).map_or(all, |bytes| bytes.min(all))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::WriterProperties;

    use super::*;

    const ROWS: usize = 20_000;
    const TEXT: usize = 200;

    /// A file of a number and a text that compresses well, and its footer.
    fn footer(page_rows: usize, index: PageIndexPolicy) -> ParquetMetaData {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS as i64));
        let texts = (0..ROWS).map(|row| format!("{row:0TEXT$}"));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_from_iter([("n", numbers), ("t", texts)]).unwrap();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_write_batch_size(100)
            .set_data_page_size_limit(1 << 30)
            .set_data_page_row_count_limit(page_rows)
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties));
        writer.as_mut().unwrap().write(&batch).unwrap();
        let bytes = writer.unwrap().into_inner().unwrap();
        let reader = ParquetMetaDataReader::new().with_page_index_policy(index);
        reader.parse_and_finish(&Bytes::from(bytes)).unwrap()
    }

    fn columns(footer: &ParquetMetaData, places: &[usize]) -> Vec<Range<u64>> {
        let chunks = places
            .iter()
            .map(|place| footer.row_group(0).column(*place));
        chunks.map(|chunk| place(chunk).unwrap()).collect()
    }

    #[test]
    fn a_page_counts_as_what_it_becomes() {
        let text = (ROWS * TEXT) as u64;
        let one = footer(ROWS, PageIndexPolicy::Required);
        let ranges = columns(&one, &[1]);
        let fetched = ranges[0].end - ranges[0].start;
        assert!(fetched < text / 8, "{fetched} bytes on the wire");
        assert!(decoded(&one, &ranges) >= text, "one page has all rows");
        let many = footer(ROWS / 20, PageIndexPolicy::Required);
        let bytes = decoded(&many, &columns(&many, &[1]));
        assert!((text / 25..text / 10).contains(&bytes), "{bytes}");
        // Pages of a column are fetched alone where others hold no row that is wanted.
        let pages = &many.offset_index().unwrap()[0][1].page_locations();
        let at = u64::try_from(pages[7].offset).unwrap();
        let page = at..at + 10;
        assert_eq!(decoded(&many, std::slice::from_ref(&page)), bytes);
        let both = decoded(&many, &columns(&many, &[0, 1]));
        assert_eq!(both, bytes + decoded(&many, &columns(&many, &[0])));
        let beyond = columns(&many, &[1])[0].end;
        let none = beyond..beyond + 8;
        assert_eq!(decoded(&many, std::slice::from_ref(&none)), 0);
    }

    #[test]
    fn without_an_index_a_page_is_taken_to_be_as_writers_make_them() {
        let footer = footer(ROWS / 20, PageIndexPolicy::Skip);
        assert_eq!(decoded(&footer, &columns(&footer, &[1])), UNKNOWN_BYTES);
    }
}
