//! The recommendation loss at every position: the item that came next, against all others or a sample of them. What
//! methods share that learn by nothing else: the end of their training graph, and the batches.

use super::batch::token_batch;
use super::{Batch, Context, Objective, Sampler, Shape};
use crate::data::pack::INERT;
use crate::data::sample::{UserItems, negative};
use crate::data::{Interactions, Packed, trainable_users};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::nn::{Ids, Scorer};
use crate::ops::add::Add;
use crate::ops::bce_with_logits::BceWithLogits;
use crate::ops::fill::Fill;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::row_dot::RowDot;
use crate::ops::sampled_softmax::{SampledSoftmax, candidates};
use crate::ops::segments::segments;
use crate::ops::weighted_sum::WeightedSum;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which loss, by the field's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// `-log sigmoid(s+) - log(1 - sigmoid(s-))` with one uniform negative per position (SASRec, CoSeRec, LMA4Rec).
    Bce,
    /// Softmax over the positive and `negatives` uniform negatives per position (LMA4Rec, Eq. 7).
    SampledSoftmax,
    /// Softmax over the whole catalogue.
    Ce,
}

/// The loss with its sampling, as keys of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NextItem {
    /// Over which items.
    pub loss: Loss,
    /// Negatives per position of `sampled_softmax`.
    pub negatives: usize,
}

/// The rows of a batch and whose they are: the first sequences of `packed` belong to `users`. Rows of further sequences
/// (augmented views) and inert rows have no target.
#[derive(Clone, Copy)]
pub struct BatchRows<'a> {
    /// The batch.
    pub packed: &'a Packed,
    /// Whose the first sequences are.
    pub users: &'a [u32],
    /// Where the targets come from.
    pub data: &'a Interactions,
    /// All items of each user, which are never negatives.
    pub owned: &'a UserItems,
}

/// Draws of negatives: one stream per user and step.
const NEGATIVES: Site = Site(0x4E47);

impl Default for NextItem {
    fn default() -> Self {
        NextItem { loss: Loss::Ce, negatives: 128 }
    }
}

impl NextItem {
    /// Refuses a sample that makes no softmax.
    pub fn validate(&self) -> Result<()> {
        if self.loss == Loss::SampledSoftmax && self.negatives < 2 {
            return Err(Error::usage("sampled_softmax needs at least 2 negatives", "for example --set negatives=128"));
        }
        Ok(())
    }

    /// The mean loss of the rows with a target; the encoder reads items as the scorer does.
    pub fn objective(&self, graph: &mut Graph, scorer: Scorer) -> Result<Objective> {
        let (losses, inputs) = self.row_losses(graph, &scorer, None)?;
        let loss = graph.add1(WeightedSum, &[losses, inputs.weight])?;
        Ok(Objective { loss, scorer, item_table: scorer.table })
    }

    fn samples(&self) -> usize {
        match self.loss {
            Loss::Bce => 1,
            Loss::SampledSoftmax => self.negatives,
            Loss::Ce => 0,
        }
    }

    /// The per-row losses `[N]` and the inputs they read; `shared` are the inputs of an earlier call in the same graph.
    pub fn row_losses(
        &self,
        graph: &mut Graph,
        scorer: &Scorer,
        shared: Option<&LossInputs>,
    ) -> Result<(ValueId, LossInputs)> {
        let rows = graph.shape(scorer.query)[0];
        let inputs = shared.copied().unwrap_or_else(|| LossInputs::declare(graph, rows, self));
        let (hidden, table) = (scorer.query, scorer.table);
        let losses = match inputs.items {
            LossItems::Catalogue { target } => {
                let operands: Vec<ValueId> = [hidden, table].into_iter().chain(scorer.bias).chain([target]).collect();
                graph.add1(LinearCrossEntropy { items: Some(scorer.items) }, &operands)?
            }
            LossItems::Candidates(candidates) => {
                let scores = graph.add1(RowDot, &candidates.behind(&[hidden, table]))?;
                graph.add1(SampledSoftmax, &[scores, candidates.ids])?
            }
            LossItems::OneNegative { positive, negative } => {
                let mut part = |ids: Ids, target: f32| {
                    let target = graph.add1(Fill { value: target, shape: vec![rows] }, &[])?;
                    let score = graph.add1(RowDot, &ids.behind(&[hidden, table]))?;
                    graph.add1(BceWithLogits, &[score, target])
                };
                let both = [part(positive, 1.0)?, part(negative, 0.0)?];
                graph.add1(Add, &both)?
            }
        };
        Ok((losses, inputs))
    }

