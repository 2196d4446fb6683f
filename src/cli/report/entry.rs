//! The lines of a report: runs, and several seeds of one, as their folders tell them.

use crate::cli::console::note;
use crate::cli::results::published_rows;
use crate::cli::runs::{FinishedRun, is_finished, not_finished, of_cells, of_seeds, refuse_different};
use crate::cli::seeds::SeedResults;
use crate::data::SplitRule;
use crate::error::Result;
use crate::eval::Published;
use crate::methods::{MethodInfo, find};
use crate::train::DataIdentity;
use std::path::{Path, PathBuf};

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

/// Of runs, of several seeds, and of sweeps, whose cells are entries. What is not finished is left out and told on stderr;
/// refused: folders that do not exist, seeds of different runs, and when nothing is finished.
pub fn read(folders: &[PathBuf]) -> Result<Vec<Entry>> {
    let (mut entries, mut left_out) = (Vec::new(), Vec::new());
    for folder in folders.iter().flat_map(|folder| of_cells(folder)) {
        let (finished, others): (Vec<PathBuf>, Vec<PathBuf>) =
            of_seeds(&folder).into_iter().partition(|run| is_finished(run));
        if !folder.exists() {
            return Err(not_finished(&folder));
        }
        left_out.extend(others.iter().map(|run| not_finished(run)));
        if !finished.is_empty() {
            entries.push(Entry::of(&folder, finished)?);
        }
    }
    if entries.is_empty() {
        return Err(left_out.swap_remove(0));
    }
    left_out.iter().for_each(|reason| note(format!("left out: {reason}")));
    Ok(entries)
}

impl Entry {
    /// Of the finished runs in a folder, which must be seeds of one.
    fn of(folder: &Path, runs: Vec<PathBuf>) -> Result<Entry> {
        let runs: Vec<FinishedRun> = runs.into_iter().map(FinishedRun::read).collect::<Result<_>>()?;
        refuse_different(&runs)?;
        let first = &runs[0];
        let split: SplitRule = first.data.split.parse()?;
        Ok(Entry {
            folder: folder.display().to_string(),
            info: find(&first.result.method)?,
            published: published_rows(&first.result.method, &first.config, &first.result.dataset, &split),
            data: if runs.len() > 1 { first.shared_data() } else { first.data.clone() },
            results: SeedResults { runs: runs.into_iter().map(|run| run.result).collect() },
        })
    }
}
