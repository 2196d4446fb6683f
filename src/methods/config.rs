//! Configuration in layers: defaults, preset of the mode, preset for the data set, file, `--set`. Later ones win.
//!
//! Every key must exist in the defaults; a wrong one is refused with the nearest valid name.

use super::MethodInfo;
use crate::error::{Error, Result};
use crate::files::{CONFIGURATION, read_toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::{Table, Value};

/// The complete table of a configuration struct.
pub fn table_of<T: Serialize>(config: &T) -> Table {
    Table::try_from(config).expect("configurations serialise to TOML tables")
}

/// The configuration struct of a complete table.
pub fn typed<T: DeserializeOwned>(table: &Table) -> Result<T> {
    table.clone().try_into().map_err(|e: toml::de::Error| {
        Error::usage(
            format!("the configuration does not fit: {}", e.message()),
            "`gpurec methods NAME` prints the keys with their types",
        )
    })
}

/// Modes a method's preset knows.
pub fn modes(info: &MethodInfo) -> Vec<String> {
    parse_preset(info).keys().cloned().collect()
}

fn parse_preset(info: &MethodInfo) -> Table {
    info.preset.parse().unwrap_or_else(|e| panic!("the preset of {} is not TOML: {e}", info.name))
}

/// The complete configuration of a method for a data set (`paper_name`: how the papers call it).
pub fn resolve(
    info: &MethodInfo,
    paper_name: Option<&str>,
    file: Option<&Path>,
    assignments: &[String],
) -> Result<Table> {
    let file = file.map(read_file).transpose()?;
    let assigned = assignments.iter().map(|text| assignment(text)).collect::<Result<Vec<Table>>>()?;
    let named_mode = assigned.iter().rev().chain(&file).find_map(|t| t.get("mode")?.as_str());
    let mode = named_mode.unwrap_or("quality").to_string();
    let mut preset = parse_preset(info);
    let known = modes(info);
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let Some(Value::Table(mut of_mode)) = preset.remove(&mode) else {
        return Err(Error::unknown("mode", &mode, &known));
    };
    let of_datasets = of_mode.remove("datasets");
    let of_dataset = of_datasets.as_ref().and_then(|all| all.get(paper_name?)?.as_table()).cloned();

    let mut config = (info.defaults)();
    let layers = [Some(of_mode), of_dataset, file].into_iter().flatten().chain(assigned);
    for layer in layers {
        overlay(&mut config, layer, "")?;
    }
    config.insert("mode".into(), Value::String(mode));
    Ok(config)
}

/// A complete configuration with some keys changed.
pub fn with_settings(config: &Table, assignments: &[String]) -> Result<Table> {
    let mut config = config.clone();
    assignments.iter().try_for_each(|text| overlay(&mut config, assignment(text)?, ""))?;
    Ok(config)
}

/// A file of keys, or the `config.toml` of a run, whose table `method` has them.
fn read_file(path: &Path) -> Result<Table> {
    let mut table: Table = read_toml(path, CONFIGURATION)?;
    match table.remove("method") {
        Some(Value::Table(method)) if table.contains_key("run") => Ok(method),
        Some(other) => Ok(Table::from_iter(table.into_iter().chain([("method".to_string(), other)]))),
        None => Ok(table),
    }
}

/// `key=value` or `table.key=value` as a table. A value that is no TOML is a string: `--set loss=ce`.
fn assignment(text: &str) -> Result<Table> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(Error::usage(
            format!("`{text}` is not an assignment"),
            "write --set key=value, e.g. --set dim=128",
        ));
    };
    let (key, value) = (key.trim(), value.trim());
    let value: Value = value.parse().unwrap_or_else(|_| Value::String(value.into()));
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().unwrap_or(key);
    let mut table = Table::from_iter([(last.to_string(), value)]);
    for part in path.into_iter().rev() {
        table = Table::from_iter([(part.to_string(), Value::Table(table))]);
    }
    Ok(table)
}

/// The keys of a table with their values, inner tables as `table.key`.
pub fn flattened(table: &Table) -> Vec<(String, Value)> {
    let entries = table.iter().flat_map(|(key, value)| match value {
        Value::Table(inner) => {
            flattened(inner).into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)).collect()
        }
        value => vec![(key.clone(), value.clone())],
    });
    entries.collect()
}

