//! JSON lines: an object a line. A column is a key; `list.key` is a key of the objects in a list, each of them an event.

use std::borrow::Cow;
use std::fmt;
use std::io::BufRead;
use std::path::Path;

use super::{COLUMNS, FormatInfo, Reader};
use crate::data::log::{Event, EventLog};
use crate::data::read::ReadOptions;
use crate::data::read::columns::Places;
use crate::data::read::text::{Lines, Place};
use crate::error::{Error, Result};
use serde_json::Value;

pub(crate) const FORMATS: &[FormatInfo] = &[FormatInfo {
    name: "jsonl",
    content: "one JSON object a line: an event, or a user with a list of events (`events.aid`)",
    reader: Reader::Text(read),
    options: COLUMNS,
}];

type Object = serde_json::Map<String, Value>;

/// Reads the objects. The keys of the first are the header; those in a list are known at the first where it is not empty.
fn read(source: Box<dyn BufRead + '_>, origin: &Path, options: &ReadOptions) -> Result<EventLog> {
    let (mut log, mut lines) = (EventLog::default(), Lines::new(source, origin));
    let (mut keys, mut search) = (None, Search::default());
    while let Some((place, line)) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        let object: Object = serde_json::from_str(line).map_err(|e| {
            place.error(e.column().max(1), format!("not a JSON object: {e}"), "each line must be one object")
        })?;
        if keys.is_none() {
            keys = search.next(&object, Keys::find(&object, origin, options))?;
        }
        if let Some(keys) = &keys {
            keys.push_events(place, &object, &mut log)?;
        }
    }
    search.end(log)
}

/// The search for the header over first objects whose lists are empty: none of them has an event.
#[derive(Default)]
struct Search {
    /// Why there is no header yet, and the lists that are empty in every object so far.
    missing: Option<(Error, Vec<String>)>,
}

impl Search {
    /// The header, if this object has it; `None` where the event list may be one that is empty so far.
    fn next(&mut self, object: &Object, found: Result<Keys>) -> Result<Option<Keys>> {
        let is_empty = |key: &String| object.get(key).and_then(Value::as_array).is_some_and(Vec::is_empty);
        let (error, candidates) = match (found, self.missing.take()) {
            (Ok(keys), None) => return Ok(Some(keys)),
            (Ok(keys), Some((error, empty))) => match &keys.list {
                Some(list) if empty.contains(list) => return Ok(Some(keys)),
                _ => return Err(error),
            },
            (Err(error), None) => (error, object.keys().cloned().collect()),
            (Err(error), Some((_, empty))) => (error, empty),
        };
        let empty: Vec<String> = candidates.into_iter().filter(is_empty).collect();
        if empty.is_empty() {
            return Err(error);
        }
        self.missing = Some((error, empty));
        Ok(None)
    }

    /// The log, unless the header was never found.
    fn end(self, log: EventLog) -> Result<EventLog> {
        self.missing.map_or(Ok(log), |(error, _)| Err(error))
    }
}

/// A column: a key of the line's object, or of the objects in one of its lists.
struct Key {
    list: Option<String>,
    name: String,
}

impl fmt::Display for Key {
    /// As options name it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.list {
            Some(list) => write!(f, "{list}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// The keys of an object, and which of them are wanted; at most one list.
struct Keys {
    all: Vec<Key>,
    places: Places,
    list: Option<String>,
}

impl Keys {
    fn find(first: &Object, origin: &Path, options: &ReadOptions) -> Result<Keys> {
        let mut all = Vec::new();
        for (key, value) in first {
            match value.as_array().and_then(|list| list.first()).and_then(Value::as_object) {
                Some(inner) => {
                    all.extend(inner.keys().map(|name| Key { list: Some(key.clone()), name: name.clone() }));
                }
                None => all.push(Key { list: None, name: key.clone() }),
            }
        }
        let names: Vec<String> = all.iter().map(Key::to_string).collect();
        let header: Vec<&str> = names.iter().map(String::as_str).collect();
        let places = options.columns.find(&header, origin)?;
        let used = [Some(places.user), Some(places.item), places.time, places.event].into_iter().flatten();
        let mut lists: Vec<String> = used.filter_map(|at| all[at].list.clone()).collect();
        lists.sort();
        lists.dedup();
        if lists.len() > 1 {
            let problem = format!("the columns lie in several lists: {}", lists.join(", "));
            return Err(Error::usage(problem, "an event must come from one list"));
        }
        Ok(Keys { all, places, list: lists.pop() })
    }

    /// Appends the events of a line.
    fn push_events(&self, place: Place, object: &Object, log: &mut EventLog) -> Result<()> {
        let Some(list) = &self.list else { return self.push(place, object, None, log) };
        let missing = || place.error(1, format!("`{list}` is no list"), "every line must have the keys of the first");
        for event in object.get(list).and_then(Value::as_array).ok_or_else(missing)? {
            let missing = || place.error(1, format!("`{list}` holds something that is no object"), "remove it");
            self.push(place, object, Some(event.as_object().ok_or_else(missing)?), log)?;
        }
        Ok(())
    }

    fn push(&self, place: Place, object: &Object, event: Option<&Object>, log: &mut EventLog) -> Result<()> {
        let text = |at: usize| {
            let key = &self.all[at];
            let holder = if key.list.is_some() { event } else { Some(object) };
            match holder.and_then(|holder| holder.get(&key.name)) {
                Some(Value::String(text)) => Ok(Cow::Borrowed(text.as_str())),
                Some(Value::Number(number)) => Ok(Cow::Owned(number.to_string())),
                _ => {
                    let problem = format!("`{key}` is neither text nor number");
                    Err(place.error(1, problem, "fill it in, or remove the line"))
                }
            }
        };
        let (user, item) = (text(self.places.user)?, text(self.places.item)?);
        let kind = self.places.event.map(text).transpose()?;
        log.push(Event {
            user: place.name(1, &user, "user")?,
            item: place.name(1, &item, "item")?,
            time: self.places.time.map(|at| place.time(1, &text(at)?)).transpose()?,
            kind: kind.as_deref().map(|kind| place.name(1, kind, "event")).transpose()?,
        });
        Ok(())
    }
}
