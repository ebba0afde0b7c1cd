//! No answer changes at a flush: the same rows in the tail, in one file, in several, in files with
//! deleted rows and in files of another writer answer every query alike.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Fields};
use proptest::prelude::*;
use serde_json::{Value, json};
use tidelake_codec::packed;

use crate::settings::QuerySettings;
use crate::testing::{TestTable, Wire, World};

mod decimals;

const SCHEMA: &str = r#"{"type": "struct", "fields": [
    {"name": "id", "type": "long", "required": true},
    {"name": "x", "type": "double", "required": false},
    {"name": "y", "type": "float", "required": false},
    {"name": "n", "type": "int", "required": false},
    {"name": "s", "type": "string", "required": false},
    {"name": "t", "type": "timestamp", "required": false},
    {"name": "u", "type": "timestamptz", "required": false},
    {"name": "st", "type": {"type": "struct", "fields": [
        {"name": "a", "type": "long", "required": true},
        {"name": "b", "type": "double", "required": false},
        {"name": "in", "type": {"type": "struct", "fields": [
            {"name": "w", "type": "double", "required": true},
            {"name": "v", "type": "string", "required": true}]}, "required": false}]},
        "required": false},
    {"name": "op", "type": {"type": "struct", "fields": [
        {"name": "a", "type": "long", "required": false}]}, "required": false},
    {"name": "ll", "type": {"type": "list", "element": {"type": "struct", "fields": [
        {"name": "k", "type": "long", "required": true}]}, "element-required": false},
        "required": false}]}"#;

const LONG: &str = "the same beginning of a text that is longer than any bound ";
/// Years 1 and 9999 at their ends, the epoch, and a microsecond.
const TIMES: [i64; 6] = [
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
    0,
    1,
    -1,
    1_795_264_496_789_123,
];

/// Which of its kind's values each column of a row has; none where that is null.
#[derive(Debug, Clone)]
struct Row {
    x: Option<f64>,
    y: Option<f32>,
    n: Option<i32>,
    s: Option<String>,
    t: Option<i64>,
    u: Option<i64>,
    /// Values stand in the children also where they are null: whether st, and st.in, are there.
    a: i64,
    st: bool,
    inside: bool,
    op: bool,
    /// Elements, and which of them are there.
    ll: Option<Vec<bool>>,
}

fn floats() -> impl Strategy<Value = f64> {
    let odd = [
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
    ];
    prop_oneof![
        prop::sample::select(odd.to_vec()),
        (-4i32..12).prop_map(f64::from)
    ]
}

fn row() -> impl Strategy<Value = Row> {
    let texts = prop_oneof![
        "[ab]{0,2}",
        "[ab]{0,1}".prop_map(|end| format!("{LONG}{end}"))
    ];
    let times = || prop::option::of(prop::sample::select(TIMES.to_vec()));
    let numbers = prop_oneof![-3i32..6, Just(i32::MIN), Just(i32::MAX)];
    (
        prop::option::of(floats()),
        prop::option::of(floats().prop_map(|x| x as f32)),
        prop::option::of(numbers),
        prop::option::of(texts),
        times(),
        times(),
        (0i64..4, any::<bool>(), any::<bool>(), any::<bool>()),
        prop::option::of(prop::collection::vec(any::<bool>(), 0..3)),
    )
        .prop_map(|(x, y, n, s, t, u, (a, st, inside, op), ll)| Row {
            x,
            y,
            n,
            s,
            t,
            u,
            a,
            st,
            inside,
            op,
            ll,
        })
}

fn parts(data_type: &DataType) -> Fields {
    match data_type {
        DataType::Struct(fields) => fields.clone(),
        DataType::List(element) => parts(element.data_type()),
        other => panic!("{other} has no fields"),
    }
}

