//! The inputs that describe a batch of packed sequences: N rows end to end, S sequences.

use crate::engine::{Graph, TensorType, ValueId};
use crate::error::Result;
use crate::ops::embedding::Embedding;
use crate::ops::segments::segments_len;

/// Graph inputs of one packed batch. Inert rows at the end belong to no sequence and hold no item.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// `[S + 1]`, prefix sums of the sequence lengths.
    pub cu_seqlens: ValueId,
    /// `[N]`, item of each row; `u32::MAX` on inert rows.
    pub items: ValueId,
    /// `[N]`, column in the window of the last `max_len` items.
    pub positions: ValueId,
    /// `[N]`, bit 0: may be attended to; bit 1: attends to its whole sequence. Only where padding is part of the model.
    pub row_flags: Option<ValueId>,
    /// What only training needs.
    pub training: Option<TrainingTokens>,
}

/// What gradients and random numbers need to know of the rows.
#[derive(Clone, Copy, Debug)]
pub struct TrainingTokens {
    /// Rows grouped by item, for the gradient of the item table.
    pub item_segments: ValueId,
    /// Rows grouped by position, for the gradient of the position table.
    pub position_segments: ValueId,
    /// `[4]`, seed and step.
    pub rng: ValueId,
    /// `[N, 2]`, logical sequence and position: what random numbers are counted by.
    pub row_keys: ValueId,
}

/// Rows of a table to gather.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    /// `u32::MAX` gathers zeros.
    pub ids: ValueId,
    /// The ids grouped, for the gradient of the table; none where it has none.
    pub segments: Option<ValueId>,
}

impl Ids {
    /// Adds the input `name`, and `name_segments` where the table is `differentiated`.
    pub fn declare(graph: &mut Graph, name: &str, shape: &[usize], differentiated: bool) -> Ids {
        let ids = graph.input(name, TensorType::u32(shape));
        let groups = TensorType::u32(&[segments_len(shape.iter().product())]);
        Ids { ids, segments: differentiated.then(|| graph.input(&format!("{name}_segments"), groups)) }
    }

    /// The rows of `table`.
    pub fn gather(self, graph: &mut Graph, table: ValueId) -> Result<ValueId> {
        graph.add1(Embedding { padding_idx: None }, &self.behind(&[table]))
    }

    /// The inputs of an op that takes ids and segments last.
    pub fn behind(self, inputs: &[ValueId]) -> Vec<ValueId> {
        inputs.iter().copied().chain([self.ids]).chain(self.segments).collect()
    }
}

/// What the random numbers of rows are drawn from and counted by: `rng[4]`, `row_keys[N, 2]`. None where none are drawn.
pub type Random = Option<[ValueId; 2]>;

/// Rows that attend to each other.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// `[S + 1]`
    pub cu_seqlens: ValueId,
    /// As in `Tokens`.
    pub row_flags: Option<ValueId>,
    /// A row attends to itself and to what comes before it.
    pub causal: bool,
    /// Of training graphs.
    pub random: Random,
}

impl Tokens {
    /// The rows, as attention sees them.
    pub fn rows(&self, causal: bool) -> Rows {
        Rows { cu_seqlens: self.cu_seqlens, row_flags: self.row_flags, causal, random: self.random() }
    }

    /// What random numbers of rows are drawn by.
    pub fn random(&self) -> Random {
        self.training.map(|training| [training.rng, training.row_keys])
    }

    /// The items of the rows.
    pub fn item_ids(&self) -> Ids {
        Ids { ids: self.items, segments: self.training.map(|training| training.item_segments) }
    }

    /// The positions of the rows.
    pub fn position_ids(&self) -> Ids {
        Ids { ids: self.positions, segments: self.training.map(|training| training.position_segments) }
    }

    /// Inputs of a batch that is only read.
    pub fn for_scoring(graph: &mut Graph, sequences: usize, rows: usize) -> Tokens {
        Tokens::named(graph, "", sequences, rows, false)
    }

    /// Inputs of a training batch.
    pub fn for_training(graph: &mut Graph, sequences: usize, rows: usize) -> Tokens {
        Tokens::named(graph, "", sequences, rows, true)
    }

    /// Inputs under names that begin so, for graphs that read several batches. They share `rng`.
    pub fn named(graph: &mut Graph, prefix: &str, sequences: usize, rows: usize, training: bool) -> Tokens {
        let mut input = |name: &str, shape: &[usize]| graph.input(&format!("{prefix}{name}"), TensorType::u32(shape));
        let (cu_seqlens, items) = (input("cu_seqlens", &[sequences + 1]), input("items", &[rows]));
        let positions = input("positions", &[rows]);
        let mut segments = |name: &str| input(name, &[segments_len(rows)]);
        let segments = training.then(|| [segments("item_segments"), segments("position_segments")]);
        let training = segments.map(|[item_segments, position_segments]| TrainingTokens {
            item_segments,
            position_segments,
            row_keys: graph.input(&format!("{prefix}row_keys"), TensorType::u32(&[rows, 2])),
            rng: graph.input_once("rng", TensorType::u32(&[4])),
        });
        Tokens { cu_seqlens, items, positions, row_flags: None, training }
    }

    /// `[S, D]`: the hidden state of each sequence's last row (zeros for an empty sequence). Adds the input `last_rows`.
    pub fn last_of_each_sequence(&self, graph: &mut Graph, hidden: ValueId) -> Result<ValueId> {
        let sequences = graph.shape(self.cu_seqlens)[0] - 1;
        let rows = graph.input("last_rows", TensorType::u32(&[sequences]));
        graph.add1(Embedding { padding_idx: None }, &[hidden, rows])
    }

    /// `[S]`: the user of each sequence, for models that have learned something about every user. Adds the input `users`.
    pub fn users(&self, graph: &mut Graph) -> ValueId {
        let sequences = graph.shape(self.cu_seqlens)[0] - 1;
        graph.input("users", TensorType::u32(&[sequences]))
    }
}
