//! What a message's columns become after another engine has changed the table's.

use arrow::buffer::BooleanBuffer;

use super::*;
use crate::json::encode::{JsonStyle, write_rows};
use crate::json::{JsonDecoder, JsonLimits};
use crate::key::KeyText;
use crate::packed;

/// A table with a key, of two columns of one type at each depth.
fn schema(names: &str) -> TableSchema {
    let [k, a, b, x, y] = names.split(' ').collect::<Vec<_>>()[..] else {
        panic!("five names are wanted");
    };
    let pair = |first: i32| {
        let field = |id: i32, name: &str| {
            format!(r#"{{"id":{id},"name":"{name}","required":false,"type":"long"}}"#)
        };
        let (x, y) = (field(first, x), field(first + 1, y));
        format!(r#"{{"type":"struct","fields":[{x},{y}]}}"#)
    };
    let (s, l, m) = (pair(10), pair(20), pair(30));
    let text = format!(
        r#"{{"identifier-field-ids":[1],"fields":[
        {{"id":1,"name":"{k}","required":true,"type":"long"}},
        {{"id":2,"name":"{a}","required":false,"type":"string"}},
        {{"id":3,"name":"{b}","required":false,"type":"string"}},
        {{"id":4,"name":"s","required":false,"type":{s}}},
        {{"id":5,"name":"l","required":false,"type":{{"type":"list","element-id":6,
            "element-required":false,"element":{l}}}}},
        {{"id":7,"name":"m","required":false,"type":{{"type":"map","key-id":8,"key":"string",
            "value-id":9,"value-required":false,"value":{m}}}}}]}}"#
    );
    TableSchema::from_iceberg_json(&text).unwrap()
}

const FIRST: &str = "k a b x y";

/// The physical names of a table that was made with [`FIRST`]'s.
fn first_names() -> PhysicalNames {
    let named = [(1, "k"), (2, "a"), (3, "b")];
    let inside = [10, 20, 30].map(|id| [(id, "x"), (id + 1, "y")]);
    let all = named.into_iter().chain(inside.into_iter().flatten());
    all.map(|(id, name)| (id, name.to_owned())).collect()
}

