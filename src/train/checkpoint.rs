//! Checkpoints: safetensors by parameter name, written so that a kill at any moment leaves the old or the new file whole.
//!
//! `latest.safetensors` holds everything that the next step depends on; `best.safetensors` the parameters of the best
//! epoch, and is all that evaluation and recommendation need. Tensors are called `PART/SET/PARAMETER`, with the parts
//! `params`, `m` and `v` (Adam's moments); `items` holds the user's own item names, in order of their indices, as UTF-8
//! with a line feed between two; `epoch_start/PARAMETER` what the sampler read at the start of an epoch that was interrupted.
//! The metadata, JSON under the key `gpurec`, says whose checkpoint it is and where
//! training stands.

use super::identity::{FORMAT, Identity, METADATA_KEY};
use crate::engine::Executor;
use crate::engine::graph::Flat;
use crate::engine::params::{Contents, ParamLayout, ParamSet, Parameter, State};
use crate::error::{Error, Result};
use crate::files::tensors::{TensorReader, TensorWriter};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Where training stands, stored with the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs completed.
    pub epoch: usize,
    /// Steps completed: the counter of random numbers.
    pub step: u64,
    /// Updates of each optimizer, by name: the counter of Adam's bias correction.
    pub updates: BTreeMap<String, u64>,
    /// 0 before the first epoch is completed.
    pub best_epoch: usize,
    /// Validation value of the best epoch.
    pub best_value: f64,
    /// Of an epoch that was interrupted; empty between epochs.
    #[serde(default)]
    pub partial: PartialEpoch,
}

/// The part of an epoch that is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PartialEpoch {
    /// Batches used: where the loader goes on.
    pub batches: usize,
    /// Each metric with its sum over these steps and the number of steps that had it.
    pub sums: Vec<(String, f64, u64)>,
    /// Rows that belonged to a sequence.
    pub tokens: usize,
    /// Spent on these steps, in all processes.
    pub seconds: f64,
    /// Parameters that the sampler read before the first batch, by name.
    #[serde(skip)]
    pub read: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    identity: Identity,
    progress: Progress,
}

/// What tensors are called by what they hold.
const PARTS: [(&str, Flat); 3] = [("params", Flat::Params), ("m", Flat::FirstMoment), ("v", Flat::SecondMoment)];
const ITEMS: &str = "items";
const EPOCH_START: &str = "epoch_start/";

/// Where training goes on from.
pub fn latest(folder: &Path) -> PathBuf {
    folder.join("latest.safetensors")
}

/// The parameters of the best epoch.
pub fn best(folder: &Path) -> PathBuf {
    folder.join("best.safetensors")
}

/// The best parameters by a checkpoint file, the folder of a run, or its `checkpoint` folder.
pub fn find_best(path: &Path) -> Option<PathBuf> {
    let places = [path.to_owned(), best(path), best(&path.join("checkpoint"))];
    places.into_iter().find(|place| place.is_file())
}

/// What a checkpoint holds beside the state.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// Whose it is.
    pub identity: Identity,
    /// Names of the items, by index.
    pub items: Vec<String>,
}

/// Writes what the executor holds, one flat buffer after the other; with `optimizer` off the moments are left out.
pub fn save(
    path: &Path,
    header: &Header,
    executor: &mut dyn Executor,
    progress: &Progress,
    optimizer: bool,
) -> Result<()> {
    let layout = executor.layout().clone();
    let sets: Vec<(usize, &ParamSet)> = layout.sets.iter().enumerate().filter(|(_, set)| !set.is_frozen()).collect();
    let parts = &PARTS[..if optimizer { PARTS.len() } else { 1 }];
    let mut tensors: Vec<(String, Dtype, Vec<usize>)> = Vec::new();
    for (part, _) in parts {
        for (_, set) in &sets {
            let named = |p: &Parameter| (format!("{part}/{}/{}", set.name, p.name), Dtype::F32, p.shape.clone());
            tensors.extend(set.parameters.iter().map(named));
        }
    }
    let read = &progress.partial.read;
    tensors.extend(read.iter().map(|(name, values)| (format!("{EPOCH_START}{name}"), Dtype::F32, vec![values.len()])));
    let items = header.items.join("\n");
    tensors.push((ITEMS.to_string(), Dtype::U8, vec![items.len()]));
    let metadata = Metadata { identity: header.identity.clone(), progress: progress.clone() };
    let metadata = serde_json::to_string(&metadata).expect("plain values serialise");
    let mut file = TensorWriter::create(path, HashMap::from([(METADATA_KEY.to_string(), metadata)]), tensors)?;
    for (_, flat) in parts {
        for (index, set) in sets.iter().filter(|(_, set)| !set.parameters.is_empty()) {
            let words = executor.read(*index, *flat)?;
            set.parameters.iter().try_for_each(|p| file.put(bytemuck::cast_slice(&words[p.range.clone()])))?;
        }
    }
    read.values().try_for_each(|values| file.put(bytemuck::cast_slice(values)))?;
    file.put(items.as_bytes())?;
    file.finish()
}