/// The rows as columns; children have values where their parents are null.
fn batch(table: &TestTable, from: usize, rows: &[Row]) -> RecordBatch {
    let schema = tidelake_schema::arrow::to_arrow(&table.schema);
    let of = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
    let nulls = |there: &dyn Fn(&Row) -> bool| NullBuffer::from_iter(rows.iter().map(there));
    let long = |value: &dyn Fn(&Row) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(value)))
    };
    let w = Float64Array::from_iter_values(rows.iter().map(|row| row.a as f64 / 2.0));
    let v = StringArray::from_iter_values(rows.iter().map(|row| format!("v{}", row.a)));
    let st = parts(&of("st"));
    let inside = StructArray::new(
        parts(st[2].data_type()),
        vec![Arc::new(w), Arc::new(v)],
        Some(nulls(&|row| row.inside)),
    );
    let b: Float64Array = rows.iter().map(|row| row.x).collect();
    let st = StructArray::new(
        st,
        vec![long(&|row| row.a), Arc::new(b), Arc::new(inside)],
        Some(nulls(&|row| row.st)),
    );
    let op = StructArray::new(
        parts(&of("op")),
        vec![long(&|row| row.a)],
        Some(nulls(&|row| row.op)),
    );
    let elements: Vec<bool> = rows
        .iter()
        .filter_map(|row| row.ll.clone())
        .flatten()
        .collect();
    let k: ArrayRef = Arc::new(Int64Array::from_iter_values(0..elements.len() as i64));
    let elements = StructArray::new(parts(&of("ll")), vec![k], Some(elements.into()));
    let lengths = rows.iter().map(|row| row.ll.as_ref().map_or(0, Vec::len));
    let DataType::List(element) = of("ll") else {
        unreachable!()
    };
    let ll = ListArray::new(
        element,
        OffsetBuffer::from_lengths(lengths),
        Arc::new(elements),
        Some(nulls(&|row| row.ll.is_some())),
    );
    let ids = Int64Array::from_iter_values((from..from + rows.len()).map(|id| id as i64));
    let x: Float64Array = rows.iter().map(|row| row.x).collect();
    let y: Float32Array = rows.iter().map(|row| row.y).collect();
    let n: Int32Array = rows.iter().map(|row| row.n).collect();
    let s: StringArray = rows.iter().map(|row| row.s.as_deref()).collect();
    let t: TimestampMicrosecondArray = rows.iter().map(|row| row.t).collect();
    let u: TimestampMicrosecondArray = rows.iter().map(|row| row.u).collect();
    let u = u.with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ids),
        Arc::new(x),
        Arc::new(y),
        Arc::new(n),
        Arc::new(s),
        Arc::new(t),
        Arc::new(u),
        Arc::new(st),
        Arc::new(op),
        Arc::new(ll),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// Where rows can be. The first is what the others are compared with.
const PLACES: [&str; 7] = [
    "tail", "one", "several", "vectors", "foreign", "half", "upserted",
];

/// One message each of so many rows.
const MESSAGE_ROWS: usize = 7;

