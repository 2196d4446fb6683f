//! What the item of a test event is ranked among.

use crate::error::{Error, Result};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;
use std::str::FromStr;

/// The candidates of a ranking, beside the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
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
    /// What was shown in the lists of a log, clicked or not.
    Impressions,
}

impl Protocol {
    /// In the order of the tables.
    pub const ALL: [Protocol; 4] =
        [Protocol::HistoryExcluded, Protocol::HistoryKept, Protocol::Uni99, Protocol::Impressions];

    /// As tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Protocol::HistoryExcluded => "history excluded",
            Protocol::HistoryKept => "history kept",
            Protocol::Uni99 => "uni99",
            Protocol::Impressions => "impressions",
        }
    }

    /// What files of runs call a test under it.
    pub fn key(self) -> &'static str {
        match self {
            Protocol::HistoryExcluded => "test",
            Protocol::HistoryKept => "test_history_kept",
            Protocol::Uni99 => "test_uni99",
            Protocol::Impressions => "test_impressions",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Protocol::HistoryExcluded => "history-excluded",
            Protocol::HistoryKept => "history-kept",
            Protocol::Uni99 => "uni99",
            Protocol::Impressions => "impressions",
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

/// One of something for each protocol that applies, under the names that files of runs have for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByProtocol<T>(BTreeMap<Protocol, T>);

impl<T> ByProtocol<T> {
    /// What is made of each.
    pub fn map<'a, U>(&'a self, mut make: impl FnMut(&'a T) -> U) -> ByProtocol<U> {
        self.iter().map(|(protocol, own)| (protocol, make(own))).collect()
    }

    /// With their protocols, in the order of the tables.
    pub fn iter(&self) -> impl Iterator<Item = (Protocol, &T)> {
        self.0.iter().map(|(protocol, own)| (*protocol, own))
    }

    /// That of a protocol, if it applies.
    pub fn get(&self, protocol: Protocol) -> Option<&T> {
        self.0.get(&protocol)
    }

    /// Puts that of a protocol in, in place of what was there.
    pub fn insert(&mut self, protocol: Protocol, own: T) {
        self.0.insert(protocol, own);
    }
}

impl<T> FromIterator<(Protocol, T)> for ByProtocol<T> {
    fn from_iter<I: IntoIterator<Item = (Protocol, T)>>(pairs: I) -> Self {
        ByProtocol(pairs.into_iter().collect())
    }
}

impl<T> Index<Protocol> for ByProtocol<T> {
    type Output = T;

    /// # Panics
    /// If the protocol does not apply.
    fn index(&self, protocol: Protocol) -> &T {
        &self.0[&protocol]
    }
}

impl<T: Serialize> Serialize for ByProtocol<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(protocol, own)| (protocol.key(), own)))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByProtocol<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// What else stands in the same table is somebody else's.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Entry<T> {
            Own(T),
            Other(IgnoredAny),
        }
        let mut entries = BTreeMap::<String, Entry<T>>::deserialize(deserializer)?;
        let of = |protocol: Protocol| match entries.remove(protocol.key())? {
            Entry::Own(own) => Some(Ok((protocol, own))),
            Entry::Other(_) => Some(Err(D::Error::custom(format!("`{}` is of another kind", protocol.key())))),
        };
        Protocol::ALL.into_iter().filter_map(of).collect()
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
    fn what_applies_is_written_and_read_under_its_key() {
        let pairs = [(Protocol::Uni99, 3), (Protocol::HistoryExcluded, 1)];
        let ranks: ByProtocol<u32> = pairs.into_iter().collect();
        let json = serde_json::to_string(&ranks).unwrap();
        assert_eq!(json, r#"{"test":1,"test_uni99":3}"#);
        assert_eq!(serde_json::from_str::<ByProtocol<u32>>(&json).unwrap(), ranks);
        assert_eq!((ranks[Protocol::Uni99], ranks.get(Protocol::HistoryKept)), (3, None));
        let newer: ByProtocol<u32> = serde_json::from_str(r#"{"test": 1, "note": "x"}"#).unwrap();
        assert_eq!(newer.iter().collect::<Vec<_>>(), [(Protocol::HistoryExcluded, &1)]);
        assert!(serde_json::from_str::<ByProtocol<u32>>(r#"{"test": "x"}"#).is_err());
    }
}
