//! The file of a sweep, and the cells it stands for.
//!
//! ```toml
//! method = "lma4rec"
//! dataset = "kuairec"
//! seeds = 3                        # optional: seeds 1 to 3; one if left out
//!
//! [set]                            # optional: keys that all cells share
//! mode = "paper"
//!
//! [grid]                           # every combination of these values, keys in this order ...
//! dim = [32, 64]
//!
//! [[variant]]                      # ... for every variant, if there are any
//! name = "without_ssl"
//! set = { ssl = false }            # optional, and so is `method`
//!
//! [[variant]]
//! name = "ten_more_epochs"
//! start_from = "without_ssl"       # optional: with what this variant learned, seed by seed
//! set = { epochs = 10 }            # 0: the same model, evaluated with other settings
//! ```

use crate::error::{Error, Result};
use crate::files::{TomlKind, read_toml};
use crate::methods::config::flattened;
use serde::Deserialize;
use std::path::Path;
use toml::{Table, Value};

const KIND: TomlKind = TomlKind {
    doing: "read the sweep",
    help: "a sweep is TOML: keys `method` and `dataset`, tables [set], [grid] and [[variant]]; see `gpurec sweep --help`",
};

/// More cells than this are a slip of the pen.
const MOST_CELLS: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepFile {
    method: String,
    pub dataset: String,
    #[serde(default = "one")]
    pub seeds: u16,
    #[serde(default)]
    set: Table,
    #[serde(default)]
    grid: Table,
    #[serde(default)]
    variant: Vec<Variant>,
}

fn one() -> u16 {
    1
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    name: String,
    method: Option<String>,
    start_from: Option<String>,
    #[serde(default)]
    set: Table,
}

/// One configuration to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Of its folder, too.
    pub name: String,
    /// Where it stands on the axis of a figure: its value of the grid's last key in the file, or its variant.
    pub place: String,
    /// Which line of a figure it belongs to: the rest of its name.
    pub line: String,
    pub method: String,
    /// The cell before this one whose runs have the first parameters.
    pub start_from: Option<String>,
    /// Keys that all cells share.
    pub common: Vec<(String, Value)>,
    /// Keys of the grid and of the variant, which win over the shared ones.
    pub own: Vec<(String, Value)>,
}

impl Cell {
    /// As `--set` takes them.
    pub fn assignments(&self) -> Vec<String> {
        self.common.iter().chain(&self.own).map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// `dim=64,loss=ce`.
    pub fn settings(&self) -> String {
        self.own.iter().map(assignment).collect::<Vec<_>>().join(",")
    }
}

impl SweepFile {
    pub fn read(path: &Path) -> Result<SweepFile> {
        let file: SweepFile = read_toml(path, KIND)?;
        let refuse = |problem: &str, help: &str| Err(Error::usage(format!("{}: {problem}", path.display()), help));
        if file.grid.is_empty() && file.variant.is_empty() {
            return refuse("nothing to sweep over", "add a table [grid] or tables [[variant]]");
        }
        if !(1..=1000).contains(&file.seeds) {
            return refuse(&format!("seeds = {}", file.seeds), "seeds is a number from 1 to 1000");
        }
        Ok(file)
    }

    /// What cells' places are values of.
    pub fn axis(&self) -> String {
        flattened(&self.grid).pop().map_or("variant".into(), |(key, _)| key)
    }

    /// Variants in their order, and for each the points of the grid, the last key running fastest.
    pub fn cells(&self) -> Result<Vec<Cell>> {
        let grid = grid_points(&self.grid)?;
        let whole = [Variant::default()];
        let variants = if self.variant.is_empty() { &whole[..] } else { &self.variant };
        let in_grid: Vec<String> = flattened(&self.grid).into_iter().map(|(key, _)| key).collect();
        for variant in variants {
            if let Some((key, _)) = flattened(&variant.set).into_iter().find(|(key, _)| in_grid.contains(key)) {
                let problem = format!("the variant `{}` sets `{key}`, which [grid] runs through", variant.name);
                return Err(Error::usage(problem, "leave the key out of the variant, or write the grid as variants"));
            }
        }
        let mut cells: Vec<Cell> = Vec::new();
        for (variant, point) in variants.iter().flat_map(|variant| grid.iter().map(move |point| (variant, point))) {
            let named = |variant: &str, point: &[(String, Value)]| {
                let parts = [variant.to_string()].into_iter().chain(point.iter().map(assignment));
                parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",")
            };
            let name = named(&variant.name, point);
            let (place, line) = match point.split_last() {
                Some(((_, value), rest)) => (plain(value), named(&variant.name, rest)),
                None => (variant.name.clone(), String::new()),
            };
            refuse_bad_name(&name)?;
            let start_from = variant.start_from.as_ref().map(|variant| named(variant, point));
            if let Some(start) = start_from.as_ref().filter(|start| cells.iter().all(|cell| cell.name != **start)) {
                let problem = format!("`{name}` starts from `{start}`, which is no cell before it");
                return Err(Error::usage(problem, "start_from is the name of a variant further up in the file"));
            }
            if cells.iter().any(|cell| cell.name.eq_ignore_ascii_case(&name)) {
                let problem = format!("two cells are called `{name}`");
                return Err(Error::usage(problem, "give each variant a name and each grid value once"));
            }
            cells.push(Cell {
                name,
                place,
                line,
                method: variant.method.as_ref().unwrap_or(&self.method).clone(),
                start_from,
                common: flattened(&self.set),
                own: point.iter().cloned().chain(flattened(&variant.set)).collect(),
            });
        }
        Ok(cells)
    }
}