async fn world(rows: &[Row], settings: QuerySettings) -> World {
    let world = World::new(settings).await;
    for place in PLACES {
        let schema = match place {
            "upserted" => SCHEMA.replacen('{', r#"{"identifier-field-ids": [1], "#, 1),
            _ => SCHEMA.to_owned(),
        };
        let mut table = world.table(place, &schema, 1).await;
        let topic = table.entry.topic.clone();
        let push = |batch: &RecordBatch| {
            let wire = Wire {
                value: Some(packed::encode(batch).unwrap().to_vec()),
                encoding: Some(packed::ENCODING.as_bytes().to_vec()),
                ..Wire::default()
            };
            world.log.push(&topic, 0, wire);
        };
        let mut messages = 0;
        if place == "upserted" {
            // Other rows of the same keys: all that is asked for supersedes them.
            let others: Vec<Row> = rows.iter().rev().cloned().collect();
            push(&batch(&table, 0, &others));
            table.flush_upserts(&[(0, 1)]).await;
            messages = 1;
        }
        for (at, chunk) in rows.chunks(MESSAGE_ROWS).enumerate() {
            push(&batch(&table, at * MESSAGE_ROWS, chunk));
            messages += 1;
            if place == "vectors" {
                // A row that is to be deleted, behind each message.
                push(&batch(&table, 1000 + at, &chunk[..1]));
                messages += 1;
            }
        }
        match place {
            "one" => _ = table.flush(0, messages).await,
            "upserted" if messages > 2 => _ = table.flush_upserts(&[(0, messages - 1)]).await,
            "half" if messages > 1 => _ = table.flush(0, messages / 2).await,
            "several" => {
                for end in 1..=messages {
                    table.flush(0, end).await;
                }
            }
            "foreign" => {
                for end in 1..=messages {
                    table.flush_foreign(0, end).await;
                }
            }
            "vectors" => {
                table.flush(0, messages).await;
                let chunks = 1..=messages as usize / 2;
                let ends = chunks.map(|n| (n * (MESSAGE_ROWS + 1)).min(rows.len() + n) - 1);
                let deleted: Vec<u64> = ends.map(|position| position as u64).collect();
                table.delete("part-00001.parquet", &deleted).await;
            }
            _ => {}
        }
    }
    world
}

/// A filter's leaf: a column, and literals that mean something for it.
fn leaf() -> impl Strategy<Value = String> {
    const FLOATS: &[&str] = &[
        "0.0",
        "-0.0",
        "3.0",
        "10.0",
        "-4.0",
        "'NaN'::double",
        "'inf'::double",
        "'-inf'::double",
    ];
    const LONGS: &[&str] = &["0", "1", "3", "-1", "100"];
    const INTS: &[&str] = &["0", "3", "-3", "2147483647", "-2147483648", "6"];
    const TEXTS: &[&str] = &[
        "''",
        "'a'",
        "'ab'",
        "'the'",
        "'the same beginning of a text that is longer than any bound '",
        "'the same beginning of a text that is longer than any bound b'",
    ];
    const STAMPS: &[&str] = &[
        "TIMESTAMP '0001-01-01 00:00:00'",
        "TIMESTAMP '9999-12-31 23:59:59.999999'",
        "TIMESTAMP '1970-01-01 00:00:00'",
        "TIMESTAMP '1970-01-01 00:00:00.000001'",
        "TIMESTAMP '2026-11-21 12:34:56.789'",
    ];
    const COLUMNS: &[(&str, &[&str])] = &[
        ("x", FLOATS),
        ("y", FLOATS),
        ("x + 1", FLOATS),
        ("n", INTS),
        ("s", TEXTS),
        ("t", STAMPS),
        ("u", STAMPS),
        ("st['a']", LONGS),
        ("st['b']", FLOATS),
        ("st['in']['w']", FLOATS),
        ("st['in']['v']", &["'v1'", "'v0'", "''"]),
        ("op['a']", LONGS),
        ("ll[1]['k']", LONGS),
        ("coalesce(st['a'], -1)", LONGS),
    ];
    let column = prop::sample::select(COLUMNS);
    let column = column.prop_flat_map(|(column, literals)| {
        let literal = || prop::sample::select(literals);
        let operator = prop::sample::select(&["=", "<>", "<", "<=", ">", ">="][..]);
        prop_oneof![
            4 => (operator, literal())
                .prop_map(move |(operator, literal)| format!("{column} {operator} {literal}")),
            1 => (literal(), literal())
                .prop_map(move |(a, b)| format!("{column} IN ({a}, {b})")),
            1 => (literal(), literal(), any::<bool>()).prop_map(move |(a, b, not)| {
                format!("{column} {} BETWEEN {a} AND {b}", if not { "NOT" } else { "" })
            }),
            1 => any::<bool>().prop_map(move |not| {
                format!("{column} IS {} NULL", if not { "NOT" } else { "" })
            }),
        ]
    });
    prop_oneof![
        12 => column,
        1 => prop::sample::select(&["isnan(x)", "isnan(y)", "st IS NULL", "isnan(st['b'])"][..])
            .prop_map(str::to_owned),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    leaf().prop_recursive(2, 4, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) AND ({b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) OR ({b})")),
        ]
    })
}

fn without_zeros(order: &str) -> &'static str {
    match order {
        "x" => "(x <> 0.0 OR x IS NULL)",
        "y DESC" => "(y <> 0.0 OR y IS NULL)",
        _ => "true",
    }
}

