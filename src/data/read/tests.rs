use std::io::Write;

use proptest::prelude::*;

use super::*;

fn read_text(text: &[u8]) -> Result<Interactions> {
    read_bytes("toy", text, Path::new("toy.txt"), &ReadOptions::default())
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
    assert_eq!(complaint(b"1 2 3 4\n\n 2\n"), "3:2: user `2` has no items");
    assert_eq!(complaint(b"1,2,3,4\n"), "1:1: user `1,2,3,4` has no items");
    assert_eq!(complaint(b"1 2 3 0\n"), "1:7: item id 0 is outside 1 to 2147483647");
    assert_eq!(complaint(b"1 2 2147483648 3"), "1:5: item id 2147483648 is outside 1 to 2147483647");
    assert_eq!(complaint(b"1 2 3 4\n2 2 3 4\n1 3 4 5"), "3:1: user `1` was already on line 1");
    assert_eq!(complaint(b"1 2 3 4\n2 \xff 3 4"), "2:3: not valid UTF-8");
    assert_eq!(complaint(b"1 2\n1 3 4\n"), "2:5: this line is not a pair");
    assert_eq!(complaint(b"1 2\n\n7\n"), "3:1: this line is not a pair");
}

#[test]
fn users_with_too_few_events_for_the_split_are_refused_by_name() {
    let error = read_text(b"1 2 3 4\n2 7 8\n").unwrap_err();
    assert!(error.to_string().starts_with("1 of 2 users have fewer than 3 events, the first is `2`"), "{error}");
}

#[test]
fn pairs_are_events_in_the_order_of_the_file() {
    let data = read_text(b"b 3\na 1\nb\t1\na 2\nb 2\na 1\n").unwrap();
    assert_eq!(
        (&data.users[..], &data.items[..]),
        (&["b", "a"].map(String::from)[..], &["1", "2", "3"].map(String::from)[..])
    );
    assert_eq!((data.sequence(0), data.sequence(1)), (&[2, 0, 1][..], &[0, 1, 0][..]));
}

/// Reads a table of the given format.
fn table(file: &str, text: &[u8], options: &ReadOptions) -> Result<EventLog> {
    read_text_of(text, Path::new(file), options)
}

fn read_text_of(text: &[u8], origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    super::read_text(Box::new(Cursor::new(text)), origin, options)
}

fn names(names: &crate::data::log::Names) -> Vec<&str> {
    names.iter().map(AsRef::as_ref).collect()
}

#[test]
fn tables_are_read_by_their_columns_with_or_without_header() {
    let plain = ReadOptions::default();
    let csv = b"time,item,user\n2014-01-02,\"cup, red\",ann\n2014-01-01,pot,\"bob\"\n";
    let log = table("shop.csv", csv, &plain).unwrap();
    assert_eq!((names(&log.users), names(&log.items)), (vec!["ann", "bob"], vec!["cup, red", "pot"]));
    assert_eq!(log.time[0] - log.time[1], 86_400.0);

    let inter = b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t\"x\t5\t3\n";
    let log = table("ml.inter", &gzip(inter), &plain).unwrap();
    assert_eq!((names(&log.items), &log.time[..]), (vec!["\"x"], &[3.0][..]), "a quote is a character there");

    let columns = |user: &str, item: &str, time: &str| Columns {
        user: Some(user.into()),
        item: Some(item.into()),
        time: Some(time.into()),
        event: None,
        no_header: true,
    };
    let ratings = ReadOptions { separator: Some(':'), columns: columns("1", "3", "7"), ..ReadOptions::default() };
    let log = table("ratings.csv", b"1::1193::5::978300760\n1::661::3::978302109\n", &ratings).unwrap();
    assert_eq!((names(&log.items), log.time[1]), (vec!["1193", "661"], 978_302_109.0));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_table() {
    let log = table("t.csv", "\u{feff}user,item\n1,2\n".as_bytes(), &ReadOptions::default()).unwrap();
    assert_eq!((names(&log.users), names(&log.items)), (vec!["1"], vec!["2"]));
    let columns = Columns { user: Some("1".into()), item: Some("2".into()), no_header: true, ..Columns::default() };
    let options = ReadOptions { columns, ..ReadOptions::default() };
    assert_eq!(names(&table("t.csv", "\u{feff}1,2\n".as_bytes(), &options).unwrap().users), ["1"]);
}

#[test]
fn options_that_mean_nothing_for_a_file_are_refused() {
    let name = |name: &str| Some(name.to_string());
    let user = || Columns { user: name("who"), ..Columns::default() };
    let columns = |columns: Columns| ReadOptions { columns, ..ReadOptions::default() };
    let separated = || ReadOptions { separator: Some(';'), ..ReadOptions::default() };
    let schema = || ReadOptions { schema: Some("lists.toml".into()), ..ReadOptions::default() };
    for (file, options, flag) in [
        ("t.txt", columns(user()), "--user-col"),
        ("t.sequences", columns(Columns { event: name("2"), ..Columns::default() }), "--event-col"),
        ("t.pairs", separated(), "--separator"),
        ("t.jsonl", separated(), "--separator"),
        ("t.jsonl", columns(Columns { no_header: true, ..user() }), "--no-header"),
        ("t.dat", separated(), "--separator"),
        ("t.csv", schema(), "--schema"),
        ("t.parquet", separated(), "--separator"),
        ("t.csv", ReadOptions { format: Some("txt".parse().unwrap()), ..columns(user()) }, "--user-col"),
    ] {
        let error = table(file, b"1 2 3 4\n", &options).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{flag} means nothing for {file}, which is read as")),
            "{error}"
        );
        assert!(error.help().unwrap().starts_with(&format!("leave {flag} away")));
    }
}

