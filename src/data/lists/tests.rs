use super::*;
use crate::data::Interactions;
use std::path::{Path, PathBuf};

/// A folder with a log and its schema.
struct Log(tempfile::TempDir);

const SCHEMA: &str = r#"
user = "who"
time = "when"
list = ["who", "shown"]
items = "shown"
clicked = "clicks"
length = 3
split = [0.4, 0.4, 0.2]
fields = [
    { name = "device", of = "user", column = "device" },
    { name = "tags", of = "user", column = "tags", separator = "," },
    { name = "item", of = "item", column = "shown", each = true, at_least = 2 },
    { name = "price", of = "item", column = "prices", each = true, buckets = "log2" },
    { name = "rank", of = "item", column = "prices", each = true, derive = "rank" },
    { name = "lowest", of = "item", column = "prices", each = true, derive = "lowest_so_far" },
    { name = "repeated", of = "item", column = "prices", each = true, derive = "seen_before" },
    { name = "position", of = "context", derive = "position" },
    { name = "before", of = "context", derive = "clicks_before" },
    { name = "hour", of = "context", derive = "hour" },
]
"#;

/// In the order of the file: the last list of Ann comes first in time, the second line clicks on the list of the first.
const ROWS: &str = "who\twhen\tdevice\ttags\tshown\tclicks\tprices
ann\t7300\tphone\tx,y\ta|b|c|d\tb\t3|1|2|9
ann\t7400\tphone\tx,y\ta|b|c|d\tc\t3|1|2|9
bob\t9000\ttv\t\ta|c|b\t\t7|7|7
ann\t3600\tphone\tx\tb|a|d\ta|e\t1|2|3
cy\t9100\ttv\tz\tc|b\tc\t1|2
cy\t9200\ttv\tz\tc|b|a\tc|a\t1|2|3
dan\t9300\tcar\ty\td|a|b\tb\t5|4|3
";