/// A checkpoint file that is open; its tensors are read when they are asked for.
pub struct Checkpoint {
    file: TensorReader,
    /// Whose it is.
    pub header: Header,
    /// Where training stands.
    pub progress: Progress,
}

impl Checkpoint {
    /// Reads and checks a file but for its parameters. `Error::Format` says what is wrong with it.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let file = TensorReader::open(path, "checkpoint")?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let text = file.metadata(METADATA_KEY);
        let text = text.ok_or_else(|| wrong("not a checkpoint of gpurec: its metadata is missing".into()))?;
        let unreadable = |e: serde_json::Error| wrong(format!("its metadata cannot be read: {e}"));
        let value: serde_json::Value = serde_json::from_str(text).map_err(unreadable)?;
        match value.pointer("/identity/format").and_then(serde_json::Value::as_u64) {
            Some(format) if format == u64::from(FORMAT) => {}
            other => {
                let theirs = other.map_or("unknown".into(), |format| format.to_string());
                let problem =
                    format!("as a checkpoint its format is {theirs}, this version of gpurec reads format {FORMAT}");
                return Err(wrong(problem));
            }
        }
        let Metadata { identity, mut progress } = serde_json::from_value(value).map_err(unreadable)?;
        for name in file.names() {
            if let Some(own) = name.strip_prefix(EPOCH_START) {
                let values = numbers(&file, &name)?.map_or_else(Vec::new, |(_, values)| values);
                progress.partial.read.insert(own.into(), values);
            }
        }
        let items = file.bytes(ITEMS)?.ok_or_else(|| wrong("its item names are missing".into()))?;
        let items = std::str::from_utf8(&items).map_err(|_| wrong("its item names are not UTF-8".into()))?;
        let items: Vec<String> = items.split('\n').map(String::from).collect();
        if items.len() != identity.data.items {
            return Err(wrong(format!("it names {} items, its data had {}", items.len(), identity.data.items)));
        }
        Ok(Checkpoint { file, header: Header { identity, items }, progress })
    }

    /// Shape and values of one parameter; `None` if the file has none of this name.
    pub fn parameter(&self, set: &str, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        numbers(&self.file, &format!("{}/{set}/{name}", PARTS[0].0))
    }

    /// What an executor with this layout is to hold. Moments that the file does not have are none.
    pub fn contents<'c>(&'c self, layout: &'c ParamLayout) -> impl Contents + 'c {
        Parameters { file: &self.file, layout }
    }

    /// The state in a layout.
    pub fn state(&self, layout: &ParamLayout) -> Result<State> {
        let contents = self.contents(layout);
        State::read(layout, |set, flat| Ok(contents.flat(set, flat)?.map_or_else(Vec::new, Cow::into_owned)))
    }
}

/// The parameters and moments of a file, by a layout.
struct Parameters<'c> {
    file: &'c TensorReader,
    layout: &'c ParamLayout,
}

impl Contents for Parameters<'_> {
    fn flat(&self, set: usize, flat: Flat) -> Result<Option<Cow<'_, [f32]>>> {
        let set = &self.layout.sets[set];
        let Some((part, _)) = PARTS.iter().find(|(_, own)| *own == flat).filter(|_| !set.is_frozen()) else {
            return Ok(None);
        };
        let wrong = |problem: String| Error::Format { path: self.file.path().into(), problem };
        let name = |parameter: &Parameter| format!("{part}/{}/{}", set.name, parameter.name);
        if flat != Flat::Params && set.parameters.iter().all(|own| self.file.info(&name(own)).is_none()) {
            return Ok(None);
        }
        let mut words = vec![0.0f32; set.flat_len()];
        for parameter in &set.parameters {
            let name = name(parameter);
            let info = self.file.info(&name).ok_or_else(|| wrong(format!("{name} is missing")))?;
            if info.shape != parameter.shape || info.dtype != Dtype::F32 {
                let (held, wanted) = (&info.shape, &parameter.shape);
                return Err(wrong(format!("{name} has shape {held:?}, the configuration wants {wanted:?}")));
            }
            let own = &mut words[parameter.range.clone()];
            self.file.read(info, bytemuck::cast_slice_mut(own))?;
            // A second moment may have overflowed: then its parameter stands still, which is no damage.
            let refused = |x: &f32| if flat == Flat::SecondMoment { x.is_nan() } else { !x.is_finite() };
            if own.iter().any(refused) {
                return Err(wrong(format!("{name} holds a number that is not finite")));
            }
        }
        Ok(Some(words.into()))
    }
}

