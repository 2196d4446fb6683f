//! Every sequential model here ends in "query vector x item table": one scorer serves losses, ranks and top-k lists.

use crate::engine::{Graph, TensorType, ValueId};
use crate::error::Result;
use crate::ops::linear_topk::LinearTopK;
use crate::ops::rank::Rank;

/// Scores of item v: `query . table[v] (+ bias[v])`, for the first `items` rows of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scorer {
    /// `[B, D]`
    pub query: ValueId,
    /// `[V', D]` with `V' >= items`; rows beyond `items` (padding) are never candidates.
    pub table: ValueId,
    /// `[V']`
    pub bias: Option<ValueId>,
    /// V
    pub items: usize,
}

impl Scorer {
    fn inputs(&self, further: &[ValueId]) -> Vec<ValueId> {
        [self.query, self.table].into_iter().chain(self.bias).chain(further.iter().copied()).collect()
    }

    /// Adds the inputs `target[B]`, `seen_offsets[B + 1]`, `seen_items[capacity]` and the outputs `better`,
    /// `better_seen`, `ties` (each `[B]`).
    pub fn rank(&self, graph: &mut Graph, seen_capacity: usize) -> Result<()> {
        let batch = graph.shape(self.query)[0];
        let target = graph.input("target", TensorType::u32(&[batch]));
        let offsets = graph.input("seen_offsets", TensorType::u32(&[batch + 1]));
        let seen = graph.input("seen_items", TensorType::u32(&[seen_capacity]));
        let outputs = graph.add(Rank { items: Some(self.items) }, &self.inputs(&[target, offsets, seen]))?;
        for (name, value) in ["better", "better_seen", "ties"].into_iter().zip(outputs) {
            graph.output(name, value);
        }
        Ok(())
    }

    /// Adds the inputs `seen_offsets`, `seen_items` and the outputs `values[B, k]`, `indices[B, k]`, beside them what they
    /// are made of: `query`, `table` and, where there is one, `bias`.
    pub fn top_k(&self, graph: &mut Graph, k: usize, seen_capacity: usize) -> Result<()> {
        let batch = graph.shape(self.query)[0];
        let offsets = graph.input("seen_offsets", TensorType::u32(&[batch + 1]));
        let seen = graph.input("seen_items", TensorType::u32(&[seen_capacity]));
        let op = LinearTopK { k, items: Some(self.items), exclude: true };
        let outputs = graph.add(op, &self.inputs(&[offsets, seen]))?;
        graph.output("values", outputs[0]);
        graph.output("indices", outputs[1]);
        graph.output("query", self.query);
        graph.output("table", self.table);
        self.bias.iter().for_each(|bias| graph.output("bias", *bias));
        Ok(())
    }
}