fn rows() -> RecordBatch {
    let mut decoder = JsonDecoder::new(&schema(FIRST), JsonLimits::default()).unwrap();
    for k in 0..3 {
        let pair = format!(r#"{{"x":1{k},"y":2{k}}}"#);
        let row = format!(
            r#"{{"k":{k},"a":"a{k}","b":"b{k}","s":{pair},"l":[{pair},null],"m":{{"z":{pair}}}}}"#
        );
        decoder.push_record(row.as_bytes()).unwrap();
    }
    decoder.push_record(br#"{"k":3}"#).unwrap();
    decoder.finish().unwrap()
}

fn lines(batch: &RecordBatch) -> Vec<String> {
    let mut out = Vec::new();
    write_rows(batch, &batch.schema(), &mut out, JsonStyle::Objects).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn line(k: &str, a: &str, b: &str, x: &str, y: &str) -> [String; 2] {
    let pair = format!(r#"{{"{x}":11,"{y}":21}}"#);
    let nulls = format!(r#""{a}":null,"{b}":null,"s":null,"l":null,"m":null"#);
    [
        format!(
            r#"{{"{k}":1,"{a}":"a1","{b}":"b1","s":{pair},"l":[{pair},null],"m":{{"z":{pair}}}}}"#
        ),
        format!(r#"{{"{k}":3,{nulls}}}"#),
    ]
}

fn packed_rows() -> Vec<u8> {
    let first = schema(FIRST);
    packed_as(&first, &PhysicalNames::new())
}

fn packed_as(schema: &TableSchema, names: &PhysicalNames) -> Vec<u8> {
    let wire = Wire::new(Columns { schema, names });
    wire.encode(&rows()).unwrap().to_vec()
}

#[test]
fn columns_are_found_under_the_names_that_they_have_now() {
    let names = first_names();
    // Renamed at every depth; two exchanged at every depth.
    for now in ["id c d p q", "k b a y x"] {
        let schema = schema(now);
        let columns = Columns {
            schema: &schema,
            names: &names,
        };
        let rows = packed::decode_into(&packed_rows(), columns).unwrap();
        assert_eq!(rows.schema(), to_arrow(&schema));
        let [k, a, b, x, y] = now.split(' ').collect::<Vec<_>>()[..] else {
            unreachable!()
        };
        let lines = lines(&rows);
        assert_eq!(
            [&lines[1], &lines[3]],
            line(k, a, b, x, y).each_ref(),
            "{now}"
        );
        let key = KeyText::new(&schema).unwrap().unwrap();
        let upserts = packed::decode_upserts_into(&packed_rows(), columns, &key).unwrap();
        assert_eq!(upserts.rows, rows);
    }
}

#[test]
fn values_of_columns_that_are_gone_are_ignored_also_where_their_names_come_again() {
    // The second column of each depth was dropped; another of its name was made.
    let mut names = first_names();
    for id in [3, 11, 21, 31] {
        names.insert(id, format!("col-{id}"));
    }
    let schema = schema(FIRST);
    let columns = Columns {
        schema: &schema,
        names: &names,
    };
    let rows = packed::decode_into(&packed_rows(), columns).unwrap();
    let pair = r#"{"x":11,"y":null}"#;
    let wanted =
        format!(r#"{{"k":1,"a":"a1","b":null,"s":{pair},"l":[{pair},null],"m":{{"z":{pair}}}}}"#);
    assert_eq!(lines(&rows)[1], wanted);
    // A required one is missed by its name.
    let required = TableSchema::from_iceberg_json(
        r#"{"fields":[{"id":3,"name":"b","required":true,"type":"string"}]}"#,
    );
    let required = required.unwrap();
    let columns = Columns {
        schema: &required,
        names: &names,
    };
    let refused = packed::decode_into(&packed_rows(), columns).unwrap_err();
    assert_eq!(
        (refused.code(), refused.field.as_deref()),
        ("MISSING_FIELD", Some("b"))
    );
}

#[test]
fn deletes_find_a_key_that_was_renamed() {
    let first = schema(FIRST);
    let key = KeyText::new(&first).unwrap().unwrap();
    let deletes = BooleanBuffer::new_set(4);
    let keys = rows().project(key.columns()).unwrap();
    let batch = packed::with_operations(&keys, &deletes).unwrap();
    let wire = Wire::new(Columns {
        schema: &first,
        names: &PhysicalNames::new(),
    });
    let message = wire.encode(&batch).unwrap();
    let (now, names) = (schema("id k b x y"), first_names());
    let columns = Columns {
        schema: &now,
        names: &names,
    };
    let key = KeyText::new(&now).unwrap().unwrap();
    let packed = packed::decode_upserts_into(&message, columns, &key).unwrap();
    let (deleted, _) = packed.deletes.unwrap();
    assert_eq!(
        lines(&deleted),
        [0, 1, 2, 3].map(|k| format!(r#"{{"id":{k}}}"#))
    );
}

/// A key of all columns has as many as the table.
#[test]
fn deletes_keep_their_columns_apart_whatever_order_the_key_has() {
    for first in ["long", "string"] {
        let text = format!(
            r#"{{"identifier-field-ids":[2,1],"fields":[
            {{"id":1,"name":"a","required":true,"type":"{first}"}},
            {{"id":2,"name":"b","required":true,"type":"long"}}]}}"#
        );
        let schema = TableSchema::from_iceberg_json(&text).unwrap();
        let key = KeyText::new(&schema).unwrap().unwrap();
        let mut decoder = JsonDecoder::new(&schema, JsonLimits::default()).unwrap();
        let a = if first == "long" { "1" } else { "\"x\"" };
        decoder
            .push_record(format!(r#"{{"a":{a},"b":2}}"#).as_bytes())
            .unwrap();
        let rows = decoder.finish().unwrap();
        let wire = Wire::new(packed::names::plain(&schema));
        let of_keys = rows.project(key.columns()).unwrap();
        let deletes = BooleanBuffer::new_set(1);
        let of_rows = packed::with_operations(&rows, &deletes).unwrap();
        for batch in [
            packed::with_operations(&of_keys, &deletes).unwrap(),
            packed::without_idle_columns(&of_rows, &schema, &key).unwrap(),
        ] {
            let message = wire.encode(&batch).unwrap();
            let columns = packed::names::plain(&schema);
            let packed = packed::decode_upserts_into(&message, columns, &key).unwrap();
            let (deleted, _) = packed.deletes.unwrap();
            assert_eq!(lines(&deleted), lines(&of_keys));
        }
    }
}

#[test]
fn fields_without_a_mark_go_by_their_names() {
    let (now, names) = (schema("k b a y x"), first_names());
    let message = packed::encode(&rows()).unwrap();
    let columns = Columns {
        schema: &now,
        names: &names,
    };
    let taken = packed::decode_into(&message, columns).unwrap();
    assert!(lines(&taken)[1].contains(r#""a":"a1""#));
    let renamed = schema("k c b x y");
    let columns = Columns {
        schema: &renamed,
        names: &names,
    };
    let refused = packed::decode_into(&message, columns).unwrap_err();
    assert_eq!(refused.code(), "UNKNOWN_FIELD");
}

#[test]
fn two_fields_of_one_column_are_refused_at_every_depth() {
    let names = first_names();
    // What was called "a" is called "b" now, and what was "x" is "y".
    let schema = schema("k b c y z");
    let columns = Columns {
        schema: &schema,
        names: &names,
    };
    let field = |name: &str, ty: DataType, mark: Option<&str>| {
        let field = Field::new(name, ty, true);
        let mark = mark.map(|mark| (COLUMN_KEY.to_owned(), mark.to_owned()));
        field.with_metadata(mark.into_iter().collect())
    };
    let number: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![7]));
    let text: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["v"]));
    let refused = |fields: Vec<Field>, arrays: Vec<ArrayRef>| {
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        let bytes = packed::write(&batch, &batch.schema()).unwrap();
        let rejection = packed::decode_into(&bytes, columns).unwrap_err();
        (rejection.code(), rejection.field.unwrap_or_default())
    };
    // The second is the same column by its mark, or by its name alone.
    for second in [("a", Some("a")), ("z", Some("a")), ("b", None)] {
        let key = field("k", DataType::Int64, Some("k"));
        let one = field("a", DataType::Utf8, Some("a"));
        let two = field(second.0, DataType::Utf8, second.1);
        let arrays = vec![Arc::clone(&number), Arc::clone(&text), Arc::clone(&text)];
        let said = refused(vec![key, one, two], arrays);
        assert_eq!(said, ("DUPLICATE_FIELD", "b".to_owned()), "{second:?}");
    }
    for second in [("x", Some("x")), ("z", Some("x")), ("y", None)] {
        let one = field("x", DataType::Int64, Some("x"));
        let two = field(second.0, DataType::Int64, second.1);
        let pair = vec![Arc::clone(&number), Arc::clone(&number)];
        let pair: ArrayRef = Arc::new(StructArray::new(vec![one, two].into(), pair, None));
        let outer = field("s", pair.data_type().clone(), Some("s"));
        let key = field("k", DataType::Int64, Some("k"));
        let said = refused(vec![key, outer], vec![Arc::clone(&number), pair]);
        assert_eq!(said, ("DUPLICATE_FIELD", "s.y".to_owned()), "{second:?}");
    }
}

#[test]
fn marks_take_little_room() {
    let plain = packed::encode(&rows()).unwrap().len();
    let marked = packed_rows().len();
    // Twelve fields.
    assert!(marked - plain <= 12 * 64, "{plain} bytes became {marked}");
}