#[test]
fn a_schema_alone_says_how_lists_are_read() {
    // Known by name: what is wrong with the options is said before the file, which is not there, is opened.
    let refused = |options: ReadOptions| read(Path::new("nowhere/kuairand.csv"), &options).unwrap_err();
    let format = ReadOptions { format: Some("csv".parse().unwrap()), ..ReadOptions::default() };
    let separator = ReadOptions { separator: Some(','), ..ReadOptions::default() };
    let columns = Columns { item: Some("video_id".into()), ..Columns::default() };
    let columns = ReadOptions { columns, ..ReadOptions::default() };
    for (options, flag) in [(format, "--format"), (separator, "--separator"), (columns, "--item-col")] {
        let error = refused(options).to_string();
        assert_eq!(error, format!("{flag} means nothing for kuairand, a log of lists: its schema says how it is read"));
    }
    let split = |rule: &str| ReadOptions { split: Some(rule.parse().unwrap()), ..ReadOptions::default() };
    assert!(refused(split("ratio:0.8,0.1,0.1")).to_string().contains("not by --split"));
    let as_a_run_stores_it = refused(split("ratio:0.63,0.07,0.3"));
    assert!(matches!(as_a_run_stores_it, Error::Io { .. }), "{as_a_run_stores_it}");
}

