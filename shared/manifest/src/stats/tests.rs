use std::sync::Arc;

use arrow::array::{
    Date32Array, Decimal128Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Fields};
use proptest::prelude::*;

use super::*;

fn stats(columns: Vec<(&str, ArrayRef)>) -> Stats {
    let mut collector = StatsCollector::new(32);
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    );
    collector.update(&batch.unwrap());
    collector.finish()
}

#[test]
fn every_type_has_delta_s_form() {
    let stats = stats(vec![
        (
            "i",
            Arc::new(Int32Array::from(vec![Some(3), None, Some(-1)])),
        ),
        ("b", Arc::new(Int8Array::from(vec![-128, 127, 0]))),
        ("h", Arc::new(Int16Array::from(vec![7, -32_768, 32_767]))),
        ("f", Arc::new(Float64Array::from(vec![0.5, 1e300, -2.0]))),
        (
            "d",
            Arc::new(
                Decimal128Array::from(vec![-12_345, 7, 100])
                    .with_precision_and_scale(10, 3)
                    .unwrap(),
            ),
        ),
        ("day", Arc::new(Date32Array::from(vec![0, 20_778, -1]))),
        (
            "t",
            Arc::new(TimestampMicrosecondArray::from(vec![1_001, -1, 5]).with_timezone("UTC")),
        ),
        ("s", Arc::new(StringArray::from(vec!["b", "a", "ä"]))),
        ("__offset", Arc::new(Int64Array::from(vec![1, 2, 3]))),
    ]);
    assert_eq!(
        serde_json::to_value(&stats).unwrap(),
        json!({
            "numRecords": 3,
            "minValues": {"i": -1, "b": -128, "h": -32768, "f": -2.0, "d": -12.345, "day": "1969-12-31",
                "t": "1969-12-31T23:59:59.999Z", "s": "a"},
            "maxValues": {"i": 3, "b": 127, "h": 32767, "f": 1e300, "d": 0.1, "day": "2026-11-21",
                "t": "1970-01-01T00:00:00.002Z", "s": "ä"},
            "nullCount": {"i": 1, "b": 0, "h": 0, "f": 0, "d": 0, "day": 0, "t": 0, "s": 0},
            "tightBounds": true,
        })
    );
    assert_eq!(Stats::parse(&stats.to_json()).unwrap(), stats);
}

#[test]
fn what_is_not_a_number_has_no_bounds() {
    for odd in [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let stats = stats(vec![("f", Arc::new(Float64Array::from(vec![1.0, odd])))]);
        assert!(
            stats.min_values.is_empty() && stats.max_values.is_empty(),
            "{odd}"
        );
    }
}

#[test]
fn a_batch_without_bounds_leaves_the_file_without() {
    let mut collector = StatsCollector::new(32);
    for value in [1.0, f64::NAN, 2.0] {
        let array: ArrayRef = Arc::new(Float64Array::from(vec![value]));
        collector.update(&RecordBatch::try_from_iter([("f", array)]).unwrap());
    }
    assert!(collector.finish().max_values.is_empty());
    assert_eq!(collector.finish().num_records, Some(3));
}

#[test]
fn fields_of_a_missing_struct_are_missing() {
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(99), None]));
    let fields = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
    let nulls = arrow::buffer::NullBuffer::from(vec![true, false, true]);
    let array = StructArray::new(fields, vec![inner], Some(nulls));
    let stats = stats(vec![("pt", Arc::new(array))]);
    assert_eq!(stats.max_values["pt"]["x"], json!(1));
    assert_eq!(stats.null_count["pt"]["x"], json!(2));
}

#[test]
fn only_the_first_columns_are_gathered() {
    let columns = (0..5).map(|i| {
        let array: ArrayRef = Arc::new(Int64Array::from(vec![i]));
        (format!("c{i}"), array)
    });
    let mut collector = StatsCollector::new(2);
    collector.update(&RecordBatch::try_from_iter(columns).unwrap());
    assert_eq!(collector.finish().null_count.len(), 2);
}