/// Shape and values of a tensor; `None` if there is none of this name.
fn numbers(file: &TensorReader, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
    let Some(info) = file.info(name) else { return Ok(None) };
    if info.dtype != Dtype::F32 {
        let problem = format!("{name} is {:?}, not F32", info.dtype);
        return Err(Error::Format { path: file.path().into(), problem });
    }
    let mut values = vec![0.0f32; info.shape.iter().product()];
    file.read(info, bytemuck::cast_slice_mut(&mut values))?;
    Ok(Some((info.shape.clone(), values)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Interactions, ReadOptions};
    use crate::engine::exec::DeviceChoice;
    use crate::engine::params::Init;
    use crate::train::identity::DataIdentity;

    fn header() -> Header {
        let data = Interactions::from_sequences("toy", &[vec![1, 2, 3]]);
        let identity = Identity {
            format: FORMAT,
            version: "1".into(),
            method: "sasrec".into(),
            config: "dim = 3".parse().unwrap(),
            seed: 1,
            data: DataIdentity::new("toy", &ReadOptions::default(), &data),
            models: Vec::new(),
        };
        Header { identity, items: ["red cup", "\u{e9}", "3"].map(String::from).into() }
    }

    fn layout_and_state() -> (ParamLayout, State) {
        let mut layout = ParamLayout::default();
        let set = layout.set_index("model");
        layout.declare(set, "a", &[3, 5], Init::Normal(1.0));
        layout.declare(set, "b", &[7], Init::Uniform(0.5));
        let mut state = layout.initial_state(9);
        let own = &mut state.sets[0];
        (own.m, own.v) = (vec![0.0; own.params.len()], vec![0.0; own.params.len()]);
        (layout, state)
    }

    fn loaded(layout: &ParamLayout, state: &State) -> Box<dyn Executor> {
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        executor.load(layout, state).unwrap();
        executor
    }

    #[test]
    fn a_checkpoint_brings_back_every_bit_and_is_the_same_file_twice() {
        let (layout, mut state) = layout_and_state();
        state.sets[0].m[2] = f32::MIN_POSITIVE;
        let read = BTreeMap::from([("item_table".to_string(), vec![0.1, -0.0])]);
        let sums = vec![("loss".into(), 0.1 + 0.2, 3), ("part".into(), 1.0 / 3.0, 1)];
        let partial = PartialEpoch { batches: 3, sums, tokens: 7, seconds: 1.5, read };
        let updates = BTreeMap::from([("model".into(), 1 << 39)]);
        let progress = Progress { epoch: 3, step: 1 << 40, updates, best_epoch: 2, best_value: 0.1 + 0.2, partial };
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let mut executor = loaded(&layout, &state);
        save(&one, &header(), executor.as_mut(), &progress, true).unwrap();
        save(&two, &header(), executor.as_mut(), &progress, true).unwrap();
        let read = Checkpoint::read(&one).unwrap();
        assert_eq!((&read.header, &read.progress), (&header(), &progress));
        assert_eq!(read.state(&layout).unwrap(), state);
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }

    #[test]
    fn damage_is_named() {
        let (layout, mut state) = layout_and_state();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let complaint = |header: &Header, state: &State| {
            save(&path, header, loaded(&layout, state).as_mut(), &Progress::default(), false).unwrap();
            let read = Checkpoint::read(&path).and_then(|checkpoint| checkpoint.state(&layout));
            read.expect_err("refused").to_string()
        };
        state.sets[0].params[4] = f32::NAN;
        assert!(complaint(&header(), &state).ends_with("params/model/a holds a number that is not finite"));
        let mut newer = header();
        newer.identity.format = FORMAT + 1;
        assert!(
            complaint(&newer, &state)
                .ends_with("as a checkpoint its format is 4, this version of gpurec reads format 3")
        );
        let fewer = Header { items: vec!["1".into()], ..header() };
        assert!(complaint(&fewer, &state).ends_with("it names 1 items, its data had 3"));
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Checkpoint::read(&path).is_err_and(|e| e.to_string().contains("not a checkpoint")), "{length}");
        }
    }
}
