//! An output, from its first row to what is stored.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::schema::types::ColumnPath;
use tidelake_manifest::Snapshot;

use crate::index::{KeySpec, Keys, encode_sidecar};
use crate::load::sidecar_bytes_max;
use crate::read::{KeyColumns, RowKeys};
use crate::write::FileWriter;
use crate::{EncodedFile, FileLayout, FileSettings, TableError};

/// How the files of a version look.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) layout: FileLayout,
    settings: FileSettings,
    /// Columns without bounds: some row of them may be NaN.
    unbounded: Vec<ColumnPath>,
    key: Option<(KeySpec, Arc<KeyColumns>)>,
}

/// A file that is being written.
pub(super) struct Output {
    writer: FileWriter,
    /// Of all its rows, in their order; none in a table without a key.
    keys: Option<Keys>,
    key: Option<(KeySpec, Arc<KeyColumns>)>,
}

/// A file, ready to be stored.
pub(super) struct Encoded {
    pub(super) file: EncodedFile,
    pub(super) sidecar: Option<Bytes>,
}

impl Shape {
    pub(super) fn of(base: &Snapshot, settings: FileSettings) -> Result<Self, TableError> {
        let schema = base.schema();
        let key = match KeySpec::of(schema) {
            None => None,
            Some(spec) => {
                let columns = KeyColumns::new(schema, &base.metadata().schema_string)?;
                Some((spec, Arc::new(columns)))
            }
        };
        let settings = match key {
            Some(_) => settings.for_lookups(),
            None => settings,
        };
        Ok(Self {
            layout: FileLayout::new(schema, base.metadata())?,
            settings,
            unbounded: Vec::new(),
            key,
        })
    }

    #[must_use]
    pub(super) fn with_unbounded(mut self, columns: Vec<ColumnPath>) -> Self {
        for column in columns {
            if !self.unbounded.contains(&column) {
                self.unbounded.push(column);
            }
        }
        self
    }

    pub(super) fn begin(&self) -> Output {
        let (layout, unbounded) = (&self.layout, self.unbounded.clone());
        Output {
            writer: FileWriter::new(layout, self.settings, unbounded),
            keys: self.key.as_ref().map(|(spec, _)| Keys::new(spec.kind())),
            key: self.key.clone(),
        }
    }
}

impl Output {
    /// With more rows.
    pub(super) fn with(mut self, batch: &RecordBatch) -> Result<Self, TableError> {
        if let (Some(keys), Some((spec, columns))) = (&mut self.keys, &self.key) {
            keys.append(&columns.of_rows(batch, spec)?);
        }
        self.writer.write(batch)?;
        Ok(self)
    }

    pub(super) fn rows(&self) -> u64 {
        self.writer.rows()
    }

    /// What it takes in memory: encoded, and its keys twice, as they came and in order.
    pub(super) fn bytes(&self) -> u64 {
        let keys = self.keys.as_ref().map_or(0, |keys| 2 * keys.bytes() as u64);
        self.writer.bytes() + keys
    }

    /// None where it has no rows.
    pub(super) fn finish(self) -> Result<Option<Encoded>, TableError> {
        let Some(file) = self.writer.finish()? else {
            return Ok(None);
        };
        let sidecar = self.keys.map(|keys| {
            let count = keys.len();
            let entries = RowKeys::of_one_bucket(keys).entries();
            Some(encode_sidecar(&entries)).filter(|bytes| bytes.len() <= sidecar_bytes_max(count))
        });
        Ok(Some(Encoded {
            file,
            sidecar: sidecar.flatten(),
        }))
    }
}
