//! Footers without the bounds of floats that say nothing about NaN.
//!
//! NaN lies above all numbers, and most writers of Parquet leave it out of least and greatest
//! values: by such bounds a row group or a page with a NaN would be skipped for `x > 10` or
//! `x <> 3`. A file whose writer keeps NaN in mind says so in its footer; in all others the bounds
//! of floats count as absent. All else of a footer stays.

use parquet::basic::{LogicalType, Type as PhysicalType};
use parquet::errors::Result;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::schema::types::ColumnDescPtr;
use tidelake_table::float_bounds_cover_nan;

/// The footer with those bounds that readers may skip rows by.
pub(super) fn trusted(footer: ParquetMetaData) -> Result<ParquetMetaData> {
    let columns = footer.file_metadata().schema_descr().columns();
    let floats: Vec<bool> = columns.iter().map(is_float).collect();
    if !floats.contains(&true) || float_bounds_cover_nan(footer.file_metadata()) {
        return Ok(footer);
    }
    let mut footer = footer.into_builder();
    let mut index = footer.take_column_index();
    for group in index.iter_mut().flatten() {
        let columns = group.iter_mut().zip(&floats);
        for (column, _) in columns.filter(|(_, float)| **float) {
            *column = ColumnIndexMetaData::NONE;
        }
    }
    let groups = footer.take_row_groups().into_iter();
    let groups = groups.map(|group| without_bounds(group, &floats));
    let groups = groups.collect::<Result<Vec<_>>>()?;
    Ok(footer
        .set_row_groups(groups)
        .set_column_index(index)
        .build())
}

fn is_float(column: &ColumnDescPtr) -> bool {
    match column.physical_type() {
        PhysicalType::FLOAT | PhysicalType::DOUBLE => true,
        _ => column.logical_type_ref() == Some(&LogicalType::Float16),
    }
}

fn without_bounds(group: RowGroupMetaData, floats: &[bool]) -> Result<RowGroupMetaData> {
    let mut group = group.into_builder();
    let columns = group.take_columns().into_iter().zip(floats);
    let columns = columns.map(|(column, float)| match float {
        true => cleared(column),
        false => Ok(column),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    group.set_column_metadata(columns).build()
}

fn cleared(column: ColumnChunkMetaData) -> Result<ColumnChunkMetaData> {
    column.into_builder().clear_statistics().build()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use datafusion::arrow::array::{ArrayRef, Float32Array, Float64Array, Int64Array, RecordBatch};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
    use parquet::file::properties::{EnabledStatistics, WriterProperties};

    use super::*;

    #[test]
    fn bounds_of_floats_are_left_out_and_nothing_else() {
        let longs: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let doubles: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
        let floats: ArrayRef = Arc::new(Float32Array::from(vec![1.0, 2.0]));
        let columns = [("a", longs), ("b", doubles), ("c", floats)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder()
            .set_statistics_enabled(EnabledStatistics::Page)
            .build();
        let mut writer =
            ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let mut reader =
            ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        reader.try_parse(&bytes).unwrap();
        let footer = trusted(reader.finish().unwrap()).unwrap();
        let group = footer.row_group(0);
        let bounded: Vec<bool> = group
            .columns()
            .iter()
            .map(|column| column.statistics().is_some())
            .collect();
        assert_eq!(bounded, [true, false, false]);
        assert_eq!(group.num_rows(), 2);
        let pages = &footer.column_index().unwrap()[0];
        let paged: Vec<bool> = pages
            .iter()
            .map(|page| !matches!(page, ColumnIndexMetaData::NONE))
            .collect();
        assert_eq!(paged, [true, false, false]);
        assert_eq!(footer.offset_index().unwrap()[0].len(), 3);
    }
}