proptest! {
    #[test]
    fn text_bounds_are_true_bounds_and_short(
        texts in prop::collection::vec("[a-b\u{d7ff}\u{10ffff}é]{0,40}", 1..10),
    ) {
        let array: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        let stats = stats(vec![("s", array)]);
        let low = stats.min_values["s"].as_str().unwrap();
        prop_assert!(low.chars().count() <= TEXT_CHARS_MAX);
        prop_assert!(texts.iter().all(|text| low <= text.as_str()));
        if let Some(high) = stats.max_values.get("s") {
            let high = high.as_str().unwrap();
            prop_assert!(high.chars().count() <= TEXT_CHARS_MAX);
            prop_assert!(texts.iter().all(|text| text.as_str() <= high));
        } else {
            let top = "\u{10ffff}".repeat(TEXT_CHARS_MAX);
            prop_assert!(texts.iter().any(|text| text.starts_with(&top)));
        }
    }

    #[test]
    fn decimals_are_exact(unscaled in -999_999_999_999_999i128..=999_999_999_999_999, scale in 0i8..=15) {
        let value = decimal(unscaled, scale).unwrap();
        let expected: f64 = format!("{unscaled}e-{scale}").parse().unwrap();
        prop_assert_eq!(value.as_f64(), Some(expected));
    }

    #[test]
    fn time_bounds_enclose(micros in -60_000_000_000_000_000i64..250_000_000_000_000_000) {
        let (low, high) = Bounds::Time(micros, micros, true).to_json();
        let read = |value: Option<Value>| {
            let text = value.unwrap().as_str().unwrap().to_owned();
            arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(&text)
                .map(|nanos| nanos / 1000)
        };
        if let (Ok(low), Ok(high)) = (read(low), read(high)) {
            prop_assert!(low <= micros && micros <= high && high - low <= 1000);
        }
    }
}

#[test]
fn widening_keeps_every_bound_byte_for_byte() {
    // Digits that no double has, and two doubles that a careless reader takes for their neighbours.
    let low = r#""minValues":{"a":-123456789012345678.90,"f":1.0e+2,"n":0.30000000000000004}"#;
    let high = r#""maxValues":{"a":99999999999999999.99,"f":5e-324,"n":2.2250738585072011e-308}"#;
    let bounds = format!("{low},{high}");
    let text = format!(r#"{{"numRecords":9,{bounds},"nullCount":{{"a":0}},"x":[1 ,2]}}"#);
    let after = widened(Some(&text), 9);
    assert!(after.contains(&bounds), "{after}");
    assert!(
        after.contains(r#""x":[1 ,2],"tightBounds":false}"#),
        "{after}"
    );
    let parsed = Stats::parse(&after).unwrap();
    assert_eq!(
        (parsed.num_records, parsed.tight_bounds),
        (Some(9), Some(false))
    );
    assert_eq!(
        widened(Some(&after), 9),
        after,
        "a second time changes nothing"
    );
    let tight = text.replace("\"x\"", "\"tightBounds\":true,\"x\"");
    assert_eq!(widened(Some(&tight), 9), after);
}

#[test]
fn widening_fills_in_the_rows_that_others_left_out() {
    for absent in [
        None,
        Some(""),
        Some("null"),
        Some("[]"),
        Some("{"),
        Some("{}"),
        Some(r#"{"numRecords":null}"#),
        Some(r#"{"numRecords":"7","tightBounds":true}"#),
    ] {
        assert_eq!(
            widened(absent, 7),
            r#"{"numRecords":7,"tightBounds":false}"#,
            "{absent:?}"
        );
    }
    let partial = widened(Some(r#"{"nullCount":{"a":null},"minValues":null}"#), 7);
    let parsed = Stats::parse(&partial).unwrap();
    assert_eq!(parsed.num_records, Some(7));
}

#[test]
fn statistics_are_read_as_far_as_they_are_understood() {
    let text = r#"{"numRecords":3,"minValues":null,"maxValues":{"a":1},"nullCount":[],
        "tightBounds":null,"partial":{"x":1}}"#;
    let stats = Stats::parse(text).unwrap();
    assert_eq!(stats.num_records, Some(3));
    assert_eq!(stats.max_values["a"], json!(1));
    assert!(stats.min_values.is_empty() && stats.null_count.is_empty());
    assert_eq!(stats.tight_bounds, None);
    assert_eq!(
        Stats::parse(r#"{"numRecords":-1}"#).unwrap().num_records,
        None
    );
}

proptest! {
    #[test]
    fn float_bounds_read_as_they_were_written(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        prop_assume!(value.is_finite());
        let stats = stats(vec![("f", Arc::new(Float64Array::from(vec![value])))]);
        let read = Stats::parse(&widened(Some(&stats.to_json()), 1)).unwrap();
        prop_assert_eq!(&read.min_values, &stats.min_values);
        let low = read.min_values["f"].as_f64().unwrap();
        prop_assert_eq!(low, value, "{:?} read as {:?}", value, low);
    }
}
