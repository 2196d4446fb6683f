//! A run, or several seeds of one, as its folder tells it.

use crate::cli::compare::no_ranks;
use crate::cli::results::published_rows;
use crate::cli::seeds::{SeedResults, folders};
use crate::data::SplitRule;
use crate::error::{Error, Result};
use crate::eval::Published;
use crate::files::read_toml;
use crate::methods::config::differences;
use crate::methods::{MethodInfo, find};
use crate::train::{Basis, DataIdentity, RunResult};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::Table;

/// One line of the table.
pub struct Entry {
    /// As the user named it.
    pub folder: String,
    pub info: &'static MethodInfo,
    pub data: DataIdentity,
    pub results: SeedResults,
    /// Of its method on its data set, where the split is that of the papers.
    pub published: Vec<Published>,
}

/// What a folder tells of one seed.
struct OneRun {
    folder: PathBuf,
    config: Table,
    data: DataIdentity,
    result: RunResult,
}

/// Refuses folders without a finished run, and seeds of different runs.
pub fn read(folder: &Path) -> Result<Entry> {
    let mut runs: Vec<PathBuf> = folders(folder).into_iter().map(|(_, folder)| folder).collect();
    if runs.is_empty() {
        runs.push(folder.to_owned());
    }
    let runs: Vec<OneRun> = runs.into_iter().map(OneRun::read).collect::<Result<_>>()?;
    let first = &runs[0];
    runs.iter().try_for_each(|run| first.refuse_another(run))?;
    let split: SplitRule = first.data.split.parse()?;
    Ok(Entry {
        folder: folder.display().to_string(),
        info: find(&first.result.method)?,
        published: published_rows(&first.result.method, &first.config, &first.result.dataset, &split),
        data: first.data.clone(),
        results: SeedResults { runs: runs.into_iter().map(|run| run.result).collect() },
    })
}

impl OneRun {
    fn read(folder: PathBuf) -> Result<OneRun> {
        /// `config.toml`, in part.
        #[derive(Deserialize)]
        struct Config {
            method: Table,
        }
        let path = folder.join("result.json");
        if !path.exists() {
            return Err(not_finished(&folder));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let problem = |e: serde_json::Error| Error::Format { path, problem: format!("not the result of a run: {e}") };
        let result = serde_json::from_str(&text).map_err(problem)?;
        let Config { method } = read_toml(&folder.join("config.toml"))?;
        let data = Basis::data(&folder)?.ok_or_else(|| no_ranks(&folder))?;
        Ok(OneRun { config: method, data, result, folder })
    }

    /// A mean over seeds is one of runs that differ in nothing else; they may have been allowed more epochs.
    fn refuse_another(&self, other: &OneRun) -> Result<()> {
        let free = |key: &str| ["epochs", "patience"].contains(&key);
        let key = differences(&self.config, &other.config).into_iter().find(|(key, ..)| !free(key));
        let method = (self.result.method != other.result.method).then(|| "the method".to_string());
        let difference = method.or_else(|| self.data.difference(&other.data)).or(key.map(|(key, ..)| key));
        let Some(difference) = difference else { return Ok(()) };
        let (a, b) = (self.folder.display(), other.folder.display());
        let problem = format!("{a} and {b} are not seeds of one run: they differ in {difference}");
        Err(Error::usage(problem, "name the two folders one by one, as rows of their own"))
    }
}

fn not_finished(folder: &Path) -> Error {
    let (problem, help) = match (folder.is_dir(), folder.join("config.toml").exists()) {
        (true, true) => ("holds a run that is not finished", "finish it with `gpurec run ... --resume`"),
        (true, false) => (
            "holds no finished run",
            "give the --out folder of `gpurec run`; of a sweep give its cells, such as runs/ablation/*/",
        ),
        (false, _) if folder.exists() => ("is no folder of a run", "give folders only, such as runs/ablation/*/"),
        (false, _) => ("does not exist", "give the --out folder of `gpurec run`"),
    };
    Error::usage(format!("{} {problem}", folder.display()), help)
}