impl Log {
    fn new(rows: &str, schema: &str) -> Log {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log.tsv"), rows).unwrap();
        std::fs::write(folder.path().join("schema.toml"), schema).unwrap();
        Log(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self) -> Result<Lists> {
        Ok(Lists::read(&self.path("log.tsv"), Some(&self.path("schema.toml")))?.expect("there is a schema"))
    }

    fn complaint(rows: &str, schema: &str) -> String {
        let error = Log::new(rows, schema).read().expect_err("refused");
        format!("{error}; {}", error.help().unwrap_or_default())
    }
}

/// The rows of a field at each position of a list, counted from the field's first.
fn rows(lists: &Lists, list: usize, field: &str) -> Vec<Vec<u32>> {
    let place = lists.fields.iter().position(|known| known.name == field).unwrap();
    let first = lists.fields[place].first;
    let bag = |position| lists.bag(list * lists.length + position, place).iter().map(|row| row - first).collect();
    (0..lists.length).map(bag).collect()
}

#[test]
fn rows_become_lists_in_time_order_with_the_clicks_of_all_rows() {
    let lists = Log::new(ROWS, SCHEMA).read().unwrap();
    assert_eq!(lists.count(), 5);
    let name = |item: &u32| lists.items[*item as usize].as_str();
    let shown = |list: usize| lists.items_of(list).iter().map(name).collect::<String>();
    assert_eq!([0, 1, 2, 3, 4].map(shown), ["bad", "abc", "acb", "cba", "dab"]);
    let users = [0, 1, 2, 3, 4].map(|list| lists.users[lists.user(list) as usize].as_str());
    assert_eq!(users, ["ann", "ann", "bob", "cy", "dan"]);
    assert_eq!((lists.clicks_of(1), lists.clicks_of(2)), (&[0.0, 1.0, 1.0][..], &[0.0; 3][..]));
    assert_eq!(lists.dropped, Dropped { short_lists: 1, positions: 1, clicks_outside: 1 });
    assert_eq!((lists.part(Part::Train), lists.part(Part::Valid), lists.part(Part::Test)), (0..2, 2..4, 4..5));
}

#[test]
fn values_have_rows_of_their_field_and_unknown_ones_row_0() {
    let lists = Log::new(ROWS, SCHEMA).read().unwrap();
    // Training: bad and abc. `b` and `a` are there twice, `c` and `d` once, which is too rare.
    assert_eq!(rows(&lists, 1, "item"), [[2], [1], [0]]);
    assert_eq!(rows(&lists, 1, "tags"), [[1, 2], [1, 2], [1, 2]]);
    // A bag of nothing, and a device that training never saw.
    assert_eq!(rows(&lists, 2, "tags"), [[0], [0], [0]]);
    assert_eq!(rows(&lists, 4, "device"), [[0], [0], [0]]);
    let field = |name: &str| lists.fields.iter().find(|field| field.name == name).unwrap();
    assert_eq!((field("device").rows, field("tags").first, field("tags").rows), (2, 2, 3));
    assert_eq!(lists.table_rows(), lists.fields.iter().map(|field| field.rows as usize).sum::<usize>());
}

#[test]
fn derived_fields_say_what_stands_where_in_the_list() {
    let lists = Log::new(ROWS, SCHEMA).read().unwrap();
    // Prices 3, 1, 2 of list 1; rows are numbered in the order in which training has the values, 1, 2, 3 in list 0.
    assert_eq!(rows(&lists, 1, "rank"), [[3], [1], [2]]);
    assert_eq!(rows(&lists, 1, "position"), [[1], [2], [3]]);
    // Clicks before each position: 0, 0, 1, after 0, 0, 1 in list 0.
    assert_eq!(rows(&lists, 1, "before"), [[1], [1], [2]]);
    // The lowest so far: yes, no, no in list 0; yes, yes, no in list 1.
    assert_eq!(rows(&lists, 0, "lowest"), [[1], [2], [2]]);
    assert_eq!(rows(&lists, 1, "lowest"), [[1], [1], [2]]);
    // Three equal prices of list 2: repeated 0, 1, 2 times; training has 0 alone.
    assert_eq!(rows(&lists, 2, "repeated"), [[1], [0], [0]]);
    // 01:00, then 02:01.
    assert_eq!((rows(&lists, 0, "hour")[0][0], rows(&lists, 1, "hour")[0][0]), (1, 2));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let complain = |from: &str, to: &str| Log::complaint(&ROWS.replacen(from, to, 1), SCHEMA);
    for (from, to, parts) in [
        ("7300", "noon", &["2", "`noon` is no time"][..]),
        ("3|1|2|9", "3|1|free|9", &["2", "`free` of the field price is no number"]),
        ("shown", "seen", &["1", "column `shown`"]),
        ("3|1|2|9", "3|1|2", &["2", "3 values in prices for 4 items"]),
        ("7|7|7", "7||7", &["4", "2 values in prices for 3 items"]),
        ("\ta|c|b\t\t7|7|7", "", &["4", "fields"]),
        ("bob", " ", &["log.tsv:4:1: the user is empty"]),
    ] {
        let complaint = complain(from, to);
        assert!(parts.iter().all(|part| complaint.contains(part)), "{complaint}");
    }
    let by_user = SCHEMA.replacen("[\"who\", \"shown\"]", "[\"who\"]", 1);
    let other = "who\twhen\tdevice\ttags\tshown\tclicks\tprices\nann\t1\ttv\tx\ta|b|c\ta\t1|2|3\nann\t2\ttv\tx\ta|b|d\ta\t1|2|3\n";
    assert!(Log::complaint(other, &by_user).contains("shows other items"), "{}", Log::complaint(other, &by_user));
    let complain = |from: &str, to: &str| Log::complaint(ROWS, &SCHEMA.replacen(from, to, 1));
    for (from, to, part) in [
        ("clicked = \"clicks\"", "", "says nothing of clicks"),
        ("length = 3", "length = 1", "a length below 2"),
        ("0.4, 0.4, 0.2", "0.4, 0.4, 0.3", "do not add up to 1"),
        ("of = \"user\", column = \"device\"", "of = \"user\"", "the field `device` needs a column"),
        ("each = true, derive = \"rank\"", "derive = \"rank\"", "compares items"),
        ("name = \"hour\"", "name = \"rank\"", "two fields `rank`"),
        ("length = 3", "length = 4", "hold"),
        ("user = \"who\"", "usr = \"who\"", "unknown field `usr`"),
        ("0.4, 0.4, 0.2", "nan, 0.4, 0.6", "do not add up to 1"),
        ("length = 3", "length = 3\nseparator = \"\"", "schema.toml: has an empty separator"),
        ("length = 3", "length = 3\ngap = 1800", "has a gap, and no impressions with times"),
        ("length = 3", "length = 3\ntime_unit = \"minutes\"", "`minutes`"),
        ("separator = \",\"", "separator = \"\"", "the field `tags` has an empty separator"),
        ("at_least = 2", "hashed = 0", "the field `item` is hashed to 0 rows"),
        ("at_least = 2", "hashed = 4294967295", "the field `item` is hashed to 4294967295 rows"),
        ("at_least = 2", "at_least = 2, hashed = 9", "has `hashed` and `at_least`"),
        ("derive = \"position\"", "derive = \"position\", each = true", "the field `position` is made of no column"),
        ("derive = \"hour\"", "derive = \"hour\", column = \"when\"", "the field `hour` is made of no column"),
        ("derive = \"rank\"", "derive = \"rank\", buckets = \"log2\"", "has `derive` and `buckets`"),
        ("each = true, buckets", "each = true, separator = \",\", buckets", "a separator of its own"),
    ] {
        let complaint = complain(from, to);
        assert!(complaint.contains(part), "{complaint}");
    }
}

#[test]
fn a_bag_of_numbers_holds_one_or_none() {
    let schema = SCHEMA.replacen("separator = \",\"", "separator = \",\", buckets = \"round\"", 1);
    let tags = [("x,y", "5"), ("\tx\t", "\t-0.4\t"), ("\tz\t", "\t0\t"), ("\ty\t", "\t6\t")];
    let text = tags.iter().fold(ROWS.to_string(), |text, (tag, number)| text.replace(tag, number));
    let lists = Log::new(&text, &schema).read().unwrap();
    // Training has -0.4, which is 0, and 5; Bob has nothing, Cy 0, Dan 6.
    assert_eq!([0, 1, 2, 3, 4].map(|list| rows(&lists, list, "tags")[0][0]), [1, 2, 0, 1, 0]);
    let complaint = Log::complaint(&text.replacen("\t5\t", "\t5,7\t", 1), &schema);
    assert!(complaint.contains("log.tsv:2:1: 2 values of the field tags"), "{complaint}");
    let complaint = Log::complaint(&text.replacen("\t5\t", "\tfive\t", 1), &schema);
    assert!(complaint.contains("log.tsv:2:1: `five` of the field tags is no number"), "{complaint}");
}

#[test]
fn ranks_of_impressions_want_one_number_each() {
    let schema = r#"
user = "who"
items = "shown"
flags = "click"
impression = true
length = 2
fields = [
    { name = "who", of = "user", column = "who" },
    { name = "rank", of = "item", column = "price", separator = ",", derive = "rank" },
    { name = "position", of = "context", derive = "position" },
]
"#;
    let rows = "who\tshown\tclick\tprice\nann\ta\t1\t3\nann\tb\t0\t\n";
    assert!(Log::complaint(rows, schema).contains("the field `rank` compares numbers, and is a bag"));
    let schema = schema.replacen("separator = \",\", ", "", 1);
    assert!(Log::complaint(rows, &schema).contains("log.tsv:3:1: `` of the field rank is no number"));
    let nameless = rows.replacen("\ta\t", "\t \t", 1);
    assert!(Log::complaint(&nameless, &schema).contains("log.tsv:2:1: the item is empty"));
    let gap = schema.replacen("length", "time = \"price\"\ngap = -1\nlength", 1);
    assert!(Log::complaint(rows, &gap).contains("has a gap below 0"));
}

#[test]
fn hours_of_milliseconds_are_those_of_seconds() {
    let times = ["7300", "7400", "9000", "3600", "9100", "9200", "9300"];
    let thousandfold = |text: String, time: &&str| text.replace(&format!("\t{time}\t"), &format!("\t{time}000\t"));
    let text = times.iter().fold(ROWS.to_string(), thousandfold);
    let schema = SCHEMA.replacen("length = 3", "length = 3\ntime_unit = \"ms\"", 1);
    assert_eq!(Log::new(&text, &schema).read().unwrap(), Log::new(ROWS, SCHEMA).read().unwrap());
}

#[test]
fn names_that_could_not_be_stored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [log, schema] = ["log.csv", "schema.toml"].map(|file| folder.path().join(file));
    std::fs::write(&schema, SCHEMA).unwrap();
    let complaint = |who: &str, shown: &str| {
        let text =
            format!("who,when,device,tags,shown,clicks,prices\nann,1,tv,,a|b|c,a,1|2|3\n{who},2,tv,,{shown},a,1|2|3\n");
        std::fs::write(&log, text).unwrap();
        Lists::read(&log, Some(&schema)).unwrap_err().to_string()
    };
    assert!(complaint("bob", "\"a|b\nb|c\"").ends_with("log.csv:3:1: the item holds a line break or a tab"));
    assert!(complaint("bob", "a|b\tb|c").ends_with("log.csv:3:1: the item holds a line break or a tab"));
    assert!(complaint("\"bob\nby\"", "a|b|c").ends_with("log.csv:3:1: the user holds a line break or a tab"));
}

