//! Stages: the trainings that come before a method's own, and what a student learns from those who were trained.

use crate::data::matrix::Matrix;
use crate::data::sample::Prefixes;
use crate::engine::Tensor;
use std::sync::Arc;
use toml::Table;

/// A run of its own, with its folder, its checkpoints and its result, before a method trains.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The folder below that of the whole run.
    pub name: String,
    /// The method, by name.
    pub method: String,
    /// Its complete configuration.
    pub config: Table,
    /// The earlier stage whose trained parameters are its initial ones, as far as they have the same names.
    pub starts_from: Option<String>,
    /// Whether the method learns from it, or other stages alone do.
    pub teaches: bool,
}

/// What somebody trained knows: for each prefix of the training sequences a query, and the items it is scored against.
#[derive(Clone, Debug)]
pub struct Teacher {
    /// What it is called.
    pub name: String,
    /// `[V, D]`
    pub table: Tensor,
    /// `[V]`
    pub bias: Tensor,
    /// `[P, D]`, in the order of `Prefixes`.
    pub queries: Arc<Matrix>,
}

impl Teacher {
    /// The columns of its vectors.
    pub fn dim(&self) -> usize {
        self.table.ty.width()
    }

    /// The query after the first `len` items of a user's training sequence.
    pub fn query(&self, prefixes: &Prefixes, user: u32, len: u32) -> &[f32] {
        self.queries.row(prefixes.number(user, len) as usize)
    }
}
