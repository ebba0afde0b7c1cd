//! What makes a schema valid: names, ids, types, sizes, the primary key.

use std::collections::HashMap;

use tidelake_core::limits::{FIELDS_MAX, SCHEMA_DEPTH_MAX};

use crate::error::{Problem, SchemaError};
use crate::types::{
    COLUMN_NAME_BYTES_MAX, DECIMAL_PRECISION_MAX, Field, HIDDEN_PREFIX, Primitive, TableSchema,
    Type, join,
};

impl TableSchema {
    /// Checks names, ids, types, sizes and the primary key; the first problem is returned.
    pub fn validate(&self) -> Result<(), SchemaError> {
        let mut check = Check::default();
        check.fields(&self.fields, "", 1)?;
        if check.count > FIELDS_MAX {
            let problem = Problem::TooManyFields { found: check.count };
            return Err(SchemaError::Table(problem));
        }
        self.validate_identifiers()
    }

    fn validate_identifiers(&self) -> Result<(), SchemaError> {
        for (index, id) in self.identifier_field_ids.iter().enumerate() {
            if self.identifier_field_ids[..index].contains(id) {
                return Err(SchemaError::Table(Problem::DuplicateIdentifier(*id)));
            }
            let Some(field) = self.fields.iter().find(|field| field.id == *id) else {
                return Err(SchemaError::Table(Problem::UnknownIdentifier(*id)));
            };
            if !field.required {
                return Err(SchemaError::at(&field.name, Problem::OptionalIdentifier));
            }
            let Type::Primitive(primitive) = &field.ty else {
                return Err(SchemaError::at(
                    &field.name,
                    Problem::IdentifierType(field.ty.name()),
                ));
            };
            // A NaN is no key, and two spellings of zero are one value.
            if matches!(primitive, Primitive::Float | Primitive::Double) {
                let problem = Problem::IdentifierType(primitive.to_string());
                return Err(SchemaError::at(&field.name, problem));
            }
        }
        Ok(())
    }
}

/// What validation remembers: the ids seen so far, and how many fields there were.
#[derive(Default)]
struct Check {
    ids: HashMap<i32, String>,
    count: usize,
}

impl Check {
    fn fields(&mut self, fields: &[Field], parent: &str, depth: usize) -> Result<(), SchemaError> {
        if fields.is_empty() {
            return Err(SchemaError::at(parent, Problem::NoFields));
        }
        let mut names: HashMap<String, &str> = HashMap::with_capacity(fields.len());
        for field in fields {
            if field.name.is_empty() {
                return Err(SchemaError::at(parent, Problem::EmptyName));
            }
            let path = join(parent, &field.name);
            check_name(&field.name, depth).map_err(|problem| SchemaError::at(&path, problem))?;
            if let Some(other) = names.insert(field.name.to_lowercase(), &field.name) {
                let problem = Problem::DuplicateName {
                    other: other.to_owned(),
                };
                return Err(SchemaError::at(&path, problem));
            }
            self.position(field.id, &field.ty, path, depth)?;
        }
        Ok(())
    }

    fn position(
        &mut self,
        id: i32,
        ty: &Type,
        path: String,
        depth: usize,
    ) -> Result<(), SchemaError> {
        if depth > SCHEMA_DEPTH_MAX {
            return Err(SchemaError::at(&path, Problem::TooDeep));
        }
        if id < 1 {
            return Err(SchemaError::at(&path, Problem::InvalidId { id: id.into() }));
        }
        if let Some(other) = self.ids.get(&id) {
            let problem = Problem::DuplicateId {
                id,
                other: other.clone(),
            };
            return Err(SchemaError::at(&path, problem));
        }
        self.ids.insert(id, path.clone());
        self.count += 1;
        match ty {
            Type::Primitive(primitive) => {
                check_primitive(*primitive).map_err(|problem| SchemaError::at(&path, problem))
            }
            Type::Struct(fields) => self.fields(fields, &path, depth + 1),
            Type::List(_) | Type::Map(_) => {
                for (segment, id, child) in ty.children() {
                    self.position(id, child, join(&path, segment), depth + 1)?;
                }
                Ok(())
            }
        }
    }
}

fn check_name(name: &str, depth: usize) -> Result<(), Problem> {
    if name.len() > COLUMN_NAME_BYTES_MAX {
        return Err(Problem::NameTooLong);
    }
    if name.chars().any(char::is_control) {
        return Err(Problem::ControlInName);
    }
    // Hidden columns live at the top level only.
    if depth == 1 && name.starts_with(HIDDEN_PREFIX) {
        return Err(Problem::ReservedName);
    }
    Ok(())
}

fn check_primitive(primitive: Primitive) -> Result<(), Problem> {
    match primitive {
        Primitive::Decimal { precision, scale } => {
            let scale_fits = u8::try_from(scale).is_ok_and(|scale| scale <= precision);
            if (1..=DECIMAL_PRECISION_MAX).contains(&precision) && scale_fits {
                Ok(())
            } else {
                Err(Problem::Decimal { precision, scale })
            }
        }
        Primitive::Fixed(length) if length == 0 || i32::try_from(length).is_err() => {
            Err(Problem::FixedLength(length))
        }
        _ => Ok(()),
    }
}