/// The rows of a tsv file in parquet, three in a group: `times` as seconds with that annotation, `lists` as lists of strings.
fn as_parquet(rows: &str, path: &Path, annotation: &str, lists: &[&str]) {
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::writer::SerializedFileWriter;
    let mut lines = rows.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name: &&str| match *name {
        "when" => format!("REQUIRED INT64 when {annotation};"),
        name if lists.contains(&name) => {
            format!("OPTIONAL group {name} (LIST) {{ REPEATED group list {{ OPTIONAL BYTE_ARRAY element (UTF8); }} }}")
        }
        name => format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
    };
    let schema = format!("message log {{ {} }}", header.iter().map(column).collect::<String>());
    let schema = std::sync::Arc::new(::parquet::schema::parser::parse_message_type(&schema).unwrap());
    let mut file = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Default::default()).unwrap();
    for lines in lines.collect::<Vec<_>>().chunks(3) {
        let mut group = file.next_row_group().unwrap();
        for (place, name) in header.iter().enumerate() {
            let mut writer = group.next_column().unwrap().unwrap();
            let cells: Vec<&str> = lines.iter().map(|line| line[place]).collect();
            if *name == "when" {
                let unit = if annotation.is_empty() { 1 } else { 1000 };
                let times: Vec<i64> = cells.iter().map(|cell| unit * cell.parse::<i64>().unwrap()).collect();
                writer.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
            } else if lists.contains(name) {
                // Null, empty, and with a null in it: three ways to say nothing.
                let (mut texts, mut defined, mut repeated) = (Vec::<ByteArray>::new(), Vec::new(), Vec::new());
                for (row, cell) in cells.iter().enumerate() {
                    let values: Vec<&str> = cell.split(['|', ',']).filter(|value| !value.is_empty()).collect();
                    texts.extend(values.iter().map(|value| ByteArray::from(*value)));
                    defined.extend(if values.is_empty() { vec![row as i16 % 3] } else { vec![3; values.len()] });
                    repeated.extend((0..values.len().max(1)).map(|value| i16::from(value > 0)));
                }
                writer.typed::<ByteArrayType>().write_batch(&texts, Some(&defined), Some(&repeated)).unwrap();
            } else {
                let texts: Vec<ByteArray> =
                    cells.iter().filter(|cell| !cell.is_empty()).map(|cell| ByteArray::from(*cell)).collect();
                let defined: Vec<i16> = cells.iter().map(|cell| i16::from(!cell.is_empty())).collect();
                writer.typed::<ByteArrayType>().write_batch(&texts, Some(&defined), None).unwrap();
            }
            writer.close().unwrap();
        }
        group.close().unwrap();
    }
    file.close().unwrap();
}

