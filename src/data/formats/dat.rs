//! `user::item::rating::time`, as MovieLens 1M and 10M have it: fields between double colons, and no header.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Columns;
use crate::data::read::text::{Lines, shortened};
use crate::error::Result;

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "dat",
    content: "MovieLens's `user::item::rating::time`, without a header",
    reader: Reader::Text(read),
    options: &["--user-col", "--item-col", "--time-col", "--event-col", "--no-header"],
}];

/// Columns are user 1, item 2 and time 4 unless others are given.
fn read(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let given = options.columns.clone();
    let usual = |given: Option<String>, number: &str| given.or_else(|| Some(number.into()));
    let columns = Columns {
        user: usual(given.user, "1"),
        item: usual(given.item, "2"),
        time: usual(given.time, "4"),
        event: given.event,
        no_header: true,
    };
    let (mut log, mut lines, mut places) = (EventLog::default(), Lines::new(source, origin), None);
    while let Some((place, line)) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split("::").map(str::trim).collect();
        if fields.len() == 1 {
            let help =
                "the fields of such a file are separated by `::`; another table is read with --format csv --no-header";
            return Err(place.error(1, format!("`{}` has one field", shortened(line)), help));
        }
        let places = match places {
            Some(places) => places,
            None => *places.insert(columns.find(&fields, origin)?),
        };
        let field = |at: usize| {
            let missing = || format!("this line has {} fields, column {} is wanted", fields.len(), at + 1);
            fields.get(at).ok_or_else(|| place.error(1, missing(), "mend the line, or remove it"))
        };
        let name = |at: usize, role: &str| place.name(1, field(at)?, role);
        log.push(Event {
            user: name(places.user, "user")?,
            item: name(places.item, "item")?,
            time: places.time.map(|at| place.time(1, field(at)?)).transpose()?,
            kind: places.event.map(|at| name(at, "event")).transpose()?,
        });
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, read_bytes};

    fn read(text: &str) -> Result<crate::data::Interactions> {
        read_bytes("toy", text.as_bytes(), Path::new("ratings.dat"), &ReadOptions::default())
    }

    #[test]
    fn ratings_are_sorted_by_time_and_keep_their_names() {
        let data = read("1::1193::5::30\n1::661::3::10\n1::914::3::20\n").unwrap();
        let names: Vec<&str> = data.sequence(0).iter().map(|&item| data.items[item as usize].as_str()).collect();
        assert_eq!(names, ["661", "914", "1193"]);
        assert_eq!(Format::of_file(Path::new("ml-1m/ratings.dat")).unwrap().name(), "dat");
    }

    #[test]
    fn each_mistake_names_its_line() {
        let complaint = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(complaint("1,2,3,4\n"), "ratings.dat:1:1: `1,2,3,4` has one field");
        assert_eq!(complaint("1::2::5::9\n1::2\n"), "ratings.dat:2:1: this line has 2 fields, column 4 is wanted");
        assert_eq!(complaint("1::::5::9\n"), "ratings.dat:1:1: the item is empty");
        assert_eq!(complaint("1::a\tb::5::9\n"), "ratings.dat:1:1: the item holds a line break or a tab");
        assert_eq!(complaint("1::2::5::soon\n"), "ratings.dat:1:1: `soon` is no time");
        assert!(complaint("1::2\n").contains("--time-col 4 is no column"), "{}", complaint("1::2\n"));
    }
}