/// What is asked of the rows that pass.
fn questions(filter: &str, order: &str, limit: usize) -> [String; 4] {
    let of = |what: &str| format!("SELECT {what} FROM @ WHERE id < 1000 AND ({filter})");
    // Zeros of both signs are equal, and which of them is the least is nobody's promise.
    let float = |column: &str| {
        format!("CAST(min({column}) + 0.0 AS varchar), CAST(max({column}) + 0.0 AS varchar)")
    };
    [
        of(
            "id, CAST(x AS varchar), st['a'], st['in']['w'], st['in']['v'], op['a'], ll[1]['k'], st, ll",
        ) + " ORDER BY id",
        of(&format!(
            "count(*), count(x), count(st['a']), count(op['a']), sum(st['a']), sum(n), min(n), \
             max(n), min(s), max(s), min(t), max(t), min(st['a']), max(st['in']['v']), {}, {}, {}",
            float("x"),
            float("y"),
            float("st['b']")
        )),
        // Zeros of both signs are equal, but sorted by their signs: an order without zeros.
        of("id")
            + &format!(
                " AND {} ORDER BY {order}, id LIMIT {limit}",
                without_zeros(order)
            ),
        // Without a filter, from statistics.
        "SELECT count(*), count(x), count(n), min(n), max(n), min(t), max(u), min(id) FROM @"
            .into(),
    ]
}

async fn answer(world: &World, place: &str, question: &str) -> Value {
    let sql = question.replace('@', place);
    let (parts, body) = world.sql(json!({ "sql": sql })).await;
    json!([
        parts.status.as_u16(),
        body["rows"],
        body["code"],
        body["detail"]
    ])
}

async fn agree(world: &World, question: &str) {
    let expected = answer(world, PLACES[0], question).await;
    assert_eq!(expected[0], 200, "{question}: {expected}");
    for place in &PLACES[1..] {
        let found = answer(world, place, question).await;
        assert_eq!(found, expected, "{place} is not {}: {question}", PLACES[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, max_shrink_iters: 40, ..Default::default() })]

    #[test]
    fn the_same_rows_answer_alike_wherever_they_are(
        rows in prop::collection::vec(row(), 1..60),
        filters in prop::collection::vec(
            (filter(), prop::sample::select(&["x", "y DESC", "t", "s"][..])),
            3,
        ),
        limit in 1usize..9,
        pushdown_filters: bool,
        target_partitions in 1usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = QuerySettings {
                pushdown_filters,
                target_partitions,
                ..QuerySettings::default()
            };
            let world = world(&rows, settings).await;
            for (filter, order) in &filters {
                for question in questions(filter, order, limit) {
                    agree(&world, &question).await;
                }
            }
        });
    }
}

/// Three rows: a struct that is there, one that is null over `9`, and one more that is there.
fn three(x: [f64; 3]) -> Vec<Row> {
    let row = |at: usize| Row {
        x: Some(x[at]),
        y: Some(x[at] as f32),
        n: None,
        s: None,
        t: None,
        u: None,
        a: [7, 9, 8][at],
        st: at != 1,
        inside: at == 0,
        op: at != 1,
        ll: Some(vec![at != 1]),
    };
    (0..3).map(row).collect()
}

#[tokio::test]
async fn no_filter_loses_a_nan() {
    let world = world(&three([1.0, f64::NAN, 3.0]), QuerySettings::default()).await;
    for place in PLACES {
        for (filter, ids) in [
            ("> 10", json!([[1]])),
            ("<> 3", json!([[0], [1]])),
            (">= 3", json!([[1], [2]])),
            ("< 10", json!([[0], [2]])),
        ] {
            for column in ["x", "y"] {
                let sql =
                    format!("SELECT id FROM @ WHERE id < 1000 AND {column} {filter} ORDER BY id");
                let found = answer(&world, place, &sql).await;
                assert_eq!(found[1], ids, "{place}: {column} {filter}");
            }
        }
        let sql = "SELECT id FROM @ WHERE id < 1000 AND NOT (x <= 10) ORDER BY id";
        assert_eq!(answer(&world, place, sql).await[1], json!([[1]]), "{place}");
    }
}