#[test]
fn parquet_says_what_tsv_does() {
    let rows = ROWS.replacen("bob\t9000\ttv", "bob\t9000\t", 1);
    let log = Log::new(&rows, SCHEMA);
    let (path, expected) = (log.path("log.parquet"), log.read().unwrap());
    let read = || Lists::read(&path, Some(&log.path("schema.toml"))).map(Option::unwrap);
    as_parquet(&rows, &path, "", &[]);
    assert_eq!(read().unwrap(), expected, "texts with separators, and times without a unit");
    as_parquet(&rows, &path, "(TIMESTAMP_MILLIS)", &["tags", "shown", "clicks", "prices"]);
    assert_eq!(read().unwrap(), expected, "lists and timestamps");
    as_parquet(&rows.replacen("7|7|7", "7|7", 1), &path, "", &["prices"]);
    let error = read().unwrap_err().to_string();
    assert!(error.ends_with("log.parquet:3:1: 2 values in prices for 3 items"), "{error}");
    as_parquet(&rows.replace("prices", "costs"), &path, "", &[]);
    assert!(read().unwrap_err().to_string().contains("prices"));
}

#[test]
fn files_of_other_formats_are_not_taken_for_tables() {
    let log = Log::new(ROWS, SCHEMA);
    let complaint = |name: &str| {
        std::fs::write(log.path(name), ROWS).unwrap();
        Lists::read(&log.path(name), Some(&log.path("schema.toml"))).unwrap_err().to_string()
    };
    for name in ["log.jsonl", "log.jsonl.gz"] {
        let error = complaint(name);
        assert!(error.contains(&format!("{name}: a log of lists is a csv, tsv or parquet file")), "{error}");
    }
    assert!(complaint("log.parquet").contains("this parquet file cannot be read"));
}

