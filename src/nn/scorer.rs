//! Every sequential model here ends in "query vector x item table": one scorer serves losses, ranks and top-k lists.

use super::Ids;
use crate::engine::{Graph, TensorType, ValueId};
use crate::error::Result;
use crate::ops::add::Add;
use crate::ops::linear_topk::{ExcludeSeen, LinearTopK, TopK};
use crate::ops::rank::{Rank, RankOfScores};
use crate::ops::reshape::Reshape;
use crate::ops::row_dot::RowDot;
use crate::ops::softmax_mixture::SoftmaxMixture;

/// Scores of item v: `query . table[v] (+ bias[v])`, for the first `items` rows of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scorer {
    /// `[B, D]`, or `[B * S, D]`: the samples of a request next to each other.
    pub query: ValueId,
    /// `[V', D]` with `V' >= items`; rows beyond `items` (padding) are never candidates.
    pub table: ValueId,
    /// `[V']`
    pub bias: Option<ValueId>,
    /// V
    pub items: usize,
    /// S. Above 1 an item's score is its mean probability over the samples.
    pub samples: usize,
}

impl Scorer {
    fn inputs(&self, further: &[ValueId]) -> Vec<ValueId> {
        [self.query, self.table].into_iter().chain(self.bias).chain(further.iter().copied()).collect()
    }

    fn requests(&self, graph: &Graph) -> usize {
        graph.shape(self.query)[0] / self.samples
    }

    /// The mean probabilities `[B, V]` where there are several samples.
    fn probabilities(&self, graph: &mut Graph) -> Result<Option<ValueId>> {
        let op = SoftmaxMixture { samples: self.samples, items: Some(self.items) };
        (self.samples > 1).then(|| graph.add1(op, &self.inputs(&[]))).transpose()
    }

    /// Adds the inputs `target[B]`, `seen_offsets[B + 1]`, `seen_items[capacity]` and the outputs `better`,
    /// `better_seen`, `ties` (each `[B]`), and `query`.
    ///
    /// With `sampled_capacity` also `sampled_offsets[B + 1]`, `sampled_items[sampled_capacity]` and the output
    /// `better_sampled[B]`: how many of these items are before the target.
    pub fn rank(&self, graph: &mut Graph, seen_capacity: usize, sampled_capacity: Option<usize>) -> Result<()> {
        let batch = self.requests(graph);
        let target = graph.input("target", TensorType::u32(&[batch]));
        let probabilities = self.probabilities(graph)?;
        let mut counts = |lists: &str, capacity: usize| {
            let offsets = graph.input(&format!("{lists}_offsets"), TensorType::u32(&[batch + 1]));
            let items = graph.input(&format!("{lists}_items"), TensorType::u32(&[capacity]));
            let counts = match probabilities {
                Some(p) => graph.add(RankOfScores, &[p, target, offsets, items])?,
                None => graph.add(Rank { items: Some(self.items) }, &self.inputs(&[target, offsets, items]))?,
            };
            graph.output(&format!("better_{lists}"), counts[1]);
            Ok(counts)
        };
        let counts_of_seen = counts("seen", seen_capacity)?;
        sampled_capacity.map_or(Ok(()), |capacity| counts("sampled", capacity).map(drop))?;
        graph.output("query", self.query);
        graph.output("better", counts_of_seen[0]);
        graph.output("ties", counts_of_seen[2]);
        Ok(())
    }

    /// Scores of some items for each query, shaped like their ids: `[B]` or `[B, K]`.
    pub fn score(&self, graph: &mut Graph, items: Ids) -> Result<ValueId> {
        let products = graph.add1(RowDot, &items.behind(&[self.query, self.table]))?;
        let Some(bias) = self.bias else { return Ok(products) };
        let column = Reshape { shape: vec![graph.shape(bias)[0], 1] };
        let bias = graph.add1(column, &[bias])?;
        let bias = items.gather(graph, bias)?;
        let shape = graph.shape(products).to_vec();
        let bias = graph.add1(Reshape { shape }, &[bias])?;
        graph.add1(Add, &[bias, products])
    }

    /// Adds the inputs `seen_offsets`, `seen_items` and the outputs `values[B, k]`, `indices[B, k]`, beside them what they
    /// are made of: `query`, `table` and, where there is one, `bias`.
    pub fn top_k(&self, graph: &mut Graph, k: usize, seen_capacity: usize) -> Result<()> {
        let batch = self.requests(graph);
        let offsets = graph.input("seen_offsets", TensorType::u32(&[batch + 1]));
        let seen = graph.input("seen_items", TensorType::u32(&[seen_capacity]));
        let outputs = match self.probabilities(graph)? {
            Some(p) => {
                let candidates = graph.add1(ExcludeSeen, &[p, offsets, seen])?;
                graph.add(TopK { k }, &[candidates])?
            }
            None => {
                let op = LinearTopK { k, items: Some(self.items), exclude: true };
                graph.add(op, &self.inputs(&[offsets, seen]))?
            }
        };
        graph.output("values", outputs[0]);
        graph.output("indices", outputs[1]);
        graph.output("query", self.query);
        graph.output("table", self.table);
        self.bias.iter().for_each(|bias| graph.output("bias", *bias));
        Ok(())
    }
}
