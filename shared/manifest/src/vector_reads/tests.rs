//! Many vectors, few requests; and whose vector it was that could not be read.

use std::error::Error;

use bytes::Bytes;
use tidelake_core::ErrorKind;
use tidelake_storage::Operation;
use uuid::Uuid;

use super::*;
use crate::action::{Add, VectorDescriptor};
use crate::testing::{Fixture, add};

fn file(number: usize, vector: Option<VectorDescriptor>) -> Arc<DataFile> {
    let add = Add {
        deletion_vector: vector,
        ..add(&format!("{number}.parquet"), 1000)
    };
    Arc::new(DataFile::of(add).unwrap())
}

fn rows(number: u64) -> DeletedRows {
    (0..=number).map(|row| row * 3).collect()
}

async fn stored(fixture: &Fixture, vectors: vector::VectorFile) -> String {
    let mut files = vectors.finish();
    let (name, bytes) = files.pop().unwrap();
    assert!(files.is_empty());
    fixture
        .table
        .store()
        .put(&name, bytes.into())
        .await
        .unwrap();
    name
}

#[tokio::test]
async fn vectors_of_one_object_are_one_request() {
    let fixture = Fixture::new();
    let mut object = vector::VectorFile::new(Uuid::from_u128(5));
    let mut files: Vec<_> = (0..80)
        .map(|number| file(number, Some(object.push(&rows(number as u64)))))
        .collect();
    stored(&fixture, object).await;
    // Their order is the caller's; the bytes have another one.
    files.reverse();
    files.push(file(80, None));
    files.push(file(81, Some(vector::inline(&rows(81)))));
    let before = fixture.table.store().requests();
    let found = fixture.table.deleted_rows_of(&files).await.unwrap();
    let asked = fixture.table.store().requests().since(&before);
    assert_eq!((asked.of(Operation::Get), asked.total()), (1, 1));
    let mut expected: Vec<_> = (0..80).rev().map(rows).collect();
    expected.extend([DeletedRows::new(), rows(81)]);
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_lies_far_between_two_vectors_is_not_read() {
    let fixture = Fixture::new();
    let id = Uuid::from_u128(6);
    let mut object = vector::VectorFile::new(id);
    let first = object.push(&rows(1));
    let (name, mut bytes) = object.finish().pop().unwrap();
    let mut files = vec![file(0, Some(first.clone()))];
    for (number, gap) in [(1, GAP_BYTES_MAX), (2, GAP_BYTES_MAX + 1)] {
        bytes.resize(bytes.len() + gap as usize, 0);
        let vector = VectorDescriptor {
            offset: Some(bytes.len() as i32),
            ..first.clone()
        };
        let Place::File { range, .. } = vector::locate(&first).unwrap() else {
            panic!("inline")
        };
        bytes.extend_from_within(range.start as usize..range.end as usize);
        files.push(file(number, Some(vector)));
    }
    let put = fixture.table.store().put(&name, Bytes::from(bytes));
    put.await.unwrap();
    let before = fixture.table.store().requests();
    let found = fixture.table.deleted_rows_of(&files).await.unwrap();
    let asked = fixture.table.store().requests().since(&before);
    assert_eq!(asked.of(Operation::Get), 2);
    assert_eq!(found, vec![rows(1); 3]);
}

#[test]
fn runs_are_bounded_and_cover_all_that_is_wanted() {
    let size = RUN_BYTES_MAX / 4;
    let mut parts: Vec<_> = (0..10u64)
        .map(|part| (part as usize, part * size..(part + 1) * size))
        .collect();
    // One that is larger than a run may be, and one that two files have in common.
    parts.push((10, 10 * size..10 * size + 2 * RUN_BYTES_MAX));
    parts.push((11, 10 * size..10 * size + 2 * RUN_BYTES_MAX));
    parts.rotate_left(5);
    let runs = runs("object".into(), parts.clone());
    let counts: Vec<_> = runs.iter().map(|run| run.parts.len()).collect();
    assert_eq!(counts, [4, 4, 2, 2]);
    let mut covered = Vec::new();
    for run in &runs {
        for (place, range) in &run.parts {
            assert!(run.range.start <= range.start && range.end <= run.range.end);
            covered.push((*place, range.clone()));
        }
    }
    covered.sort_by_key(|(place, _)| *place);
    parts.sort_by_key(|(place, _)| *place);
    assert_eq!(covered, parts);
}

#[tokio::test]
async fn a_vector_that_cannot_be_read_is_named_with_its_file() {
    let fixture = Fixture::new();
    let mut object = vector::VectorFile::new(Uuid::from_u128(7));
    let sound = object.push(&rows(4));
    let wrong = VectorDescriptor {
        cardinality: 3,
        ..object.push(&rows(5))
    };
    let files = [file(0, Some(sound)), file(1, Some(wrong))];
    let missing = fixture.table.deleted_rows_of(&files[..1]).await;
    let missing = missing.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let name = stored(&fixture, object).await;
    assert!(missing.to_string().contains("0.parquet"), "{missing}");
    assert!(missing.to_string().contains(&name), "{missing}");

    let damaged = fixture.table.deleted_rows_of(&files).await.unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Corrupt);
    assert!(damaged.to_string().contains("1.parquet"), "{damaged}");
    assert!(damaged.to_string().contains(&name), "{damaged}");
    assert!(damaged.source().is_some());

    let text = VectorDescriptor {
        path_or_inline_dv: "?".into(),
        ..vector::inline(&rows(1))
    };
    let error = fixture.table.deleted_rows_of(&[file(2, Some(text))]).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("2.parquet"), "{error}");
}

#[tokio::test]
async fn reading_many_may_run_on_any_thread() {
    fn sendable(_: impl Send) {}
    let fixture = Fixture::new();
    sendable(fixture.table.deleted_rows_of(&[]));
}
