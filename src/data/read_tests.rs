use std::io::Write;

use proptest::prelude::*;

use super::*;

fn read_text(text: &[u8]) -> Result<Interactions> {
    read_bytes("toy", text, Path::new("toy.txt"))
}

/// `line:column: problem` of the error that reading `text` gives.
fn complaint(text: &[u8]) -> String {
    let error = read_text(text).expect_err("this text must be refused");
    assert!(error.help().is_some_and(|help| !help.is_empty()));
    error.to_string().strip_prefix("toy.txt:").expect("an error begins with the file").to_owned()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn spaces_tabs_blank_lines_and_carriage_returns_are_accepted() {
    let data = read_text(b"a 3 1 2\r\n\n  b\t2\t3\t3  \n   \nc 1 1 1").unwrap();
    assert_eq!(data.users, ["a", "b", "c"]);
    assert_eq!(data.sequence(1), [1, 2, 2]);
}

#[test]
fn gzip_and_plain_text_read_the_same() {
    let text = b"1 5 6 7\n2 7 6 5 9\n";
    assert_eq!(read_text(&gzip(text)).unwrap(), read_text(text).unwrap());
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_first_user() {
    assert_eq!(read_text("\u{feff}1 5 6 7".as_bytes()).unwrap().users, ["1"]);
}

#[test]
fn each_mistake_names_its_line_and_column() {
    assert_eq!(complaint(b""), "1:1: the file holds no interactions");
    assert_eq!(complaint(b"\n \n"), "1:1: the file holds no interactions");
    assert_eq!(complaint(b"1 2 3 4\n2 3 x7 5\n"), "2:5: item `x7` is not a number");
    assert_eq!(complaint(b"1 2 3 -4\n"), "1:7: item `-4` is not a number");
    assert_eq!(complaint(b"1 2 3 4\n\n 2 7 8\n"), "3:2: user `2` has 2 items, fewer than 3");
    assert_eq!(complaint(b"1,2,3,4\n"), "1:1: user `1,2,3,4` has 0 items, fewer than 3");
    assert_eq!(complaint(b"1 2 3 0\n"), "1:7: item id 0 is outside 1 to 2147483647");
    assert_eq!(complaint(b"1 2 2147483648 3"), "1:5: item id 2147483648 is outside 1 to 2147483647");
    assert_eq!(complaint(b"1 2 3 4\n2 2 3 4\n1 3 4 5"), "3:1: user `1` was already on line 1");
    assert_eq!(complaint(b"1 2 3 4\n2 \xff 3 4"), "2:3: not valid UTF-8");
}

#[test]
fn a_long_word_is_shortened_in_the_message() {
    assert!(complaint(format!("1 {}", "é".repeat(10_000)).as_bytes()).len() < 150);
}

#[test]
fn a_truncated_gzip_file_is_refused_and_not_read_in_part() {
    let whole = gzip(b"1 2 3 4\n2 3 4 5\n");
    for length in 2..whole.len() {
        assert!(complaint(&whole[..length]).contains("gzip data ends here"), "cut to {length} bytes");
    }
    let mut damaged = whole;
    damaged[14] ^= 0x55;
    complaint(&damaged);
}

#[test]
fn a_missing_file_is_an_input_output_error() {
    let error = read(Path::new("no/such/file.txt")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn data_sets_are_named_after_their_files() {
    for file in ["x/amazon_beauty.txt.gz", "amazon_beauty.txt", "amazon_beauty"] {
        assert_eq!(dataset_name(Path::new(file)), "amazon_beauty");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_text(&bytes);
        let _ = read_text(&[&GZIP_MAGIC, bytes.as_slice()].concat());
    }
}