    /// Feeds targets, weights and negatives.
    pub fn feed(&self, feed: &mut Feed, batch: &BatchRows, rng: RngState) {
        let BatchRows { packed, users, data, owned } = *batch;
        let (rows, samples) = (packed.n_rows(), self.samples());
        let mut target = vec![INERT; rows];
        let mut negatives = vec![INERT; rows * samples];
        for (ends, &user) in packed.cu_seqlens.windows(2).zip(users) {
            let own = ends[0] as usize..ends[1] as usize;
            let all = data.train_target(user as usize);
            target[own.clone()].copy_from_slice(&all[all.len() - own.len()..]);
            let mut stream = rng.stream(NEGATIVES, user);
            for sample in &mut negatives[own.start * samples..own.end * samples] {
                *sample = negative(&mut stream, data.n_items(), owned.of(user as usize));
            }
        }
        let count = target.iter().filter(|&&t| t != INERT).count();
        let weight = target.iter().map(|&t| if t == INERT { 0.0 } else { 1.0 / count as f32 }).collect();
        feed.set("loss_weight", Tensor::f32(&[rows], weight));
        let mut feed_ids = |name: &str, ids: Tensor| {
            feed.set(&format!("{name}_segments"), segments(ids.as_u32(), None));
            feed.set(name, ids);
        };
        match self.loss {
            Loss::Ce => feed.set("target", Tensor::u32(&[rows], &target)),
            Loss::Bce => {
                feed_ids("positive", Tensor::u32(&[rows], &target));
                feed_ids("negative", Tensor::u32(&[rows], &negatives));
            }
            Loss::SampledSoftmax => feed_ids("candidates", candidates(&target, &negatives)),
        }
    }
}

/// Makes batches for a graph that begins with `Tokens::for_training` and ends with `NextItem::objective`: a sequence per
/// user, its training events but the last.
pub struct Histories {
    next_item: NextItem,
    max_len: usize,
    data: Arc<Interactions>,
    owned: UserItems,
}

impl Histories {
    /// Of the last `max_len` items of each user.
    pub fn new(next_item: NextItem, max_len: usize, data: Arc<Interactions>) -> Self {
        let owned = UserItems::new(&data);
        Histories { next_item, max_len, data, owned }
    }
}

impl Sampler for Histories {
    fn samples(&self) -> Vec<u32> {
        trainable_users(&self.data)
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let mut packed = Packed::new();
        users.iter().for_each(|&user| packed.push(user, self.data.train_input(user as usize), self.max_len));
        let mut batch = token_batch(&mut packed, None, Some(rng));
        let rows = BatchRows { packed: &packed, users, data: &self.data, owned: &self.owned };
        self.next_item.feed(&mut batch.feed, &rows, rng);
        Ok(batch)
    }

    fn contexts(&self, users: &[u32], shape: Shape) -> Vec<Option<Context>> {
        let of_user = |&user: &u32| {
            let all = self.data.train_input(user as usize).len();
            (all.saturating_sub(self.max_len)..all).map(move |row| Some(Context { user, len: row as u32 + 1 }))
        };
        let inert = std::iter::repeat(None);
        users.iter().flat_map(of_user).chain(inert).take(shape.rows).collect()
    }
}

/// What the rows are scored against.
#[derive(Clone, Copy, Debug)]
enum LossItems {
    Catalogue { target: ValueId },
    Candidates(Ids),
    OneNegative { positive: Ids, negative: Ids },
}

/// Graph inputs of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossInputs {
    /// `[N]`: 1 / (number of rows with a target) there, 0 elsewhere.
    pub weight: ValueId,
    items: LossItems,
}

impl LossInputs {
    fn declare(graph: &mut Graph, rows: usize, loss: &NextItem) -> LossInputs {
        let weight = graph.input("loss_weight", TensorType::f32(&[rows]));
        let items = match loss.loss {
            Loss::Ce => LossItems::Catalogue { target: graph.input("target", TensorType::u32(&[rows])) },
            Loss::SampledSoftmax => {
                LossItems::Candidates(Ids::declare(graph, "candidates", &[rows, 1 + loss.negatives], true))
            }
            Loss::Bce => LossItems::OneNegative {
                positive: Ids::declare(graph, "positive", &[rows], true),
                negative: Ids::declare(graph, "negative", &[rows], true),
            },
        };
        LossInputs { weight, items }
    }
}
