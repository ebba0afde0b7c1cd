//! From a `schemaString`, of ours or of another writer, to a table schema.

use std::collections::HashSet;

use serde_json::{Map, Value};
use tidelake_core::limits::SCHEMA_DEPTH_MAX;

use super::write::stored_type;
use super::{COMMENT, DECLARED, ID, IDENTIFIER, OWN_ID, id_in, number_in};
use crate::error::{Problem, SchemaError};
use crate::iceberg::{assign_fresh_ids, kind_of, optional, required};
use crate::types::{
    Field, ListType, MapType, Primitive, TableSchema, Type, decimal, join, shorten,
};

/// Ids that follow from paths lie from here on, far above those that are counted.
const PATH_IDS_FROM: i32 = 1 << 30;

/// Reads and validates the schema of a table of ours or of another writer. Ids are those of the
/// column mapping, or ours; a table that has neither gets fresh ones. Metadata that is not ours is
/// ignored.
pub fn from_schema_string(text: &str) -> Result<TableSchema, SchemaError> {
    let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::Json(e.to_string()))?;
    let Value::Object(object) = &value else {
        return Err(SchemaError::Table(Problem::NotASchema(kind_of(&value))));
    };
    let mut reader = Reader::default();
    let fields = reader.fields(object, "", 1)?;
    let mut schema = TableSchema {
        schema_id: 0,
        fields,
        identifier_field_ids: Vec::new(),
    };
    reader.number(&mut schema);
    schema.identifier_field_ids = reader.identifiers(&schema);
    if let Some(field) = schema.identifier_fields().iter().find(|key| !key.required) {
        return Err(SchemaError::at(&field.name, Problem::NullableKey));
    }
    schema.validate()?;
    Ok(schema)
}

fn parse_stored(text: &str) -> Option<Primitive> {
    Some(match text {
        "boolean" => Primitive::Boolean,
        "byte" => Primitive::Byte,
        "short" => Primitive::Short,
        "integer" => Primitive::Int,
        "long" => Primitive::Long,
        "float" => Primitive::Float,
        "double" => Primitive::Double,
        "date" => Primitive::Date,
        "timestamp" => Primitive::TimestampTz,
        "timestamp_ntz" => Primitive::Timestamp,
        "string" => Primitive::String,
        "binary" => Primitive::Binary,
        "decimal" => Primitive::Decimal {
            precision: 10,
            scale: 0,
        },
        _ => return decimal(text.strip_prefix("decimal(")?.strip_suffix(')')?),
    })
}

/// What reading has met: mapped ids, and positions in the primary key.
#[derive(Default)]
struct Reader {
    mapped: bool,
    /// A field with an id of ours.
    numbered: bool,
    /// A field without an id of the column mapping.
    unmapped: bool,
    /// A list's or map's position without id, as foreign writers leave them.
    nested_unmapped: bool,
    identifiers: Vec<(i64, String)>,
}

