//! Names and ids of Arrow fields, in memory and in files.

use ::arrow::array::RecordBatch;
use ::arrow::datatypes::DataType;
use tidelake_core::ErrorKind;

use super::nested;
use crate::{SchemaError, arrow, delta};

#[test]
fn files_have_physical_names_at_every_level() {
    let names = delta::PhysicalNames::from([(1, "col-1".to_owned()), (13, "col-13".to_owned())]);
    let stored = arrow::physical_schema(&nested(), &names);
    assert_eq!(stored.field(0).name(), "col-1");
    assert_eq!(stored.field(0).metadata()["PARQUET:field_id"], "1");
    assert!(stored.field(3).to_string().contains("col-13"), "{stored}");
    assert_eq!(
        arrow::physical_schema(&nested(), &delta::PhysicalNames::new()),
        arrow::storage_schema(&nested())
    );
}

#[test]
fn arrow_schema_has_ids_and_parquet_names_at_every_level() {
    let arrow = arrow::to_arrow(&nested());
    let DataType::Map(entries, false) = arrow.field(3).data_type() else {
        panic!("a map")
    };
    assert_eq!(entries.name(), "key_value");
    let DataType::Struct(pair) = entries.data_type() else {
        panic!("a struct")
    };
    let names: Vec<_> = pair
        .iter()
        .map(|f| (f.name().as_str(), f.is_nullable()))
        .collect();
    assert_eq!(names, [("key", false), ("value", true)]);
    assert_eq!(pair[1].metadata()[arrow::FIELD_ID_KEY], "11");
    let DataType::List(element) = arrow.field(2).data_type() else {
        panic!("a list")
    };
    assert_eq!(
        (element.name().as_str(), element.is_nullable()),
        ("element", false)
    );
    assert_eq!(element.metadata()[arrow::FIELD_ID_KEY], "9");
}

#[test]
fn a_batch_of_another_shape_is_refused() {
    let schema = nested();
    let batch = RecordBatch::new_empty(arrow::to_arrow(&schema))
        .project(&[0])
        .unwrap();
    let error = arrow::to_storage(&batch, &schema).unwrap_err();
    assert!(matches!(error, SchemaError::Batch { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Bug);
}
