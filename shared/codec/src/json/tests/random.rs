//! Random schemas, and records that fit them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tidelake_schema::{Field, ListType, MapType, Primitive, TableSchema, Type};

use super::oracle::quote;

/// xorshift64: a seed from proptest decides everything, so a failure prints all that is needed.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn one_of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

pub(crate) fn random_schema(rng: &mut Rng) -> TableSchema {
    let mut id = 0;
    let fields = random_fields(rng, &mut id, 0);
    TableSchema {
        schema_id: 0,
        fields,
        identifier_field_ids: Vec::new(),
    }
}

fn next_id(id: &mut i32) -> i32 {
    *id += 1;
    *id
}

fn random_fields(rng: &mut Rng, id: &mut i32, depth: usize) -> Vec<Field> {
    const NAMES: [&str; 8] = [
        "id",
        "a",
        "long name",
        "é",
        "q\"uote",
        "back\\slash",
        "x.y",
        "z",
    ];
    let start = rng.below(NAMES.len());
    let field = |index: usize, rng: &mut Rng, id: &mut i32| Field {
        id: next_id(id),
        name: NAMES[(start + index) % NAMES.len()].to_owned(),
        required: rng.below(3) == 0,
        ty: random_type(rng, id, depth),
        doc: None,
    };
    (0..1 + rng.below(4))
        .map(|index| field(index, rng, id))
        .collect()
}

fn random_type(rng: &mut Rng, id: &mut i32, depth: usize) -> Type {
    use Primitive as P;
    if depth < 3 && rng.below(4) == 0 {
        return match rng.below(3) {
            0 => Type::Struct(random_fields(rng, id, depth + 1)),
            1 => Type::List(Box::new(ListType {
                element_id: next_id(id),
                element_required: rng.below(3) == 0,
                element: random_type(rng, id, depth + 1),
            })),
            _ => Type::Map(Box::new(MapType {
                key_id: next_id(id),
                key: if rng.below(2) == 0 {
                    Type::Primitive(P::String)
                } else {
                    random_type(rng, id, depth + 1)
                },
                value_id: next_id(id),
                value_required: rng.below(3) == 0,
                value: random_type(rng, id, depth + 1),
            })),
        };
    }
    let precision = 1 + rng.below(38) as u8;
    let scale = rng.below(usize::from(precision) + 1) as i8;
    Type::Primitive(match rng.below(22) {
        0 => P::Boolean,
        1 => P::Int,
        2 => P::Float,
        3 => P::Decimal { precision, scale },
        4 => P::Date,
        5 => P::Time,
        6 => P::Timestamp,
        7 => P::TimestampTz,
        8 => P::TimestampNs,
        9 => P::TimestampTzNs,
        10 => P::Uuid,
        11 => P::Fixed(1 + rng.below(5) as u32),
        12 => P::Binary,
        13..=15 => P::Long,
        16..=17 => P::Double,
        18 => P::Byte,
        19 => P::Short,
        _ => P::String,
    })
}

/// A record that fits: fields in any order, some nullable ones missing, white space anywhere.
pub(crate) fn random_record(schema: &TableSchema, rng: &mut Rng) -> String {
    let mut out = String::new();
    write_object(&schema.fields, rng, &mut out);
    out
}

fn space(rng: &mut Rng) -> &'static str {
    match rng.below(12) {
        0 => " ",
        1 => "\t ",
        2 => "\n",
        3 => "\r\n",
        _ => "",
    }
}

fn write_object(fields: &[Field], rng: &mut Rng, out: &mut String) {
    let mut fields: Vec<_> = fields.iter().collect();
    if rng.below(3) == 0 {
        let turn = rng.below(fields.len());
        fields.rotate_left(turn);
    }
    fields.retain(|field| field.required || rng.below(5) > 0);
    out.push('{');
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(space(rng));
        out.push_str(&quoted(&field.name, rng));
        out.push_str(space(rng));
        out.push(':');
        write_position(field.required, &field.ty, rng, out);
    }
    out.push_str(space(rng));
    out.push('}');
}

fn write_position(required: bool, ty: &Type, rng: &mut Rng, out: &mut String) {
    out.push_str(space(rng));
    if !required && rng.below(6) == 0 {
        out.push_str("null");
    } else {
        match ty {
            Type::Primitive(primitive) => out.push_str(&random_scalar(*primitive, rng)),
            Type::Struct(fields) => write_object(fields, rng, out),
            Type::List(list) => {
                out.push('[');
                for index in 0..rng.below(4) {
                    if index > 0 {
                        out.push(',');
                    }
                    write_position(list.element_required, &list.element, rng, out);
                }
                out.push(']');
            }
            Type::Map(map) => write_map(map, rng, out),
        }
    }
    out.push_str(space(rng));
}

fn write_map(map: &MapType, rng: &mut Rng, out: &mut String) {
    match map.key {
        Type::Primitive(Primitive::String) => {
            out.push('{');
            for index in 0..rng.below(4) {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&quoted(&format!("k{index}é"), rng));
                out.push(':');
                write_position(map.value_required, &map.value, rng, out);
            }
            out.push('}');
        }
        Type::Primitive(Primitive::Uuid) => {
            out.push('{');
            if rng.below(2) == 0 {
                out.push_str(&random_scalar(Primitive::Uuid, rng));
                out.push(':');
                write_position(map.value_required, &map.value, rng, out);
            }
            out.push('}');
        }
        _ => {
            out.push('[');
            if rng.below(3) > 0 {
                out.push_str("{\"key\":");
                write_position(true, &map.key, rng, out);
                out.push_str(",\"value\":");
                write_position(map.value_required, &map.value, rng, out);
                out.push('}');
            }
            out.push(']');
        }
    }
}

