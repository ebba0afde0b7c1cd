//! Ids for what has none, wherever a schema came from.

use std::collections::HashSet;

use crate::types::{Field, TableSchema, Type, join};

/// Ids that follow from paths lie from here on, far above those that are counted.
const PATH_IDS_FROM: i32 = 1 << 30;

/// Numbers every position from 1, as Iceberg does: all fields of a struct, then what they contain.
pub(crate) fn assign_fresh_ids(schema: &mut TableSchema) {
    let mut last = 0;
    each_id(&mut schema.fields, &mut |id| *id = next(&mut last));
}

/// Numbers what has no id on from the last one that is in use.
pub(crate) fn fill_ids(schema: &mut TableSchema) {
    let mut last = schema.last_column_id();
    each_id(&mut schema.fields, &mut |id| {
        if *id == 0 {
            *id = next(&mut last);
        }
    });
}

fn next(last: &mut i32) -> i32 {
    *last = last.saturating_add(1);
    *last
}

fn each_id(fields: &mut [Field], visit: &mut impl FnMut(&mut i32)) {
    for field in fields.iter_mut() {
        visit(&mut field.id);
    }
    for field in fields {
        each_id_inside(&mut field.ty, visit);
    }
}

fn each_id_inside(ty: &mut Type, visit: &mut impl FnMut(&mut i32)) {
    match ty {
        Type::Primitive(_) => {}
        Type::Struct(fields) => each_id(fields, visit),
        Type::List(list) => {
            visit(&mut list.element_id);
            each_id_inside(&mut list.element, visit);
        }
        Type::Map(map) => {
            visit(&mut map.key_id);
            visit(&mut map.value_id);
            each_id_inside(&mut map.key, visit);
            each_id_inside(&mut map.value, visit);
        }
    }
}

/// Ids that follow from the path of a field.
pub(crate) struct PathIds {
    taken: HashSet<i32>,
}

impl PathIds {
    pub(crate) fn of(schema: &TableSchema) -> Self {
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

    pub(crate) fn number(&mut self, fields: &mut [Field], parent: &str) {
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
