//! JSON lines: an object a line. A column is a key; `list.key` is a key of the objects in a list, each of them an event.

use std::io::BufRead;
use std::path::Path;

use super::{FormatInfo, Reader};
use crate::data::log::{Event, EventLog, parse_time};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Places;
use crate::data::read::text::{Lines, Place};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "jsonl",
    content: "one JSON object a line: an event, or a user with a list of events (`events.aid`)",
    reader: Reader::Text(read),
}];

/// Reads the objects. The keys of the first are the header.
fn read(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let (mut log, mut lines, mut columns) = (EventLog::default(), Lines::new(source, origin), None);
    while let Some((place, line)) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_str(line)
            .map_err(|e| place.error(e.column(), format!("not a JSON object: {e}"), "each line must be one object"))?;
        if columns.is_none() {
            columns = Some(Keys::find(&object, origin, options)?);
        }
        let keys = columns.as_ref().expect("found at the first line");
        match &keys.list {
            None => keys.push(place, &object, None, &mut log)?,
            Some(list) => {
                let events = object.get(list).and_then(Value::as_array);
                let missing =
                    || place.error(1, format!("`{list}` is no list"), "every line must have the keys of the first");
                for event in events.ok_or_else(missing)? {
                    let event = event.as_object();
                    let missing = || place.error(1, format!("`{list}` holds something that is no object"), "remove it");
                    keys.push(place, &object, Some(event.ok_or_else(missing)?), &mut log)?;
                }
            }
        }
    }
    Ok(log)
}

/// The keys of the columns; at most one list.
struct Keys {
    names: Vec<String>,
    places: Places,
    list: Option<String>,
}

impl Keys {
    fn find(first: &Map<String, Value>, origin: &Path, options: &ReadOptions) -> Result<Keys> {
        let mut names = Vec::new();
        for (key, value) in first {
            match value.as_array().and_then(|list| list.first()).and_then(Value::as_object) {
                Some(inner) => names.extend(inner.keys().map(|name| format!("{key}.{name}"))),
                None => names.push(key.clone()),
            }
        }
        let header: Vec<&str> = names.iter().map(String::as_str).collect();
        let places = options.columns.find(&header, origin)?;
        let used = [Some(places.user), Some(places.item), places.time, places.event].into_iter().flatten();
        let mut lists: Vec<String> = used.filter_map(|at| Some(names[at].split_once('.')?.0.to_string())).collect();
        lists.sort();
        lists.dedup();
        if lists.len() > 1 {
            let problem = format!("the columns lie in several lists: {}", lists.join(", "));
            return Err(Error::usage(problem, "an event must come from one list"));
        }
        Ok(Keys { names, places, list: lists.pop() })
    }

    fn push(
        &self,
        place: Place,
        object: &Map<String, Value>,
        event: Option<&Map<String, Value>>,
        log: &mut EventLog,
    ) -> Result<()> {
        let value = |at: usize| {
            let name = &self.names[at];
            let value = match (name.split_once('.'), event) {
                (Some((_, inner)), Some(event)) => event.get(inner),
                _ => object.get(name),
            };
            match value {
                Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_string()),
                Some(Value::Number(number)) => Ok(number.to_string()),
                _ => Err(place.error(
                    1,
                    format!("`{name}` is neither text nor number"),
                    "fill it in, or remove the line",
                )),
            }
        };
        let time = |at: usize| {
            let text = value(at)?;
            parse_time(&text)
                .ok_or_else(|| place.error(1, format!("`{text}` is no time"), "times are numbers or dates"))
        };
        let (user, item) = (value(self.places.user)?, value(self.places.item)?);
        let kind = self.places.event.map(value).transpose()?;
        let time = self.places.time.map(time).transpose()?;
        log.push(Event { user: &user, item: &item, time, kind: kind.as_deref() });
        Ok(())
    }
}
