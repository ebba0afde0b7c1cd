//! The bytes of one page to the page, decompressed.

use std::cell::RefCell;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::page::{Page, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use zstd::bulk::Decompressor;

use crate::lookup::header::{Header, Kind};

pub(super) fn page(header: &Header, buf: Bytes) -> Result<Page> {
    if buf.len() != header.plain_bytes {
        return Err(damaged("a page has another length than it should"));
    }
    Ok(match header.kind {
        Kind::Data {
            values,
            encoding,
            definition,
            repetition,
        } => Page::DataPage {
            buf,
            num_values: values,
            encoding,
            def_level_encoding: definition,
            rep_level_encoding: repetition,
            statistics: None,
        },
        Kind::DataV2 {
            values,
            nulls,
            rows,
            encoding,
            definition_bytes,
            repetition_bytes,
            is_compressed,
        } => Page::DataPageV2 {
            buf,
            num_values: values,
            encoding,
            num_nulls: nulls,
            num_rows: rows,
            def_levels_byte_len: definition_bytes,
            rep_levels_byte_len: repetition_bytes,
            is_compressed,
            statistics: None,
        },
        Kind::Dictionary {
            values,
            encoding,
            is_sorted,
        } => Page::DictionaryPage {
            buf,
            num_values: values,
            encoding,
            is_sorted,
        },
    })
}

pub(super) fn decompressed(header: &Header, body: &Bytes) -> Result<Bytes> {
    thread_local! {
        // Making one costs more than most pages; it takes some 100 KiB.
        static ZSTD: RefCell<Decompressor<'static>> = RefCell::new(Decompressor::default());
    }
    // The levels of a page of version 2 are never compressed.
    let levels = match header.kind {
        Kind::DataV2 {
            is_compressed: false,
            ..
        } => return Ok(body.clone()),
        Kind::DataV2 {
            definition_bytes,
            repetition_bytes,
            ..
        } => definition_bytes as usize + repetition_bytes as usize,
        _ => 0,
    };
    if levels > body.len() || levels > header.plain_bytes {
        return Err(damaged("the levels of a page are cut short"));
    }
    let mut plain = Vec::with_capacity(header.plain_bytes);
    plain.extend_from_slice(&body[..levels]);
    // A page without values may have no frame.
    if header.plain_bytes > levels {
        let mut rest = Cursor::new(&mut plain);
        rest.set_position(levels as u64);
        ZSTD.with_borrow_mut(|zstd| zstd.decompress_to_buffer(&body[levels..], &mut rest))?;
    }
    Ok(Bytes::from(plain))
}

/// Any other compression: files of other writers.
pub(super) fn by_parquet(chunk: &ColumnChunkMetaData, whole: &Bytes) -> Result<Page> {
    // A chunk of just this page.
    let alone = chunk
        .clone()
        .into_builder()
        .set_dictionary_page_offset(None)
        .set_index_page_offset(None)
        .set_data_page_offset(0)
        .set_total_compressed_size(i64::try_from(whole.len())?)
        .build()?;
    let mut reader = SerializedPageReader::new(Arc::new(whole.clone()), &alone, 0, None)?;
    let page = reader.get_next_page()?;
    page.ok_or_else(|| damaged("a page is missing"))
}

pub(super) fn damaged(reason: &str) -> ParquetError {
    ParquetError::General(reason.to_owned())
}