#[test]
fn names_in_json_lines_are_names() {
    let complaint = |text: &str| table("t.jsonl", text.as_bytes(), &ReadOptions::default()).unwrap_err().to_string();
    let line = |user: &str, item: &str| format!("{{\"user\": {user}, \"item\": {item}}}\n");
    let good = line("1", "\"a cup\"");
    for item in [r#""a\nb""#, r#""a\rb""#, r#""a\tb""#] {
        let text = good.clone() + &line("1", item);
        assert_eq!(complaint(&text), "t.jsonl:2:1: the item holds a line break or a tab");
    }
    assert_eq!(complaint(&line(r#""a\nb""#, "1")), "t.jsonl:1:1: the user holds a line break or a tab");
    assert_eq!(complaint(&line("\" \"", "1")), "t.jsonl:1:1: the user is empty");
    assert_eq!(complaint("{\"user\":1,\"item\":2,\"time\":\"soon\"}"), "t.jsonl:1:1: `soon` is no time");
    assert_eq!(
        complaint("{\"user\":1,\"item\":2,\"event\":\"a\\nb\"}"),
        "t.jsonl:1:1: the event holds a line break or a tab"
    );
}

#[test]
fn a_key_with_a_dot_is_no_list() {
    let options = |user: &str, item: &str| {
        let columns = Columns { user: Some(user.into()), item: Some(item.into()), ..Columns::default() };
        ReadOptions { columns, ..ReadOptions::default() }
    };
    let flat = b"{\"user.id\": 7, \"item.id\": 8}\n";
    let log = table("t.jsonl", flat, &options("user.id", "item.id")).unwrap();
    assert_eq!((names(&log.users), names(&log.items)), (vec!["7"], vec!["8"]));
    let nested = b"{\"user.id\": 7, \"a.b\": [{\"c.d\": 1}, {\"c.d\": 2}]}\n";
    let log = table("t.jsonl", nested, &options("user.id", "a.b.c.d")).unwrap();
    assert_eq!((names(&log.users), names(&log.items)), (vec!["7"], vec!["1", "2"]));
}

#[test]
fn first_lists_that_are_empty_hold_no_events_and_no_header() {
    let columns = Columns { item: Some("events.aid".into()), ..Columns::default() };
    let options = ReadOptions { columns, ..ReadOptions::default() };
    let read = |text: &str| table("t.jsonl", text.as_bytes(), &options);
    let (empty, full) = ("{\"user\": 1, \"events\": []}\n", "{\"user\": 2, \"events\": [{\"aid\": 5}]}\n");
    let log = read(&format!("{empty}{empty}{full}{empty}")).unwrap();
    assert_eq!((names(&log.users), names(&log.items)), (vec!["2"], vec!["5"]));
    assert!(read(empty).is_err(), "no line says what an event holds");
    // A first line that has the list in no form is a mistake, as it is further down.
    assert!(read(&format!("{{\"user\": 1, \"tags\": []}}\n{full}")).is_err());
    assert!(read(&format!("{{\"user\": 1}}\n{full}")).is_err());
    let flat = |text: &str| table("t.jsonl", text.as_bytes(), &ReadOptions::default());
    assert!(flat("{\"user\": 1, \"tags\": []}\n{\"user\": 1, \"item\": 2, \"tags\": []}\n").is_err());
    assert_eq!(flat("{\"user\": 1, \"item\": 2, \"tags\": []}\n").unwrap().len(), 1);
}

#[test]
fn json_lines_are_events_or_users_with_a_list_of_events() {
    let plain = b"{\"user_id\": \"u\", \"item\": 7, \"date\": \"1970-01-02\"}\n\n{\"user_id\": \"v\", \"item\": \"7\", \"date\": 5}\n";
    let log = table("reviews.jsonl", plain, &ReadOptions::default()).unwrap();
    assert_eq!(
        (names(&log.users), names(&log.items), &log.time[..]),
        (vec!["u", "v"], vec!["7"], &[86_400.0, 5.0][..])
    );

    let sessions = b"{\"session\": 3, \"events\": [{\"aid\": 1, \"ts\": 10, \"type\": \"clicks\"}, {\"aid\": 2, \"ts\": 11, \"type\": \"orders\"}]}\n";
    let name = |name: &str| Some(name.to_string());
    let columns =
        Columns { item: name("events.aid"), time: name("events.ts"), event: name("events.type"), ..Columns::default() };
    let options = ReadOptions { columns, ..ReadOptions::default() };
    let log = table("otto.jsonl", sessions, &options).unwrap();
    assert_eq!(
        (names(&log.items), names(&log.kinds), &log.user[..]),
        (vec!["1", "2"], vec!["clicks", "orders"], &[0, 0][..])
    );
    let complaint = |text: &[u8]| table("t.jsonl", text, &options).unwrap_err().to_string();
    assert!(
        complaint(b"{\"session\": 3").contains("t.jsonl:1:13: not a JSON object"),
        "{}",
        complaint(b"{\"session\": 3")
    );
    assert_eq!(complaint(&[&sessions[..], b"{\"session\": 3}\n"].concat()), "t.jsonl:2:1: `events` is no list");
    let nameless =
        [&sessions[..], b"{\"session\": null, \"events\": [{\"aid\": 1, \"ts\": 10, \"type\": \"x\"}]}\n"].concat();
    assert_eq!(complaint(&nameless), "t.jsonl:2:1: `session` is neither text nor number");
}

#[test]
fn each_mistake_in_a_table_names_its_line_and_column() {
    let complaint = |text: &[u8]| {
        let error = table("t.csv", text, &ReadOptions::default()).expect_err("this table must be refused");
        assert!(error.help().is_some_and(|help| !help.is_empty()));
        error.to_string()
    };
    assert_eq!(complaint(b""), "t.csv:1:1: the file holds no interactions");
    assert_eq!(complaint(b"user,item\n"), "t.csv:1:1: the file holds no interactions");
    assert_eq!(complaint(b"a,b\n1,2\n"), "t.csv:1:1: no column of users among: a, b");
    assert_eq!(complaint(b"user;item\n1;2\n"), "t.csv:1:1: no column of users among: user;item");
    assert_eq!(complaint(b"user,item\n1,2\n3\n"), "t.csv:3:3: this line has 1 field, column 2 is wanted");
    assert_eq!(complaint(b"user,item\n1,2\n, 3\n"), "t.csv:3:1: the user is empty");
    assert_eq!(complaint(b"user,item\n1,\"a\nb\"\n"), "t.csv:2:3: the item holds a line break or a tab");
    assert_eq!(complaint(b"user,item,time\n1,2,3\n1,3,NaN\n"), "t.csv:3:5: `NaN` is no time");
    assert_eq!(complaint(b"user,item,time\n1,2,soon\n"), "t.csv:2:5: `soon` is no time");
    assert_eq!(complaint(b"user,item\n1,\xff\n"), "t.csv:2:3: not valid UTF-8");
    assert!(complaint(&gzip(b"user,item\n1,2\n")[..20]).contains("gzip data ends here"));
}

mod parquet_files {
    use super::*;
    use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
    use ::parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    /// A file of three columns in row groups of two rows; `None` in `items` writes a null.
    fn write(
        path: &Path,
        compression: ::parquet::basic::Compression,
        users: &[&str],
        items: &[Option<i64>],
        times: &[f64],
    ) {
        let schema = "message log { REQUIRED BYTE_ARRAY user (UTF8); OPTIONAL INT64 item; REQUIRED DOUBLE time; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        for ((users, items), times) in users.chunks(2).zip(items.chunks(2)).zip(times.chunks(2)) {
            let mut group = file.next_row_group().unwrap();
            let users: Vec<ByteArray> = users.iter().map(|user| ByteArray::from(*user)).collect();
            let levels: Vec<i16> = items.iter().map(|item| i16::from(item.is_some())).collect();
            let items: Vec<i64> = items.iter().flatten().copied().collect();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&users, None, None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&items, Some(&levels), None).unwrap();
            column.close().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<DoubleType>().write_batch(times, None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        file.close().unwrap();
    }

    #[test]
    fn columns_of_text_and_numbers_are_read_over_row_groups() {
        use ::parquet::basic::{Compression, ZstdLevel};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.parquet");
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
            write(&path, compression, &["b", "a", "b"], &[Some(9), Some(10), Some(-1)], &[3.0, 2.0, 1.0]);
            let log = read_log(&path, &ReadOptions::default()).unwrap();
            assert_eq!((names(&log.users), names(&log.items)), (vec!["b", "a"], vec!["9", "10", "-1"]));
            assert_eq!((&log.user[..], &log.time[..]), (&[0, 1, 0][..], &[3.0, 2.0, 1.0][..]));
        }
    }

    proptest! {
        #[test]
        fn no_damage_to_a_file_makes_the_reader_panic(places in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log.parquet");
            write(&path, ::parquet::basic::Compression::SNAPPY, &["b", "a", "b"], &[Some(9), Some(1), Some(1)], &[3.0, 2.0, 1.0]);
            let mut bytes = std::fs::read(&path).unwrap();
            let length = bytes.len();
            places.into_iter().for_each(|(place, byte)| bytes[place as usize % length] = byte);
            std::fs::write(&path, bytes).unwrap();
            let _ = read_log(&path, &ReadOptions::default());
        }
    }

    /// Reads a file of one row group with these columns.
    fn log_of(schema: &str, write: impl FnOnce(&mut SerializedRowGroupWriter<File>)) -> Result<EventLog> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.parquet");
        let schema = Arc::new(parse_message_type(&format!("message log {{ {schema} }}")).unwrap());
        let mut file = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Default::default()).unwrap();
        let mut group = file.next_row_group().unwrap();
        write(&mut group);
        group.close().unwrap();
        file.close().unwrap();
        read_log(&path, &ReadOptions::default())
    }

    fn put<T: DataType>(group: &mut SerializedRowGroupWriter<File>, values: &[T::T]) {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<T>().write_batch(values, None, None).unwrap();
        column.close().unwrap();
    }

    fn texts(texts: &[&str]) -> Vec<ByteArray> {
        texts.iter().map(|text| ByteArray::from(*text)).collect()
    }

    #[test]
    fn whole_numbers_without_a_sign_are_read_as_such() {
        let schema =
            "REQUIRED INT32 user (UINT_32); REQUIRED INT64 item (INTEGER(64,false)); REQUIRED INT64 time (UINT_64);";
        let log = log_of(schema, |group| {
            put::<Int32Type>(group, &[-1, 1]);
            put::<Int64Type>(group, &[-1, 1]);
            put::<Int64Type>(group, &[i64::MIN, 1]);
        });
        let log = log.unwrap();
        assert_eq!(names(&log.users), ["4294967295", "1"]);
        assert_eq!(names(&log.items), ["18446744073709551615", "1"]);
        assert_eq!(log.time, [9_223_372_036_854_775_808.0, 1.0]);
    }

    #[test]
    fn decimals_are_refused_whatever_holds_them() {
        for (kind, number) in [("INT32", true), ("BYTE_ARRAY", false)] {
            let schema = format!("REQUIRED INT32 user; REQUIRED {kind} item (DECIMAL(9,2));");
            let error = log_of(&schema, |group| {
                put::<Int32Type>(group, &[1]);
                match number {
                    true => put::<Int32Type>(group, &[1250]),
                    false => put::<ByteArrayType>(group, &[ByteArray::from(vec![4, 226])]),
                }
            });
            let error = error.unwrap_err();
            assert!(error.to_string().ends_with("column item holds decimal numbers"), "{error}");
            assert!(error.help().unwrap().contains("cast it"));
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_row() {
        let of_number = |number: f64| {
            let log = log_of("REQUIRED INT32 user; REQUIRED DOUBLE item;", |group| {
                put::<Int32Type>(group, &[1, 1]);
                put::<DoubleType>(group, &[3.0, number]);
            });
            log.map(|log| names(&log.items).join(" ")).map_err(|error| error.to_string())
        };
        assert_eq!(of_number(4.0).unwrap(), "3 4");
        assert!(of_number(f64::NAN).unwrap_err().ends_with(":2:1: the item is NaN"));
        assert!(of_number(f64::NEG_INFINITY).unwrap_err().ends_with(":2:1: the item is -inf"));
        let of_texts = |item: &str, event: &str| {
            let schema = "REQUIRED INT32 user; REQUIRED BYTE_ARRAY item (UTF8); REQUIRED BYTE_ARRAY event (UTF8);";
            let log = log_of(schema, |group| {
                put::<Int32Type>(group, &[1, 1]);
                put::<ByteArrayType>(group, &texts(&["cup", item]));
                put::<ByteArrayType>(group, &texts(&["view", event]));
            });
            log.unwrap_err().to_string()
        };
        assert!(of_texts("pot", " ").ends_with(":2:1: the event is empty"));
        assert!(of_texts("", "view").ends_with(":2:1: the item is empty"));
        assert!(of_texts("a\nb", "view").ends_with(":2:1: the item holds a line break or a tab"));
    }

    #[test]
    fn nulls_and_damage_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.parquet");
        write(
            &path,
            ::parquet::basic::Compression::SNAPPY,
            &["b", "a", "b"],
            &[Some(9), Some(1), None],
            &[3.0, 2.0, f64::NAN],
        );
        let complaint = || read_log(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(complaint().ends_with(":3:1: column item has no value"), "{}", complaint());
        write(
            &path,
            ::parquet::basic::Compression::SNAPPY,
            &["b", "a", "b"],
            &[Some(9), Some(1), Some(1)],
            &[3.0, 2.0, f64::NAN],
        );
        assert!(complaint().ends_with(":3:1: `NaN` is no time"), "{}", complaint());
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 3, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(complaint().contains("cannot be read"), "{}", complaint());
        }
    }
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
    let error = read(Path::new("no/such/file.txt"), &ReadOptions::default()).unwrap_err();
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
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in Format::all() {
            let file = format!("t.{}", format.name());
            for start in [&b""[..], &[0x1f, 0x8b], b"user,item,time\n", b"user\titem\ttime\n", b"1 2\n", b"1 2 3 4\n", b"{\"user\":1,\"item\":[{"] {
                let _ = read_bytes("t", &[start, &bytes].concat(), Path::new(&file), &ReadOptions::default());
            }
        }
    }
}