/// The cartesian product of the grid's lists; one empty point for an empty grid.
fn grid_points(grid: &Table) -> Result<Vec<Vec<(String, Value)>>> {
    let mut points = vec![Vec::new()];
    for (key, values) in flattened(grid) {
        let values = values.as_array().filter(|values| !values.is_empty()).ok_or_else(|| {
            let problem = format!("`{key}` of [grid] is not a list of values");
            Error::usage(problem, format!("write {key} = [first, second]; a key with one value belongs in [set]"))
        })?;
        if points.len() * values.len() > MOST_CELLS {
            return Err(Error::usage(format!("[grid] has more than {MOST_CELLS} points"), "leave some values out"));
        }
        let with =
            |point: &Vec<(String, Value)>, value: &Value| [point.as_slice(), &[(key.clone(), value.clone())]].concat();
        points = points.iter().flat_map(|point| values.iter().map(|value| with(point, value))).collect();
    }
    Ok(points)
}

fn assignment((key, value): &(String, Value)) -> String {
    format!("{key}={}", plain(value))
}

/// A text without its quotes.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

/// A name is that of a folder, on any system.
fn refuse_bad_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_+=,.".contains(c);
    if !name.is_empty() && name.len() <= 200 && name.chars().all(plain) && !name.starts_with('.') {
        return Ok(());
    }
    let problem = format!("`{name}` cannot be the name of a cell, which is that of a folder");
    Err(Error::usage(problem, "use letters, digits and - _ + = . only, 200 at most, such as without_ssl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str) -> Result<Vec<Cell>> {
        let file: SweepFile = toml::from_str(&format!("method = 'sasrec'\ndataset = 'kuairec'\n{text}")).unwrap();
        file.cells()
    }

    #[test]
    fn a_grid_is_every_combination_of_its_values_in_the_order_of_the_file() {
        let cells = cells("[set]\nmode = 'paper'\n[grid]\nloss = ['ce', 'bce']\ndim = [32, 64]").unwrap();
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).collect();
        assert_eq!(names, ["loss=ce,dim=32", "loss=ce,dim=64", "loss=bce,dim=32", "loss=bce,dim=64"]);
        assert_eq!(cells[1].assignments(), ["mode=\"paper\"", "loss=\"ce\"", "dim=64"]);
        assert_eq!((cells[1].place.as_str(), cells[1].line.as_str()), ("64", "loss=ce"));
    }

    #[test]
    fn variants_meet_every_point_of_the_grid_and_may_name_another_method() {
        let text = "[grid]\naugment.crop_ratio = [0.2]\n[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\n\
                    method = 'lma4rec'\nset = { ssl = false, augment = { mask_ratio = 0.5 } }";
        let cells = cells(text).unwrap();
        assert_eq!(cells[0].name, "a,augment.crop_ratio=0.2");
        assert_eq!((cells[1].method.as_str(), cells[0].method.as_str()), ("lma4rec", "sasrec"));
        assert_eq!(cells[1].settings(), "augment.crop_ratio=0.2,ssl=false,augment.mask_ratio=0.5");
    }

    #[test]
    fn a_variant_starts_from_the_cell_of_its_own_point_of_the_grid() {
        let text = "[grid]\ndim = [8, 16]\n[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\nstart_from = 'a'";
        let starts: Vec<Option<String>> = cells(text).unwrap().into_iter().map(|cell| cell.start_from).collect();
        assert_eq!(starts, [None, None, Some("a,dim=8".into()), Some("a,dim=16".into())]);
    }

    #[test]
    fn cells_need_names_that_folders_can_have() {
        let refused = |text: &str| cells(text).unwrap_err().to_string();
        assert!(refused("[[variant]]\nname = 'w/o SSL'").contains("`w/o SSL`"));
        assert!(refused("[[variant]]\nname = '..'").contains("`..`"));
        assert!(refused("[[variant]]\nname = ''").contains("``"));
        assert!(refused("[[variant]]\nname = 'a'\n[[variant]]\nname = 'A'").contains("two cells"));
        assert!(refused("[grid]\ndim = [8, 8]").contains("two cells"));
        assert!(refused("[grid]\ndim = [8]\n[[variant]]\nname = 'a'\nset = { dim = 9 }").contains("`a` sets `dim`"));
        assert!(refused("[[variant]]\nname = 'a'\nstart_from = 'b'").contains("`a` starts from `b`"));
        assert!(refused("[grid]\ndim = 8").contains("`dim` of [grid]"));
        assert!(refused("[grid]\ndim = []").contains("`dim` of [grid]"));
        let long: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let list = long.join(",");
        assert!(refused(&format!("[grid]\ndim = [{list}]\nheads = [{list}]")).contains("10000"));
    }
}
