//! Checkpoints: safetensors by parameter name, written so that a kill at any moment leaves the old or the new file whole.
//!
//! `latest.safetensors` holds everything that the next step depends on; `best.safetensors` the parameters of the best
//! epoch; `items.json` the user's own item names, so that a checkpoint can be used without its data set.

use crate::engine::params::{ParamLayout, SetState, State};
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where training stands, stored with the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Epochs completed.
    pub epoch: usize,
    /// Steps completed: the counter of random numbers and of Adam's bias correction.
    pub step: u64,
    pub best_epoch: usize,
    /// Validation value of the best epoch.
    pub best_value: f64,
}

/// Names of tensors are `PART/SET/PARAMETER`.
const PARTS: [&str; 3] = ["params", "m", "v"];
const METADATA_KEY: &str = "gpurec";

pub fn latest(folder: &Path) -> PathBuf {
    folder.join("latest.safetensors")
}

pub fn best(folder: &Path) -> PathBuf {
    folder.join("best.safetensors")
}

pub fn items(folder: &Path) -> PathBuf {
    folder.join("items.json")
}

/// Writes a file by way of a temporary one beside it: complete and on disk before it takes the name.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Writes the state; with `optimizer` off the moments are left out.
pub fn save(path: &Path, layout: &ParamLayout, state: &State, progress: &Progress, optimizer: bool) -> Result<()> {
    let mut tensors = Vec::new();
    for (set, content) in layout.sets.iter().zip(&state.sets) {
        for parameter in &set.parameters {
            let parts = PARTS.iter().zip([&content.params, &content.m, &content.v]);
            for (part, flat) in parts.take(if optimizer { 3 } else { 1 }) {
                let bytes: &[u8] = bytemuck::cast_slice(&flat[parameter.range.clone()]);
                let view = TensorView::new(Dtype::F32, parameter.shape.clone(), bytes).expect("shape and range agree");
                tensors.push((format!("{part}/{}/{}", set.name, parameter.name), view));
            }
        }
    }
    let metadata = serde_json::to_string(progress).expect("plain numbers serialise");
    let metadata = HashMap::from([(METADATA_KEY.to_string(), metadata)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).expect("names are unique and sizes fit");
    write_atomically(path, &bytes)
}

/// Reads a state back; moments that the file does not hold are zero.
pub fn load(path: &Path, layout: &ParamLayout) -> Result<(State, Progress)> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read the checkpoint", path, e))?;
    let wrong = |problem: String| Error::Format { path: path.into(), problem };
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(|e| wrong(format!("not a checkpoint: {e}")))?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
    let progress = header.metadata().as_ref().and_then(|m| m.get(METADATA_KEY)).map(|text| serde_json::from_str(text));
    let progress = progress.ok_or_else(|| wrong("not a checkpoint of gpurec: its metadata is missing".into()))?;
    let progress = progress.map_err(|e| wrong(format!("its metadata cannot be read: {e}")))?;
    let mut state = State::default();
    for set in &layout.sets {
        let mut flats = [(); 3].map(|()| vec![0.0f32; set.flat_len()]);
        for parameter in &set.parameters {
            for (part, flat) in PARTS.iter().zip(&mut flats) {
                let name = format!("{part}/{}/{}", set.name, parameter.name);
                match file.tensor(&name) {
                    Ok(view) if view.shape() == parameter.shape && view.dtype() == Dtype::F32 => {
                        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                        flat[parameter.range.clone()].iter_mut().zip(values).for_each(|(x, value)| *x = value);
                    }
                    Ok(view) => {
                        let problem = format!(
                            "{name} has shape {:?}, the configuration wants {:?}",
                            view.shape(),
                            parameter.shape
                        );
                        return Err(wrong(problem));
                    }
                    Err(_) if *part == "params" => return Err(wrong(format!("{name} is missing"))),
                    Err(_) => {}
                }
            }
        }
        let [params, m, v] = flats;
        state.sets.push(SetState { params, m, v });
    }
    Ok((state, progress))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::params::Init;

    #[test]
    fn a_checkpoint_brings_back_every_bit_and_is_the_same_file_twice() {
        let mut layout = ParamLayout::default();
        let set = layout.set_index("model");
        layout.declare(set, "a", &[3, 5], Init::Normal(1.0));
        layout.declare(set, "b", &[7], Init::Uniform(0.5));
        let mut state = layout.initial_state(9);
        state.sets[0].m[2] = f32::MIN_POSITIVE;
        let progress = Progress { epoch: 3, step: 1 << 40, best_epoch: 2, best_value: 0.1 + 0.2 };
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        save(&one, &layout, &state, &progress, true).unwrap();
        save(&two, &layout, &state, &progress, true).unwrap();
        assert_eq!(load(&one, &layout).unwrap(), (state, progress));
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }
}
