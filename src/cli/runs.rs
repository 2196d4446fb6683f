//! Finished runs, as their folders tell them.

use super::eval::eval_command;
use super::seeds;
use crate::error::{Error, Result};
use crate::files::{CONFIGURATION, read_toml};
use crate::methods::config::differences;
use crate::train::{Basis, DataIdentity, RunResult, UserRanks};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::Table;

/// What a folder tells of one seed.
pub struct FinishedRun {
    folder: PathBuf,
    pub config: Table,
    pub data: DataIdentity,
    pub result: RunResult,
}

/// The folders of the seeds in a folder, or itself.
pub fn of_seeds(folder: &Path) -> Vec<PathBuf> {
    match seeds::folders(folder) {
        several if !several.is_empty() => several.into_iter().map(|(_, folder)| folder).collect(),
        _ => vec![folder.to_owned()],
    }
}

/// The folders in a folder, however deep, that hold a run or seeds, by name: the cells of a sweep, the runs of a project.
/// The folder itself where it holds a run, or where nothing below it does.
pub fn of_cells(folder: &Path) -> Vec<PathBuf> {
    let mut cells = cells_below(folder);
    cells.sort();
    if cells.is_empty() { vec![folder.to_owned()] } else { cells }
}

fn cells_below(folder: &Path) -> Vec<PathBuf> {
    if folder.join("config.toml").exists() || !seeds::folders(folder).is_empty() {
        return vec![folder.to_owned()];
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    // A link may lead back up.
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.flat_map(|entry| cells_below(&entry.path())).collect()
}

/// Whether a run has its result and what it was measured on.
pub fn is_finished(run: &Path) -> bool {
    run.join("result.json").exists() && Basis::file(run).is_some()
}

impl FinishedRun {
    /// Refuses folders without a finished run.
    pub fn read(folder: PathBuf) -> Result<FinishedRun> {
        /// `config.toml`, in part.
        #[derive(Deserialize)]
        struct Config {
            method: Table,
        }
        if !is_finished(&folder) {
            return Err(not_finished(&folder));
        }
        let path = folder.join("result.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let problem = |e: serde_json::Error| Error::Format { path, problem: format!("not the result of a run: {e}") };
        let result = serde_json::from_str(&text).map_err(problem)?;
        let Config { method } = read_toml(&folder.join("config.toml"), CONFIGURATION)?;
        let data = Basis::data(&folder)?.ok_or_else(|| no_ranks(&folder))?;
        Ok(FinishedRun { config: method, data, result, folder })
    }

    /// What the runs of other seeds have in common with it.
    pub fn shared_data(&self) -> DataIdentity {
        self.data.but_for_sessions(self.result.seed)
    }

    /// The first thing in which another run differs beside its seed and the sessions that this draws; it may have been
    /// allowed more epochs.
    fn difference(&self, other: &FinishedRun) -> Option<String> {
        let free = |key: &str| ["epochs", "patience"].contains(&key);
        let key = differences(&self.config, &other.config).into_iter().find(|(key, ..)| !free(key));
        let method = (self.result.method != other.result.method).then(|| "the method".to_string());
        method.or_else(|| self.shared_data().difference(&other.shared_data())).or(key.map(|(key, ..)| key))
    }
}

/// A mean over seeds is one of runs that differ in nothing else.
pub fn refuse_different(runs: &[FinishedRun]) -> Result<()> {
    let Some((first, others)) = runs.split_first() else { return Ok(()) };
    let Some((other, difference)) = others.iter().find_map(|other| Some((other, first.difference(other)?))) else {
        return Ok(());
    };
    let (a, b) = (first.folder.display(), other.folder.display());
    let problem = format!("{a} and {b} are not seeds of one run: they differ in {difference}");
    Err(Error::usage(problem, "name the two folders one by one"))
}

/// Why a folder has no result.
pub fn not_finished(folder: &Path) -> Error {
    if folder.join("result.json").exists() {
        return no_ranks(folder);
    }
    let (problem, help) = match (folder.is_dir(), folder.join("config.toml").exists()) {
        (true, true) => ("holds a run that is not finished", "finish it with `gpurec run ... --resume`"),
        (true, false) => ("holds no finished run", "give the --out folder of `gpurec run` or of `gpurec sweep`"),
        (false, _) if folder.exists() => ("is no folder of a run", "give folders only, such as runs/ablation/*/"),
        (false, _) => ("does not exist", "give the --out folder of `gpurec run`"),
    };
    Error::usage(format!("{} {problem}", folder.display()), help)
}

/// Why a folder has no ranks, and the way to make them.
pub fn no_ranks(run: &Path) -> Error {
    let path = UserRanks::path(run);
    let has = |file: &str| run.join(file).exists();
    let (problem, help) = match (run.is_dir(), has("checkpoint/best.safetensors")) {
        (false, _) => ("does not exist", "give the --out folder of `gpurec run`".into()),
        (true, false) => ("is not the folder of a finished run: it holds no ranks", "finish it with --resume".into()),
        (true, true) => {
            ("holds a model, but no ranks of users", format!("`{}` makes them", eval_command(run, Some(&path))))
        }
    };
    Error::usage(format!("{} {problem}", run.display()), help)
}