/// Where two configurations differ: the key with both values, `absent` where there is none.
pub fn differences(ours: &Table, theirs: &Table) -> Vec<(String, String, String)> {
    let tables = [ours, theirs].map(|table| flattened(table).into_iter().collect::<BTreeMap<String, Value>>());
    let keys: BTreeSet<&String> = tables.iter().flat_map(BTreeMap::keys).collect();
    let shown = |table: &BTreeMap<String, Value>, key| table.get(key).map_or("absent".to_string(), Value::to_string);
    let all = keys.into_iter().map(|key| (key.clone(), shown(&tables[0], key), shown(&tables[1], key)));
    all.filter(|(_, ours, theirs)| ours != theirs).collect()
}

fn overlay(config: &mut Table, layer: Table, prefix: &str) -> Result<()> {
    for (key, value) in layer {
        let full = format!("{prefix}{key}");
        if !config.contains_key(&key) {
            let valid: Vec<String> = config.keys().map(|known| format!("{prefix}{known}")).collect();
            return Err(Error::unknown(
                "configuration key",
                &full,
                &valid.iter().map(String::as_str).collect::<Vec<_>>(),
            ));
        }
        match (config.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(layer)) => overlay(inner, layer, &format!("{full}."))?,
            (Some(held), value) => *held = coerce(&full, held, value)?,
            (None, _) => unreachable!("just checked"),
        }
    }
    Ok(())
}

/// Integers are accepted where a float is held; anything else must have the held type.
fn coerce(key: &str, held: &Value, given: Value) -> Result<Value> {
    match (held, given) {
        (Value::Float(_), Value::Integer(n)) => Ok(Value::Float(n as f64)),
        (held, given) if held.same_type(&given) => Ok(given),
        (held, given) => Err(Error::usage(
            format!("`{key}` = {given} is of type {}, {} is wanted", given.type_str(), held.type_str()),
            format!("for example {key}={held}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{METHODS, Sizes, find};

    #[test]
    fn every_preset_of_every_method_builds() {
        for info in METHODS {
            for mode in modes(info) {
                for dataset in [None, Some("Sports"), Some("Toys"), Some("Beauty")] {
                    let config = resolve(info, dataset, None, &[format!("mode={mode}")]).unwrap();
                    (info.build)(&config, Sizes { users: 7, items: 10, ..Sizes::default() }).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_sample_of_one_item_is_refused_by_every_method_that_samples() {
        let sizes = Sizes { users: 7, items: 10, ..Sizes::default() };
        let samples = |info: &&MethodInfo| ["loss", "negatives"].iter().all(|key| (info.defaults)().contains_key(*key));
        let methods: Vec<_> = METHODS.iter().filter(samples).collect();
        assert!(methods.len() >= 3);
        for info in methods {
            let build = |negatives: &str| {
                let settings = ["loss=sampled_softmax", negatives].map(String::from);
                (info.build)(&resolve(info, None, None, &settings).unwrap(), sizes.clone()).map(drop)
            };
            assert!(build("negatives=2").is_ok() && build("negatives=1").is_err(), "{}", info.name);
        }
    }

    /// A variant under its own name shares the code, and with it the cases, of the method that it is a preset of.
    #[test]
    fn the_suites_train_every_method_that_trains() {
        for info in METHODS {
            let method = (info.build)(&(info.defaults)(), Sizes { users: 7, items: 10, ..Sizes::default() }).unwrap();
            let shares = |other: &&MethodInfo| std::ptr::fn_addr_eq(other.build, info.build);
            let covered = METHODS.iter().filter(shares).any(|other| !other.cases.is_empty());
            assert_eq!(covered, method.training().epochs > 0, "{}", info.name);
        }
    }

    #[test]
    fn a_wrong_key_is_refused_with_the_nearest_valid_one() {
        let error = resolve(find("sasrec").unwrap(), None, None, &["learning_rte=0.1".into()]).unwrap_err();
        assert!(error.help().unwrap().contains("did you mean `learning_rate`?"), "{error:?}");
    }

    #[test]
    fn configurations_differ_in_named_keys_with_both_values() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        let (ours, theirs) = (
            table("dim = 64\nx = 1\n[augment]\ncrop = 0.2"),
            table("dim = 128\nx = 1\n[augment]\ncrop = 0.2\nmask = 0.7"),
        );
        let named = |key: &str, ours: &str, theirs: &str| (key.to_string(), ours.to_string(), theirs.to_string());
        assert_eq!(differences(&ours, &theirs), [named("augment.mask", "absent", "0.7"), named("dim", "64", "128")]);
        assert!(differences(&ours, &ours).is_empty());
    }

    #[test]
    fn an_integer_is_accepted_for_a_float_but_a_string_is_not() {
        let sasrec = find("sasrec").unwrap();
        assert!(resolve(sasrec, None, None, &["hidden_dropout=0".into()]).is_ok());
        assert!(resolve(sasrec, None, None, &["hidden_dropout=much".into()]).is_err());
    }
}
