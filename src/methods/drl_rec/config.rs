//! What can be set of DRL-Rec.

use crate::error::{Error, Result};
use crate::methods::Training;
use crate::nn::QForm;
use crate::settings;
use serde::{Deserialize, Serialize};

/// Which network's values are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    /// The small one.
    Student,
    /// The large one.
    Teacher,
}

/// What the value of what comes next is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// That of the item that was shown.
    Logged,
    /// That of the best by the network itself (double Q-learning) of what the list shows from there on and of what is explored
    /// there.
    DdqnCandidates,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DrlRecConfig {
    /// The preset's table.
    pub mode: String,
    /// Whose values rank.
    pub serve: Serve,
    /// Columns of the teacher's vectors.
    pub teacher_dim: usize,
    /// Columns of the student's.
    pub dim: usize,
    /// What a click further down counts.
    pub gamma: f64,
    /// Which item's value stands for what comes next.
    pub target: Target,
    /// What a value is made of.
    pub q_form: QForm,
    /// Whether fields attend to each other.
    pub attention: bool,
    /// Whether a GRU walks down the list; else the state is the mean of its steps.
    pub recurrent: bool,
    /// In all layers.
    pub dropout: f64,
    /// Standard deviation of the initial vectors.
    pub init_std: f64,
    /// Part of the way that targets go, and after how many batches.
    pub sync_rate: f64,
    /// Batches between two syncs.
    pub sync_every: u64,
    /// What the student's own loss counts.
    pub student_weight: f64,
    /// What the divergence of lists counts; 0 leaves it out.
    pub kl_weight: f64,
    /// What the hint counts; 0 leaves it out.
    pub hint_weight: f64,
    /// What the teacher's values are divided by.
    pub temperature: f64,
    /// Whether lessons count by the teacher's confidence, or all alike.
    pub confidence: bool,
    /// Whether the student learns from items that were not shown.
    pub explore: bool,
    /// Candidates of an explored position.
    pub candidates: usize,
    /// Of them the best so many by either network.
    pub kept: usize,
    /// Adam's, for explored items.
    pub explore_learning_rate: f64,
    /// How long and how fast to train; a batch is so many lists.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for DrlRecConfig {
    fn default() -> Self {
        DrlRecConfig {
            mode: String::new(),
            serve: Serve::Student,
            teacher_dim: 16,
            dim: 8,
            gamma: 0.4,
            target: Target::Logged,
            q_form: QForm::Paper,
            attention: true,
            recurrent: true,
            dropout: 0.3,
            init_std: 0.1,
            sync_rate: 0.005,
            sync_every: 10,
            student_weight: 0.5,
            kl_weight: 0.25,
            hint_weight: 0.25,
            temperature: 10.0,
            confidence: true,
            explore: true,
            candidates: 100,
            kept: 3,
            explore_learning_rate: 1e-4,
            training: Training { learning_rate: 2e-4, clip_norm: 5.0, select_by: "auc".into(), ..Training::default() },
        }
    }
}

impl DrlRecConfig {
    /// Refuses settings that cannot train.
    pub fn validate(&self) -> Result<()> {
        self.training.validate()?;
        settings::at_least_one(&[
            ("teacher_dim", self.teacher_dim),
            ("dim", self.dim),
            ("kept", self.kept),
            ("sync_every", self.sync_every as usize),
        ])?;
        settings::rates(&[("dropout", self.dropout)])?;
        settings::shares(&[("gamma", self.gamma), ("sync_rate", self.sync_rate)])?;
        settings::positive(&[("temperature", self.temperature)])?;
        let weights = [
            ("student_weight", self.student_weight),
            ("kl_weight", self.kl_weight),
            ("hint_weight", self.hint_weight),
            ("init_std", self.init_std),
        ];
        settings::not_negative(&weights)?;
        if self.candidates < self.kept {
            let problem = format!("of {} candidates {} cannot be kept", self.candidates, self.kept);
            return Err(Error::usage(problem, "set candidates to at least kept"));
        }
        if self.q_form == QForm::Inline && self.explore && !self.recurrent {
            let problem = "without a GRU the inline form cannot tell what another item would have been worth";
            return Err(Error::usage(problem, "set q_form=paper, recurrent=true or explore=false"));
        }
        Ok(())
    }
}
