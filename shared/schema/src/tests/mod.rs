//! Random schemas, and one with everything nested, for the tests of each form.

mod arrow;
mod delta;
mod messages;
mod round_trips;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::ids::assign_fresh_ids;
use crate::{Field, ListType, MapType, Primitive, TableSchema, Type};

pub(crate) fn any_primitive() -> impl Strategy<Value = Primitive> {
    let decimal = (1u8..=38).prop_flat_map(|precision| {
        let scale = 0..=i8::try_from(precision).unwrap();
        scale.prop_map(move |scale| Primitive::Decimal { precision, scale })
    });
    prop_oneof![
        Just(Primitive::Boolean),
        Just(Primitive::Byte),
        Just(Primitive::Short),
        Just(Primitive::Int),
        Just(Primitive::Long),
        Just(Primitive::Float),
        Just(Primitive::Double),
        decimal,
        Just(Primitive::Date),
        Just(Primitive::Time),
        Just(Primitive::Timestamp),
        Just(Primitive::TimestampTz),
        Just(Primitive::TimestampNs),
        Just(Primitive::TimestampTzNs),
        Just(Primitive::String),
        Just(Primitive::Uuid),
        (1u32..100).prop_map(Primitive::Fixed),
        Just(Primitive::Binary),
    ]
}

pub(crate) fn any_fields(
    ty: impl Strategy<Value = Type> + Clone,
) -> impl Strategy<Value = Vec<Field>> {
    let doc = proptest::option::of("[ -~é]{0,12}");
    let field = (".{0,3}[a-z é.\"\\\\,;]", any::<bool>(), ty, doc);
    proptest::collection::vec(field, 1..5).prop_map(|fields| {
        let field = |(index, (name, required, ty, doc)): (usize, (String, bool, Type, _))| {
            let name: String = name.chars().filter(|c| !c.is_control()).collect();
            // The number keeps names distinct even without case.
            Field {
                id: 0,
                name: format!("{index}{name}"),
                required,
                ty,
                doc,
            }
        };
        fields.into_iter().enumerate().map(field).collect()
    })
}

pub(crate) fn any_type() -> impl Strategy<Value = Type> + Clone {
    let leaf = any_primitive().prop_map(Type::Primitive);
    leaf.prop_recursive(3, 12, 4, |inner| {
        let list = (any::<bool>(), inner.clone()).prop_map(|(element_required, element)| {
            Type::List(Box::new(ListType {
                element_id: 0,
                element_required,
                element,
            }))
        });
        let map = (inner.clone(), any::<bool>(), inner.clone()).prop_map(
            |(key, value_required, value)| {
                Type::Map(Box::new(MapType {
                    key_id: 0,
                    key,
                    value_id: 0,
                    value_required,
                    value,
                }))
            },
        );
        prop_oneof![list, map, any_fields(inner).prop_map(Type::Struct)]
    })
    .boxed()
}

/// Ids are shuffled by a bijection, so that nothing can rely on their order.
pub(crate) fn any_schema() -> impl Strategy<Value = TableSchema> {
    (any_fields(any_type()), any::<bool>(), 0..1000i32, 0..9i32).prop_map(
        |(fields, with_key, spread, schema_id)| {
            let mut schema = TableSchema {
                schema_id,
                fields,
                identifier_field_ids: vec![],
            };
            assign_fresh_ids(&mut schema);
            let last = schema.last_column_id();
            let shuffle = |id: &mut i32| *id = last + 1 - *id + spread;
            schema
                .fields
                .iter_mut()
                .for_each(|field| each_id(field, &shuffle));
            if with_key {
                let fits = |f: &&Field| {
                    f.required
                        && matches!(&f.ty, Type::Primitive(p)
                            if !matches!(p, Primitive::Float | Primitive::Double))
                };
                schema.identifier_field_ids = schema
                    .fields
                    .iter()
                    .rev()
                    .filter(fits)
                    .map(|f| f.id)
                    .collect();
            }
            schema
        },
    )
}

pub(crate) fn each_id(field: &mut Field, change: &impl Fn(&mut i32)) {
    fn inside(ty: &mut Type, change: &impl Fn(&mut i32)) {
        match ty {
            Type::Primitive(_) => {}
            Type::Struct(fields) => fields.iter_mut().for_each(|f| each_id(f, change)),
            Type::List(list) => {
                change(&mut list.element_id);
                inside(&mut list.element, change);
            }
            Type::Map(map) => {
                change(&mut map.key_id);
                change(&mut map.value_id);
                inside(&mut map.key, change);
                inside(&mut map.value, change);
            }
        }
    }
    change(&mut field.id);
    inside(&mut field.ty, change);
}

/// The fields in the opposite order under other names, nested ones too.
pub(crate) fn reversed(fields: &[Field]) -> Vec<Field> {
    fn inside(ty: &Type) -> Type {
        match ty {
            Type::Primitive(primitive) => Type::Primitive(*primitive),
            Type::Struct(fields) => Type::Struct(reversed(fields)),
            Type::List(list) => Type::List(Box::new(ListType {
                element: inside(&list.element),
                ..(**list).clone()
            })),
            Type::Map(map) => Type::Map(Box::new(MapType {
                key: inside(&map.key),
                value: inside(&map.value),
                ..(**map).clone()
            })),
        }
    }
    let fields = fields.iter().rev().map(|field| Field {
        name: format!("{}.", field.name),
        ty: inside(&field.ty),
        ..field.clone()
    });
    fields.collect()
}

pub(crate) fn without_ids(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|key, _| !["id", "element-id", "key-id", "value-id"].contains(&&key[..]));
            object.remove("identifier-field-ids");
            object.values_mut().for_each(without_ids);
        }
        Value::Array(values) => values.iter_mut().for_each(without_ids),
        _ => {}
    }
}

pub(crate) fn nested() -> TableSchema {
    TableSchema::from_iceberg_value(&json!({
        "type": "struct", "schema-id": 3, "identifier-field-ids": [2, 1],
        "fields": [
            {"id": 1, "name": "id", "required": true, "type": "long", "doc": "the key"},
            {"id": 2, "name": "who", "required": true, "type": "uuid"},
            {"id": 3, "name": "tags", "required": false, "type": {
                "type": "list", "element-id": 9, "element-required": true, "element": "time"}},
            {"id": 4, "name": "m", "required": false, "type": {
                "type": "map", "key-id": 10, "key": "uuid", "value-id": 11,
                "value-required": false, "value": {
                    "type": "list", "element-id": 12, "element-required": false,
                    "element": {"type": "struct", "fields": [
                        {"id": 13, "name": "raw", "required": false, "type": "fixed[16]"}]}}}},
        ]
    }))
    .unwrap()
}
