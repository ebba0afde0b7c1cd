use proptest::prelude::*;

use super::*;

/// type 0, 300 bytes of 200, crc, data page of 7 PLAIN values with statistics.
const PAGE: &[u8] = &[
    0x15, 0, 0x15, 0xD8, 0x04, 0x15, 0x90, 0x03, 0x15, 0x0B, 0x1C, 0x15, 14, 0x15, 0, 0x15, 6,
    0x15, 6, 0x1C, 0x18, 2, b'a', b'b', 0x26, 2, 0, 0, 0, 0xFF,
];

#[test]
fn a_data_page_is_understood_and_its_statistics_are_passed_over() {
    let (header, length) = parse(PAGE).unwrap();
    assert_eq!(length, PAGE.len() - 1);
    assert_eq!((header.plain_bytes, header.stored_bytes), (300, 200));
    let expected = Kind::Data {
        values: 7,
        encoding: Encoding::PLAIN,
        definition: Encoding::RLE,
        repetition: Encoding::RLE,
    };
    assert_eq!(header.kind, expected);
}

#[test]
fn a_header_that_is_cut_short_is_an_error() {
    for length in 0..PAGE.len() - 1 {
        assert!(parse(&PAGE[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn sizes_below_zero_and_beyond_32_bits_are_errors() {
    let mut page = PAGE.to_vec();
    page[3] = 0xD9;
    assert!(parse(&page).is_err());
    let endless = [&[0x15_u8, 0, 0x15][..], &[0xFF; 20]].concat();
    assert!(parse(&endless).is_err());
}

#[test]
fn levels_are_counted_in_runs_of_both_kinds() {
    // Six equal ones, two groups of eight with two bits each.
    let runs = [12, 1, 5, 0xAA, 0xAA, 0xAA, 0xAA];
    assert_eq!(levels(&runs, 2, 100), 22);
    assert_eq!(levels(&runs[..5], 2, 100), 6 + 8);
    assert_eq!(levels(&runs[..1], 2, 100), 0);
    assert_eq!(levels(&[0; 50], 2, 100), 0);
}

#[test]
fn nesting_has_an_end() {
    assert!(parse(&[0x9C; 4096]).is_err());
    assert!(parse(&[0x99; 4096]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }
}
