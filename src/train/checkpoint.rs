//! Checkpoints: safetensors by parameter name, written so that a kill at any moment leaves the old or the new file whole.
//!
//! `latest.safetensors` holds everything that the next step depends on; `best.safetensors` the parameters of the best
//! epoch, and is all that evaluation and recommendation need. Tensors are called `PART/SET/PARAMETER`, with the parts
//! `params`, `m` and `v` (Adam's moments); `items` holds the user's own item names, in order of their indices, as UTF-8
//! with a line feed between two; `epoch_start/PARAMETER` what the sampler read at the start of an epoch that was interrupted.
//! The metadata, JSON under the key `gpurec`, says whose checkpoint it is and where
//! training stands.

use super::identity::{FORMAT, Identity, METADATA_KEY};
use crate::engine::params::{ParamLayout, SetState, State};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
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

const PARTS: [&str; 3] = ["params", "m", "v"];
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

/// Writes the state; with `optimizer` off the moments are left out.
pub fn save(
    path: &Path,
    header: &Header,
    layout: &ParamLayout,
    state: &State,
    progress: &Progress,
    optimizer: bool,
) -> Result<()> {
    let mut tensors = Vec::new();
    let names = header.items.join("\n");
    tensors.push((ITEMS.to_string(), TensorView::new(Dtype::U8, vec![names.len()], names.as_bytes()).expect("bytes")));
    for (set, content) in layout.sets.iter().zip(&state.sets).filter(|(set, _)| !set.is_frozen()) {
        for parameter in &set.parameters {
            let parts = PARTS.iter().zip([&content.params, &content.m, &content.v]);
            for (part, flat) in parts.take(if optimizer { 3 } else { 1 }) {
                let bytes: &[u8] = bytemuck::cast_slice(&flat[parameter.range.clone()]);
                let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes).expect("shape and range agree");
                tensors.push((format!("{part}/{}/{}", set.name, parameter.name), view));
            }
        }
    }
    for (name, values) in &progress.partial.read {
        let view =
            TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values)).expect("four bytes each");
        tensors.push((format!("{EPOCH_START}{name}"), view));
    }
    let metadata = Metadata { identity: header.identity.clone(), progress: progress.clone() };
    let metadata = serde_json::to_string(&metadata).expect("plain values serialise");
    let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).expect("names are unique and sizes fit");
    write_atomically(path, &bytes)
}

/// A checkpoint file in memory.
pub struct Checkpoint {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Whose it is.
    pub header: Header,
    /// Where training stands.
    pub progress: Progress,
}

impl Checkpoint {
    /// Reads and checks a file. `Error::Format` says what is wrong with it.
    pub fn read(path: &Path) -> Result<Checkpoint> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read the checkpoint", path, e))?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a checkpoint: {e}")))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA_KEY));
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
        for (name, view) in file.tensors() {
            if let (Some(name), Dtype::F32) = (name.strip_prefix(EPOCH_START), view.dtype()) {
                progress.partial.read.insert(name.into(), numbers(view.data()).collect());
            }
        }
        let items = file.tensor(ITEMS).map_err(|_| wrong("its item names are missing".into()))?;
        let items = std::str::from_utf8(items.data()).map_err(|_| wrong("its item names are not UTF-8".into()))?;
        let items: Vec<String> = items.split('\n').map(String::from).collect();
        if items.len() != identity.data.items {
            return Err(wrong(format!("it names {} items, its data had {}", items.len(), identity.data.items)));
        }
        let header = Header { identity, items };
        Ok(Checkpoint { path: path.into(), bytes, header, progress })
    }

    /// Shape and values of one parameter; `None` if the file has none of this name.
    pub fn parameter(&self, set: &str, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let wrong = |problem: String| Error::Format { path: self.path.clone(), problem };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        let Ok(view) = file.tensor(&format!("{}/{set}/{name}", PARTS[0])) else { return Ok(None) };
        if view.dtype() != Dtype::F32 {
            return Err(wrong(format!("{set}/{name} is {:?}, not F32", view.dtype())));
        }
        Ok(Some((view.shape().to_vec(), numbers(view.data()).collect())))
    }

    /// The state in a layout; moments that the file does not hold are zero.
    pub fn state(&self, layout: &ParamLayout) -> Result<State> {
        let wrong = |problem: String| Error::Format { path: self.path.clone(), problem };
        let file = SafeTensors::deserialize(&self.bytes).map_err(|e| wrong(e.to_string()))?;
        let mut state = State::default();
        for set in &layout.sets {
            if set.is_frozen() {
                state.sets.push(SetState::default());
                continue;
            }
            let mut flats = [(); 3].map(|()| vec![0.0f32; set.flat_len()]);
            for parameter in &set.parameters {
                for (part, flat) in PARTS.iter().zip(&mut flats) {
                    let name = format!("{part}/{}/{}", set.name, parameter.name);
                    let view = match file.tensor(&name) {
                        Ok(view) => view,
                        Err(_) if *part == "params" => return Err(wrong(format!("{name} is missing"))),
                        Err(_) => continue,
                    };
                    if view.shape() != parameter.shape || view.dtype() != Dtype::F32 {
                        let (held, wanted) = (view.shape(), &parameter.shape);
                        return Err(wrong(format!("{name} has shape {held:?}, the configuration wants {wanted:?}")));
                    }
                    flat[parameter.range.clone()]
                        .iter_mut()
                        .zip(numbers(view.data()))
                        .for_each(|(x, value)| *x = value);
                    // A second moment may have overflowed: then its parameter stands still, which is no damage.
                    let refused = |x: &f32| if *part == "v" { x.is_nan() } else { !x.is_finite() };
                    if flat[parameter.range.clone()].iter().any(refused) {
                        return Err(wrong(format!("{name} holds a number that is not finite")));
                    }
                }
            }
            let [params, m, v] = flats;
            state.sets.push(SetState { params, m, v });
        }
        Ok(state)
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Interactions, ReadOptions};
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
        let state = layout.initial_state(9);
        (layout, state)
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
        save(&one, &header(), &layout, &state, &progress, true).unwrap();
        save(&two, &header(), &layout, &state, &progress, true).unwrap();
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
            save(&path, header, &layout, state, &Progress::default(), false).unwrap();
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