impl Reader {
    fn fields(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Vec<Field>, SchemaError> {
        let fields = required(
            object,
            path,
            "fields",
            "an array of fields",
            Value::as_array,
        )?;
        fields
            .iter()
            .map(|field| self.field(field, path, depth))
            .collect()
    }

    fn field(&mut self, value: &Value, parent: &str, depth: usize) -> Result<Field, SchemaError> {
        let Value::Object(object) = value else {
            let found = kind_of(value);
            let problem = Problem::WrongJson {
                key: "fields",
                expected: "an array of objects",
                found,
            };
            return Err(SchemaError::at(parent, problem));
        };
        let name = required(object, parent, "name", "the field's name", Value::as_str)?;
        let path = join(parent, name);
        let nullable = required(object, &path, "nullable", "true or false", Value::as_bool)?;
        let empty = Map::new();
        let metadata = optional(object, &path, "metadata", "an object", Value::as_object)?;
        let metadata = metadata.unwrap_or(&empty);
        let id = match optional(metadata, &path, ID, "an id", id_in)? {
            Some(id) => {
                self.mapped = true;
                id
            }
            None => {
                self.unmapped = true;
                let own = optional(metadata, &path, OWN_ID, "an id", id_in)?;
                self.numbered |= own.is_some();
                own.unwrap_or(0)
            }
        };
        if depth == 1
            && let Some(place) =
                optional(metadata, &path, IDENTIFIER, "a place in the key", number_in)?
        {
            self.identifiers.push((place, name.to_owned()));
        }
        let position = Position {
            metadata,
            field: &path,
            inner: String::new(),
        };
        let ty = required(object, &path, "type", "a type", Some)?;
        Ok(Field {
            id,
            name: name.to_owned(),
            required: !nullable,
            ty: self.ty(ty, &position, depth)?,
            doc: metadata
                .get(COMMENT)
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }

    fn ty(&mut self, value: &Value, at: &Position<'_>, depth: usize) -> Result<Type, SchemaError> {
        let path = &join(at.field, &at.inner);
        if depth > SCHEMA_DEPTH_MAX {
            return Err(SchemaError::at(path, Problem::TooDeep));
        }
        let object = match value {
            Value::String(text) => return at.primitive(text, path).map(Type::Primitive),
            Value::Object(object) => object,
            other => {
                let expected = "a type's name or an object";
                let problem = Problem::WrongJson {
                    key: "type",
                    expected,
                    found: kind_of(other),
                };
                return Err(SchemaError::at(path, problem));
            }
        };
        match required(object, path, "type", "struct, array or map", Value::as_str)? {
            "struct" => Ok(Type::Struct(self.fields(object, path, depth + 1)?)),
            "array" => {
                let inner = at.inside("element");
                let element = required(object, path, "elementType", "a type", Some)?;
                let nulls = required(
                    object,
                    path,
                    "containsNull",
                    "true or false",
                    Value::as_bool,
                )?;
                Ok(Type::List(Box::new(ListType {
                    element_id: self.nested_id(&inner)?,
                    element_required: !nulls,
                    element: self.ty(element, &inner, depth + 1)?,
                })))
            }
            "map" => {
                let (key_at, value_at) = (at.inside("key"), at.inside("value"));
                let key = required(object, path, "keyType", "a type", Some)?;
                let value = required(object, path, "valueType", "a type", Some)?;
                let nulls = required(
                    object,
                    path,
                    "valueContainsNull",
                    "true or false",
                    Value::as_bool,
                )?;
                Ok(Type::Map(Box::new(MapType {
                    key_id: self.nested_id(&key_at)?,
                    key: self.ty(key, &key_at, depth + 1)?,
                    value_id: self.nested_id(&value_at)?,
                    value_required: !nulls,
                    value: self.ty(value, &value_at, depth + 1)?,
                })))
            }
            other => Err(SchemaError::at(
                path,
                Problem::UnknownDeltaType(shorten(other)),
            )),
        }
    }

    fn nested_id(&mut self, at: &Position<'_>) -> Result<i32, SchemaError> {
        match at.metadata.get(&join(OWN_ID, &at.inner)) {
            None => {
                self.nested_unmapped = true;
                Ok(0)
            }
            Some(value) => id_in(value).ok_or_else(|| {
                let problem = Problem::WrongJson {
                    key: OWN_ID,
                    expected: "an id",
                    found: kind_of(value),
                };
                SchemaError::at(&join(at.field, &at.inner), problem)
            }),
        }
    }

    fn identifiers(&mut self, schema: &TableSchema) -> Vec<i32> {
        self.identifiers.sort_unstable();
        let id = |(_, name): &(i64, String)| schema.field(name).map(|field| field.id);
        self.identifiers.iter().filter_map(id).collect()
    }

    /// Gives ids to what has none: everything, what other engines added, or the insides of lists
    /// and maps.
    fn number(&mut self, schema: &mut TableSchema) {
        match (self.mapped, self.unmapped) {
            // Column mapping is for all fields of a table or for none: here it is not on, and ids are
            // what they are to a table without it.
            (true, true) => PathIds::of(schema).number(&mut schema.fields, ""),
            (false, _) if self.numbered => PathIds::of(schema).number(&mut schema.fields, ""),
            (false, _) => assign_fresh_ids(schema),
            (true, false) if self.nested_unmapped => {
                let mut last = schema.last_column_id();
                schema
                    .fields
                    .iter_mut()
                    .for_each(|field| fill_ids(&mut field.ty, &mut last));
            }
            (true, false) => {}
        }
    }
}

/// Ids that follow from the path of a field.
struct PathIds {
    taken: HashSet<i32>,
}

impl PathIds {
    fn of(schema: &TableSchema) -> Self {
        fn collect(ty: &Type, taken: &mut HashSet<i32>) {
            for (_, id, child) in ty.children() {
                taken.insert(id);
                collect(child, taken);
            }
        }
        let mut taken = HashSet::new();
        for field in &schema.fields {
            taken.insert(field.id);
            collect(&field.ty, &mut taken);
        }
        Self { taken }
    }

    fn number(&mut self, fields: &mut [Field], parent: &str) {
        for field in fields {
            let path = join(parent, &field.name);
            self.fill(&mut field.id, &path);
            self.inside(&mut field.ty, &path);
        }
    }

    fn inside(&mut self, ty: &mut Type, path: &str) {
        match ty {
            Type::Primitive(_) => {}
            Type::Struct(fields) => self.number(fields, path),
            Type::List(list) => {
                let path = join(path, "element");
                self.fill(&mut list.element_id, &path);
                self.inside(&mut list.element, &path);
            }
            Type::Map(map) => {
                let (key, value) = (join(path, "key"), join(path, "value"));
                self.fill(&mut map.key_id, &key);
                self.fill(&mut map.value_id, &value);
                self.inside(&mut map.key, &key);
                self.inside(&mut map.value, &value);
            }
        }
    }

    fn fill(&mut self, id: &mut i32, path: &str) {
        if *id != 0 {
            return;
        }
        // FNV-1a, 32 bits: part of the format, since other processes must get the same.
        let hash = path.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let span = PATH_IDS_FROM.unsigned_abs();
        let mut offset = hash % span;
        while !self.taken.insert(PATH_IDS_FROM + offset as i32) {
            offset = (offset + 1) % span;
        }
        *id = PATH_IDS_FROM + offset as i32;
    }
}

fn fill_ids(ty: &mut Type, last: &mut i32) {
    let mut fill = |id: &mut i32| {
        if *id == 0 {
            *last = last.saturating_add(1);
            *id = *last;
        }
    };
    match ty {
        Type::Primitive(_) => {}
        Type::Struct(fields) => fields
            .iter_mut()
            .for_each(|field| fill_ids(&mut field.ty, last)),
        Type::List(list) => {
            fill(&mut list.element_id);
            fill_ids(&mut list.element, last);
        }
        Type::Map(map) => {
            fill(&mut map.key_id);
            fill(&mut map.value_id);
            fill_ids(&mut map.key, last);
            fill_ids(&mut map.value, last);
        }
    }
}

/// A place within the type of one field with metadata.
struct Position<'a> {
    metadata: &'a Map<String, Value>,
    field: &'a str,
    inner: String,
}

impl Position<'_> {
    fn inside(&self, segment: &str) -> Self {
        Self {
            inner: join(&self.inner, segment),
            ..*self
        }
    }

    fn primitive(&self, text: &str, path: &str) -> Result<Primitive, SchemaError> {
        let Some(stored) = parse_stored(text) else {
            return Err(SchemaError::at(
                path,
                Problem::UnknownDeltaType(shorten(text)),
            ));
        };
        let Some(declared) = self.metadata.get(&join(DECLARED, &self.inner)) else {
            return Ok(stored);
        };
        let declared_text = declared.as_str().unwrap_or_default();
        match declared_text.parse::<Primitive>() {
            Ok(declared) if stored_type(declared).0 == text => Ok(declared),
            _ => {
                let declared = shorten(declared_text);
                let problem = Problem::DeclaredType {
                    declared,
                    stored: shorten(text),
                };
                Err(SchemaError::at(path, problem))
            }
        }
    }
}
