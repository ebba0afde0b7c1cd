//! Which changes are followed, against a model of values; and what is said of the others.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::delta;
use crate::tests::{any_primitive, any_schema, reversed};

fn types_of(was: &TableSchema, now: &TableSchema) -> Result<(), String> {
    let names = PhysicalNames::new();
    let of = |schema| Columns {
        schema,
        names: &names,
    };
    check_types(of(was), of(now)).map_err(|error| error.to_string())
}

fn key_of(was: &TableSchema, now: &TableSchema) -> Result<(), String> {
    let names = PhysicalNames::new();
    let of = |schema| Columns {
        schema,
        names: &names,
    };
    check_key(of(was), of(now)).map_err(|error| error.to_string())
}

fn table(columns: &[(&str, &str)], key: &[i32]) -> TableSchema {
    let fields: Vec<_> = columns
        .iter()
        .map(|(name, ty)| json!({"name": name, "required": true, "type": ty}))
        .collect();
    let schema = json!({"fields": fields, "identifier-field-ids": key});
    TableSchema::from_iceberg_value(&schema).unwrap()
}

/// The type as an interval of whole numbers that it holds, in steps of a power of ten; none for
/// what is no exact number.
fn range(primitive: Primitive) -> Option<(i128, i8)> {
    Some(match primitive {
        Primitive::Byte => (i128::from(i8::MAX), 0),
        Primitive::Short => (i128::from(i16::MAX), 0),
        Primitive::Int => (i128::from(i32::MAX), 0),
        Primitive::Long => (i128::from(i64::MAX), 0),
        Primitive::Decimal { precision, scale } => (10_i128.pow(precision.into()) - 1, scale),
        _ => return None,
    })
}

proptest! {
    #[test]
    fn a_type_grows_only_where_every_value_of_it_stays(
        old in any_primitive(), new in any_primitive()
    ) {
        let kind = |p: Primitive| std::mem::discriminant(&p);
        let whole = |p| matches!(
            p, Primitive::Byte | Primitive::Short | Primitive::Int | Primitive::Long
        );
        let exact = match (range(old), range(new)) {
            (Some((most, scale)), Some((new_most, new_scale)))
                if kind(old) == kind(new) || (whole(old) && whole(new)) =>
            {
                // The largest old value, in the new one's steps.
                let finer = u32::try_from(new_scale - scale).ok();
                let largest = finer.and_then(|finer| most.checked_mul(10_i128.pow(finer)));
                largest.is_some_and(|largest| largest <= new_most)
            }
            _ => old == new || (old, new) == (Primitive::Float, Primitive::Double),
        };
        prop_assert_eq!(widens(old, new), exact, "{} to {}", old, new);
    }

    #[test]
    fn renamed_and_moved_columns_are_the_same_by_their_physical_names(schema in any_schema()) {
        let mut moved = schema.clone();
        moved.fields = reversed(&schema.fields);
        // What the columns were called first.
        let mut names = PhysicalNames::new();
        fn note(fields: &[Field], names: &mut PhysicalNames) {
            fn inside(ty: &Type, names: &mut PhysicalNames) {
                match ty {
                    Type::Struct(fields) => note(fields, names),
                    other => other.children().iter().for_each(|(_, _, ty)| inside(ty, names)),
                }
            }
            for field in fields {
                names.insert(field.id, field.name.clone());
                inside(&field.ty, names);
            }
        }
        note(&schema.fields, &mut names);
        let first = PhysicalNames::new();
        let was = Columns { schema: &schema, names: &first };
        let now = Columns { schema: &moved, names: &names };
        prop_assert_eq!(check_types(was, now), Ok(()));
        prop_assert_eq!(check_key(was, now), Ok(()));
    }

    #[test]
    fn one_retyped_column_is_found_wherever_it_is(
        schema in any_schema(), to in any_primitive(), pick in any::<prop::sample::Index>()
    ) {
        let mut places = 0;
        retype(&mut schema.clone().fields, &mut |_| { places += 1; false }, to);
        let at = pick.index(places);
        let (mut now, mut before, mut seen) = (schema.clone(), None, 0);
        retype(&mut now.fields, &mut |old| {
            seen += 1;
            if seen == at + 1 { before = Some(old) }
            seen == at + 1
        }, to);
        let legal = widens(before.unwrap(), to);
        let found = types_of(&schema, &now);
        prop_assert_eq!(found.is_ok(), legal, "{:?}", found);
        if let Err(message) = found {
            prop_assert!(message.contains(&format!("from {} to {to}", before.unwrap())), "{}", message);
        }
    }
}