#[test]
fn shipped_schemas_hold_to_the_rules() {
    for name in ["trivago2019_lists", "yandex_serp10", "kuairand", "rl4rs"] {
        Schema::shipped(name).unwrap().checked(Path::new(name)).unwrap();
    }
}

#[test]
fn impressions_of_one_user_are_cut_into_lists_at_gaps() {
    let mut text = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,\
                    long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
        .to_string();
    // Two users in turn: 85 impressions each, a long gap after the twelfth of the first.
    for n in 0..85u64 {
        for user in [5, 6] {
            let gap = if user == 5 && n >= 12 { 3_600_000 } else { 0 };
            let (time, click) = (1_650_000_000_000 + 1000 * n + gap, u64::from(n % 4 == user % 4));
            text += &format!("{user},{},20220415,1200,{time},{click},0,0,0,0,0,0,700,{},0,0,0,0,1\n", n % 7, 1000 * n);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log_standard_4_08_to_4_21_pure.csv");
    std::fs::write(&path, text).unwrap();
    let lists = Lists::read(&path, Some(Path::new("kuairand"))).unwrap().unwrap();
    // The first user has 12 and 73 impressions, the second 85.
    assert_eq!((lists.count(), lists.dropped.short_lists), (1 + 7 + 8, 3));
    assert_eq!(lists.clicks_of(0), [0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!((lists.length, lists.users.len(), lists.items.len()), (10, 2, 7));
}

#[test]
fn slates_with_a_flag_for_each_item_are_read() {
    let mut text =
        "timestamp@session_id@sequence_id@exposed_items@user_feedback@user_seqfeature@user_protrait@item_feature@\
                    behavior_policy_id\n"
            .to_string();
    for n in 0..10 {
        let items: Vec<String> = (0..9).map(|place| (1 + (n + place * 3) % 20).to_string()).collect();
        let flags: Vec<&str> = (0..9).map(|place| if place == n % 9 { "1" } else { "0" }).collect();
        text += &format!("{}@{n}@1@{}@{}@3,4@7,8,9@0.5;0.5@1\n", 100 - n, items.join(","), flags.join(","));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rl4rs.csv");
    std::fs::write(&path, &text).unwrap();
    let lists = Lists::read(&path, None).unwrap().unwrap();
    assert_eq!((lists.count(), lists.length), (10, 9));
    // Times descend in the file.
    assert_eq!(lists.clicks_of(9), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    std::fs::write(&path, text.replacen("0,1,0", "0,2,0", 1)).unwrap();
    let error = Lists::read(&path, None).unwrap_err().to_string();
    assert!(error.contains("`2` in user_feedback is neither 0 nor 1"), "{error}");
    std::fs::write(&path, text.replacen(",0@3,4", "@3,4", 1)).unwrap();
    assert!(Lists::read(&path, None).unwrap_err().to_string().contains("8 values in user_feedback for 9 items"));
}

#[test]
fn the_clicks_of_lists_are_events() {
    let log = Log::new(ROWS, SCHEMA);
    assert_eq!(Lists::read(&log.path("log.tsv"), None).unwrap(), None, "a table without a schema is no log of lists");
    let data = Interactions::from_lists(log.read().unwrap()).unwrap();
    let name = |item: &u32| data.items[*item as usize].as_str();
    let clicks = |user: usize| data.sequence(user).iter().map(name).collect::<String>();
    assert_eq!(data.users, ["ann", "cy", "dan"]);
    assert_eq!([0, 1, 2].map(clicks), ["abc", "ca", "b"]);
}

/// The files of the papers' data, where they are at hand.
#[test]
fn the_shipped_schemas_read_the_files_they_are_for() {
    let Some(folder) = std::env::var_os(crate::data::catalog::DATA_DIR).map(PathBuf::from) else { return };
    for (name, count, fields) in [("trivago2019_lists", 8893, 15), ("yandex_serp10", 56_477, 5)] {
        let path = folder.join(format!("{name}.tsv.gz"));
        if path.exists() {
            let lists = Lists::read(&path, None).unwrap().unwrap();
            assert_eq!((lists.count(), lists.fields.len(), lists.length), (count, fields, 10), "{lists}");
        }
    }
}