/// With escapes here and there that need not be.
fn quoted(text: &str, rng: &mut Rng) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        if rng.below(20) == 0 {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            let escaped = quote(&char.to_string());
            out.push_str(&escaped[1..escaped.len() - 1]);
        }
    }
    out.push('"');
    out
}

#[expect(clippy::too_many_lines, reason = "one arm for each type")]
fn random_scalar(primitive: Primitive, rng: &mut Rng) -> String {
    let pick = |rng: &mut Rng, choices: &[&str]| rng.one_of(choices).to_owned();
    match primitive {
        Primitive::Boolean => pick(rng, &["true", "false"]),
        Primitive::Byte => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "127", "-128"]),
            _ => (rng.next() as i8).to_string(),
        },
        Primitive::Short => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "32767", "-32768"]),
            _ => (rng.next() as i16).to_string(),
        },
        Primitive::Int => match rng.below(3) {
            0 => pick(rng, &["0", "-0", "2147483647", "-2147483648"]),
            _ => (rng.next() as i32).to_string(),
        },
        Primitive::Long => match rng.below(3) {
            0 => pick(
                rng,
                &["0", "-1", "9223372036854775807", "-9223372036854775808"],
            ),
            1 => (rng.next() as i64).to_string(),
            _ => rng.below(100_000).to_string(),
        },
        Primitive::Float => match rng.below(3) {
            0 => pick(
                rng,
                &["0", "-0.0", "1e10", "3.4028235e38", "1E-40", "16777217"],
            ),
            _ => format!("{}.{}", rng.next() as i16, rng.below(1000)),
        },
        Primitive::Double => match rng.below(4) {
            0 => pick(
                rng,
                &[
                    "0",
                    "-0.0",
                    "1e+300",
                    "5e-324",
                    "1E5",
                    "123456789012345678901",
                ],
            ),
            1 => match f64::from_bits(rng.next()) {
                value if value.is_finite() => format!("{value:?}"),
                _ => "1.5".to_owned(),
            },
            _ => format!("{}.{:02}", rng.next() as i32, rng.below(100)),
        },
        Primitive::Decimal { precision, scale } => {
            let digits = usize::from(precision) - usize::try_from(scale).unwrap();
            let mut text = if rng.below(2) == 0 {
                "-".to_owned()
            } else {
                String::new()
            };
            let whole: String = (0..digits.min(1 + rng.below(digits + 1)))
                .map(|_| char::from(b'1' + rng.below(9) as u8))
                .collect();
            text.push_str(if whole.is_empty() { "0" } else { &whole });
            if scale > 0 && rng.below(3) > 0 {
                text.push('.');
                (0..scale).for_each(|_| text.push(char::from(b'0' + rng.below(10) as u8)));
                text.push_str(pick(rng, &["", "0", "e0", "E-0"]).as_str());
            }
            if rng.below(2) == 0 {
                text
            } else {
                format!("\"{text}\"")
            }
        }
        Primitive::Date => format!("\"{}\"", random_date(rng)),
        Primitive::Time => format!("\"{}\"", random_time(rng, 6)),
        Primitive::Timestamp => random_stamp(rng, 6, ""),
        Primitive::TimestampNs => random_stamp(rng, 9, ""),
        Primitive::TimestampTz | Primitive::TimestampTzNs => {
            let zone = pick(rng, &["Z", "z", "+00:00", "+05:30", "-23:59", "-00:00"]);
            let digits = if primitive == Primitive::TimestampTz {
                6
            } else {
                9
            };
            random_stamp(rng, digits, &zone)
        }
        Primitive::String => {
            let text = pick(
                rng,
                &[
                    "",
                    "plain text",
                    "exactly8",
                    "sixteen bytes ok",
                    "é€𝄞 and more of it",
                    "tab\tquote\"slash/back\\",
                    "\u{0}\u{1f}\u{7f}\u{8}\u{c}",
                    "a longer text, well over thirty-two bytes of it",
                ],
            );
            let cut = rng.below(text.chars().count() + 1);
            quoted(&text.chars().skip(cut / 2).collect::<String>(), rng)
        }
        Primitive::Uuid => {
            let hex = format!("{:016x}{:016X}", rng.next(), rng.next());
            let groups = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            format!("\"{}\"", groups.join("-"))
        }
        Primitive::Fixed(length) => random_bytes(length as usize, rng),
        Primitive::Binary => {
            let length = rng.below(12);
            random_bytes(length, rng)
        }
    }
}

fn random_bytes(length: usize, rng: &mut Rng) -> String {
    let bytes: Vec<u8> = (0..length).map(|_| rng.next() as u8).collect();
    quoted(&STANDARD.encode(bytes), rng)
}

fn random_date(rng: &mut Rng) -> String {
    let year = 1700 + rng.below(500);
    format!("{year}-{:02}-{:02}", 1 + rng.below(12), 1 + rng.below(28))
}

fn random_time(rng: &mut Rng, digits: usize) -> String {
    let (h, m, s) = (rng.below(24), rng.below(60), rng.below(60));
    let fraction = match rng.below(3) {
        0 => String::new(),
        _ => {
            let length = 1 + rng.below(digits);
            let digits = (0..length).map(|_| char::from(b'0' + rng.below(10) as u8));
            format!(".{}", digits.collect::<String>())
        }
    };
    format!("{h:02}:{m:02}:{s:02}{fraction}")
}

fn random_stamp(rng: &mut Rng, digits: usize, zone: &str) -> String {
    let between = rng.one_of(&["T", "T", "t", " "]);
    format!(
        "\"{}{between}{}{zone}\"",
        random_date(rng),
        random_time(rng, digits)
    )
}