/// Gives the primitive types that `chosen` picks another.
fn retype(fields: &mut [Field], chosen: &mut dyn FnMut(Primitive) -> bool, to: Primitive) {
    fn inside(ty: &mut Type, chosen: &mut dyn FnMut(Primitive) -> bool, to: Primitive) {
        match ty {
            Type::Primitive(primitive) => {
                if chosen(*primitive) {
                    *primitive = to;
                }
            }
            Type::Struct(fields) => retype(fields, chosen, to),
            Type::List(list) => inside(&mut list.element, chosen, to),
            Type::Map(map) => {
                inside(&mut map.key, chosen, to);
                inside(&mut map.value, chosen, to);
            }
        }
    }
    for field in fields {
        inside(&mut field.ty, chosen, to);
    }
}

#[test]
fn what_is_refused_names_the_column_and_what_to_do() {
    let was = table(&[("id", "long"), ("who", "uuid"), ("v", "int")], &[1, 2]);
    let now = |columns: &[(&str, &str)], key: &[i32]| table(columns, key);
    let all = [("id", "long"), ("who", "uuid"), ("v", "int")];
    let retyped = |at: usize, ty| {
        let mut columns = all;
        columns[at].1 = ty;
        now(&columns, &[1, 2])
    };
    let messages = [
        types_of(&was, &retyped(2, "string")).unwrap_err(),
        types_of(&was, &retyped(2, "short")).unwrap_err(),
        types_of(&was, &retyped(1, "string")).unwrap_err(),
        key_of(&was, &now(&all, &[1])).unwrap_err(),
        key_of(&was, &now(&all, &[2, 1])).unwrap_err(),
        key_of(&was, &now(&all[1..], &[1])).unwrap_err(),
        key_of(&was, &now(&all, &[])).unwrap_err(),
        key_of(&was, &retyped(1, "string")).unwrap_err(),
    ];
    insta::assert_snapshot!(messages.join("\n"));
    assert_eq!(types_of(&was, &retyped(2, "long")), Ok(()));
    // A column that went and one that came are no change of a type.
    let other = now(&[("id", "long"), ("who", "uuid"), ("w", "string")], &[1, 2]);
    assert_eq!(
        (types_of(&was, &other), key_of(&was, &other)),
        (Ok(()), Ok(()))
    );
}

#[test]
fn a_key_may_not_even_grow() {
    let was = table(&[("id", "int"), ("v", "int")], &[1]);
    let now = table(&[("id", "long"), ("v", "int")], &[1]);
    assert_eq!(types_of(&was, &now), Ok(()));
    assert!(key_of(&was, &now).is_err());
}

#[test]
fn ids_that_were_given_anew_are_no_change() {
    let was = table(&[("id", "int"), ("v", "string")], &[1]);
    let mut now = was.clone();
    (now.fields[0].id, now.fields[1].id) = (2, 1);
    now.identifier_field_ids = vec![2];
    let text = delta::mapped_schema_string(&now, &PhysicalNames::new());
    let now = delta::from_schema_string(&text).unwrap();
    assert_eq!((types_of(&was, &now), key_of(&was, &now)), (Ok(()), Ok(())));
}
