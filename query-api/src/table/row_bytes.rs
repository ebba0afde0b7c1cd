//! What rows of a Parquet file take once they are decoded, by its footer.

use parquet::basic::Type;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};

/// A text's or a binary's place in its array, beside its bytes.
const VIEW_BYTES: u64 = 16;

/// Bytes of a row of the columns below these roots: on average, of the row group where it is most.
pub(super) fn of(footer: &ParquetMetaData, is_read: impl Fn(&str) -> bool) -> u64 {
    let groups = footer.row_groups().iter();
    groups
        .map(|group| of_group(group, &is_read))
        .max()
        .unwrap_or(0)
}

fn of_group(group: &RowGroupMetaData, is_read: &impl Fn(&str) -> bool) -> u64 {
    let rows = u64::try_from(group.num_rows()).unwrap_or(0).max(1);
    let columns = group.columns().iter();
    let read = columns.filter(|column| {
        let root = column.column_path().parts().first();
        root.is_some_and(|root| is_read(root))
    });
    let bytes = read.map(decoded).fold(0u64, u64::saturating_add);
    bytes.div_ceil(rows)
}

/// What a chunk decodes to.
fn decoded(column: &ColumnChunkMetaData) -> u64 {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    let values = unsigned(column.num_values());
    let each = match column.column_type() {
        Type::BOOLEAN => return values.div_ceil(8),
        Type::INT32 | Type::FLOAT => 4,
        Type::INT64 | Type::DOUBLE => 8,
        Type::INT96 => 12,
        Type::FIXED_LEN_BYTE_ARRAY => {
            u64::try_from(column.column_descr().type_length()).unwrap_or(0)
        }
        Type::BYTE_ARRAY => {
            // Encoded they may be far smaller: a dictionary has each value once.
            let known = column.unencoded_byte_array_data_bytes();
            let bytes = unsigned(known.unwrap_or_else(|| column.uncompressed_size()));
            return bytes.saturating_add(values.saturating_mul(VIEW_BYTES));
        }
    };
    values.saturating_mul(each)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;

    #[test]
    fn rows_are_as_large_as_their_values_however_well_these_are_packed() {
        let longs: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let text = "lorem ipsum ".repeat(1000);
        let texts = std::iter::repeat_n(text.as_str(), 100);
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_from_iter([("a", longs), ("b", texts)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        assert!(bytes.len() < 20_000);
        let footer = ParquetMetaDataReader::new()
            .parse_and_finish(&bytes)
            .unwrap();
        assert_eq!(of(&footer, |root| root == "a"), 8);
        let both = of(&footer, |_| true);
        assert_eq!(both, 8 + VIEW_BYTES + text.len() as u64);
    }
}
