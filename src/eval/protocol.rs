//! What the item of a test event is ranked among.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Index;
use std::str::FromStr;

/// The candidates of a ranking, beside the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// All items but those of the user's history.
    #[default]
    HistoryExcluded,
    /// All items.
    HistoryKept,
    /// 99 items drawn uniformly from those that are nowhere in the user's sequence. Figures under it are much higher, and
    /// methods can change places (Krichene and Rendle, KDD 2020).
    Uni99,
}

impl Protocol {
    /// In the order of the tables.
    pub const ALL: [Protocol; 3] = [Protocol::HistoryExcluded, Protocol::HistoryKept, Protocol::Uni99];

    /// As tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Protocol::HistoryExcluded => "history excluded",
            Protocol::HistoryKept => "history kept",
            Protocol::Uni99 => "uni99",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Protocol::HistoryExcluded => "history-excluded",
            Protocol::HistoryKept => "history-kept",
            Protocol::Uni99 => "uni99",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Protocol> {
        let names = Protocol::ALL.map(|protocol| protocol.to_string());
        let place = names.iter().position(|name| name == text);
        let unknown = || Error::unknown("protocol", text, &names.each_ref().map(String::as_str));
        place.map(|place| Protocol::ALL[place]).ok_or_else(unknown)
    }
}

/// One of something for each protocol, under the names that files of runs have for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByProtocol<T> {
    /// All items but those of the user's history are candidates.
    #[serde(rename = "test")]
    pub history_excluded: T,
    /// All items are.
    #[serde(rename = "test_history_kept")]
    pub history_kept: T,
    /// 99 others are.
    #[serde(rename = "test_uni99", default)]
    pub uni99: T,
}

impl<T> ByProtocol<T> {
    /// One for each.
    pub fn of(mut make: impl FnMut(Protocol) -> T) -> ByProtocol<T> {
        let [history_excluded, history_kept, uni99] = Protocol::ALL.map(&mut make);
        ByProtocol { history_excluded, history_kept, uni99 }
    }

    /// What is made of each.
    pub fn map<'a, U>(&'a self, mut make: impl FnMut(&'a T) -> U) -> ByProtocol<U> {
        ByProtocol::of(|protocol| make(&self[protocol]))
    }

    /// With their protocols, in the order of the tables.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, &T)> {
        Protocol::ALL.into_iter().map(|protocol| (protocol, &self[protocol]))
    }
}

impl<T> Index<Protocol> for ByProtocol<T> {
    type Output = T;

    fn index(&self, protocol: Protocol) -> &T {
        match protocol {
            Protocol::HistoryExcluded => &self.history_excluded,
            Protocol::HistoryKept => &self.history_kept,
            Protocol::Uni99 => &self.uni99,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_read_as_it_is_written() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.to_string().parse::<Protocol>().unwrap(), protocol);
        }
        assert!("uni100".parse::<Protocol>().unwrap_err().to_string().contains("uni100"));
    }

    #[test]
    fn results_of_before_have_nothing_under_uni99() {
        let before: ByProtocol<Vec<u32>> = serde_json::from_str(r#"{"test": [1], "test_history_kept": [2]}"#).unwrap();
        assert_eq!((before.history_kept, before.uni99), (vec![2], vec![]));
    }
}