#[tokio::test]
async fn zeros_of_both_signs_are_equal() {
    let rows: Vec<Row> = [three([-0.0, 0.0, 3.0]), three([-0.0, 1.0, 2.0])].concat();
    let world = world(&rows, QuerySettings::default()).await;
    for place in PLACES {
        for column in ["x", "y", "x + 0.0"] {
            for (filter, count) in [
                ("= 0", 3),
                ("= -0.0", 3),
                ("IN (0.0, 3.0)", 4),
                ("NOT IN (0, 3)", 2),
                ("IN (-0.0, 5, 6, 7, 8)", 3),
                ("NOT IN (0.0, 5, 6, 7, 8)", 3),
                ("BETWEEN 0.0 AND 1.0", 4),
                ("< 0.0", 0),
                ("IN (SELECT 0.0)", 3),
                ("IN (id * 0, 3.0)", 4),
                ("NOT IN (id * 0, 0 * id, 3)", 2),
                ("WHEN 7 THEN false WHEN 0 THEN true WHEN 3 THEN true END", 4),
            ] {
                let case = if filter.starts_with("WHEN") {
                    "CASE"
                } else {
                    ""
                };
                let sql =
                    format!("SELECT count(*) FROM @ WHERE id < 1000 AND {case} {column} {filter}");
                let found = answer(&world, place, &sql).await;
                assert_eq!(
                    found[1],
                    json!([[count]]),
                    "{place}: {column} {filter}: {found}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_field_of_a_null_struct_is_null() {
    let world = world(&three([1.0, 2.0, 3.0]), QuerySettings::default()).await;
    for place in PLACES {
        for (what, expected) in [
            ("st['a']", json!([[7], [null], [8]])),
            ("st['b']", json!([[1.0], [null], [3.0]])),
            ("op['a']", json!([[7], [null], [8]])),
            ("st['in']['w']", json!([[3.5], [null], [null]])),
            ("get_field(st, 'in', 'v')", json!([["v7"], [null], [null]])),
            (
                "get_field(get_field(st, 'in'), 'w')",
                json!([[3.5], [null], [null]]),
            ),
            ("ll[1]['k']", json!([[0], [null], [2]])),
            ("named_struct('q', st)['q']['a']", json!([[7], [null], [8]])),
            (
                "CASE WHEN id >= 0 THEN st END['a']",
                json!([[7], [null], [8]]),
            ),
            ("coalesce(st['a'], -1)", json!([[7], [-1], [8]])),
            ("st['a'] IS NULL", json!([[false], [true], [false]])),
        ] {
            let sql = format!("SELECT {what} FROM @ WHERE id < 1000 ORDER BY id");
            let found = answer(&world, place, &sql).await;
            assert_eq!(found[1], expected, "{place}: {what}: {found}");
        }
        let rows = "(SELECT st FROM @ WHERE id < 1000 ORDER BY id) q";
        for (sql, expected) in [
            (
                format!("SELECT unnest(st) FROM {rows}"),
                json!([
                    [7, 1.0, {"w": 3.5, "v": "v7"}],
                    [null, null, null],
                    [8, 3.0, null]
                ]),
            ),
            (
                format!("SELECT sum(\"q.st.a\"), count(*) FROM (SELECT unnest(st) FROM {rows})"),
                json!([[15, 3]]),
            ),
        ] {
            let found = answer(&world, place, &sql).await;
            assert_eq!(found[1], expected, "{place}: {sql}: {found}");
        }
        for (filter, count) in [
            ("st['a'] IS NULL", 1),
            ("st['a'] > 0", 2),
            ("st['in']['w'] IS NULL", 2),
            ("op['a'] = 9", 0),
            ("st['in']['v'] = ''", 0),
            ("EXISTS (SELECT 1 FROM @ b WHERE b.st['a'] = @.st['a'])", 2),
        ] {
            let sql = format!("SELECT count(*) FROM @ WHERE id < 1000 AND {filter}");
            let found = answer(&world, place, &sql).await;
            assert_eq!(found[1], json!([[count]]), "{place}: {filter}: {found}");
        }
    }
}
