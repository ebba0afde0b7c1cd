//! Few rows of flat columns, beside parquet's own readers.

use super::*;
use crate::lookup::direct;
use crate::lookup::pages::Pages;

/// Types whose values are read where they stand.
fn flat() -> Vec<DataType> {
    let is_flat = |of: &DataType| {
        !of.is_nested() && !matches!(of, DataType::LargeUtf8 | DataType::Dictionary(..))
    };
    types().into_iter().filter(is_flat).collect()
}

/// The rows without parquet's readers; none where these must read them.
fn read_directly(file: &Bytes, columns: &[usize], rows: &[u32]) -> Option<RecordBatch> {
    let read = plan(&footer(file), columns, rows).unwrap().unwrap();
    let bytes = fetched(file, &read);
    let span = |spot: &Spot| bytes[spot.range].slice(spot.within.clone());
    let spans: Vec<Bytes> = read.places.iter().map(span).collect();
    let pages = Pages::new(read.pages, read.offsets, &spans, None).unwrap();
    let flat = read.file.flat.as_ref()?;
    flat.rows(&read.file, &read.leaves, &pages, &read.spots)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn few_rows_are_those_of_parquets_own_reader(
        columns in prop::collection::vec((prop::sample::select(flat()), any::<bool>()), 1..6),
        seed in any::<u64>(),
        distinct in prop::sample::select(&[1_u64, 3, 40, 100_000][..]),
        dictionary in prop::option::of(prop::sample::select(&[100_usize, 1 << 20][..])),
        page_rows in prop::sample::select(&[7_usize, 64, 1000][..]),
        (version_2, compact) in any::<(bool, bool)>(),
        compression in compression(),
        rows in prop::collection::btree_set(0..300_u32, 1..=direct::ROWS_MAX),
    ) {
        let written = Written {
            types: columns,
            seed,
            batches: 3,
            distinct,
            group_rows: 170,
            page_rows,
            page_bytes: 1 << 20,
            dictionary,
            version_2,
            compression,
            compact,
        };
        let file = written.bytes();
        let rows: Vec<u32> = rows.into_iter().collect();
        let columns: Vec<usize> = (0..written.types.len()).collect();
        let found = read_directly(&file, &columns, &rows);
        let others = written.types.iter().any(|(of, _)| compact && *of == DataType::Binary);
        prop_assert!(found.is_some() || version_2 || others);
        if let Some(found) = found {
            assert_same(&found, &expected(&file, &columns, &rows));
        }
    }
}

#[test]
fn nested_columns_and_many_rows_are_left_to_parquets_readers() {
    let written = Written {
        types: vec![(types().pop().unwrap(), true)],
        ..simple(Compression::UNCOMPRESSED)
    };
    assert!(read_directly(&written.bytes(), &[0], &[1]).is_none());
    let file = simple(Compression::UNCOMPRESSED).bytes();
    let many: Vec<u32> = (0..=direct::ROWS_MAX as u32).collect();
    let read = plan(&footer(&file), &[0], &many).unwrap().unwrap();
    assert!(read.spots.is_empty());
}
