//! The encoder of DiffRec (Du et al. 2023, section 4.3): a transformer over a history and a noisy slot behind it. What comes
//! out at the slot is the prediction of the vector that the noise was added to.
//!
//! Nothing else of the last block is wanted, so only the slots go through it; its keys are all rows.

use super::tokens::{Ids, Random, Tokens};
use super::{PassNoise, Transformer};
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::cross_attention::CrossAttention;
use serde::{Deserialize, Serialize};

/// What attends to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotMask {
    /// All rows of its sequence, as in the paper.
    Bidirectional,
    /// Only itself. The history is then the same for all noise and all steps, and several slots may share it.
    Prefix,
}

/// A training or a scoring pass of the encoder.
#[derive(Clone, Copy, Debug)]
pub struct Denoiser<'a> {
    /// Sizes and parameters.
    pub encoder: &'a Transformer,
    /// The rows of the histories; with `SlotMask::Bidirectional` each sequence ends with its slot.
    pub tokens: Tokens,
    /// What the slots' random numbers are counted by.
    pub slot_random: Random,
    /// None for evaluation.
    pub noise: Option<PassNoise>,
}

/// Keys and values of the histories, by block.
pub type History = Vec<[ValueId; 2]>;

impl Denoiser<'_> {
    /// Predictions `[S, dim]` where the slots are rows of their sequences, those that `slot_rows` says. `x` and `positions`
    /// are `[R, dim]`.
    pub fn predict_rows(&self, graph: &mut Graph, slot_rows: Ids, x: ValueId, positions: ValueId) -> Result<ValueId> {
        let (x, keys) = self.rows(graph, x, positions)?;
        let last = self.encoder.blocks - 1;
        let slot = slot_rows.gather(graph, x)?;
        graph.in_scope(&format!("block{last}"), |graph| self.slot_block(graph, last, slot, keys[last], false))
    }

    /// The histories as slots see them that they do not see themselves. `x` and `positions` are `[R, dim]`.
    pub fn history(&self, graph: &mut Graph, x: ValueId, positions: ValueId) -> Result<History> {
        Ok(graph.in_scope("history", |graph| self.rows(graph, x, positions))?.1)
    }

    /// Predictions `[Q, dim]` of slots that are no rows, the same number for each sequence. `x` and `positions` are
    /// `[Q, dim]`.
    pub fn predict_slots(
        &self,
        graph: &mut Graph,
        history: &History,
        x: ValueId,
        positions: ValueId,
    ) -> Result<ValueId> {
        let mut x = self.encoder.normalised_input(graph, positions, x, self.slot_random, self.noise)?;
        for (block, keys) in history.iter().enumerate() {
            x = graph.in_scope(&format!("block{block}"), |graph| self.slot_block(graph, block, x, *keys, true))?;
        }
        Ok(x)
    }

    /// All blocks but the last among the rows: what comes out, and the keys and values of every block.
    fn rows(&self, graph: &mut Graph, x: ValueId, positions: ValueId) -> Result<(ValueId, History)> {
        let (encoder, rows, mut keys) = (self.encoder, self.tokens.rows(false), History::new());
        let mut x = encoder.normalised_input(graph, positions, x, rows.random, self.noise)?;
        for block in 0..encoder.blocks {
            x = graph.in_scope(&format!("block{block}"), |graph| {
                if block + 1 == encoder.blocks {
                    keys.push(encoder.key_and_value(graph, block, x)?);
                    return Ok(x);
                }
                let [q, k, v] = encoder.projections(graph, block, x)?;
                keys.push([k, v]);
                let mixed = encoder.attention(graph, &rows, block, [q, k, v], self.noise)?;
                encoder.after_attention(graph, block, mixed, x, rows.random, self.noise)
            })?;
        }
        Ok((x, keys))
    }

    /// A block of slots, whose keys are those of their sequences and, where they are no rows of these, their own.
    fn slot_block(
        &self,
        graph: &mut Graph,
        block: usize,
        x: ValueId,
        [k, v]: [ValueId; 2],
        own_keys: bool,
    ) -> Result<ValueId> {
        let encoder = self.encoder;
        let mut inputs = vec![encoder.query(graph, block, x)?, k, v, self.tokens.cu_seqlens];
        if own_keys {
            inputs.extend(encoder.key_and_value(graph, block, x)?);
        }
        let dropout = encoder.attention_dropout(self.noise, block);
        inputs.extend(self.slot_random.filter(|_| dropout.is_some()).into_iter().flatten());
        let op = CrossAttention { heads: encoder.heads, scale: encoder.scale(), own_keys, dropout };
        let mixed = graph.add1(op, &inputs)?;
        encoder.after_attention(graph, block, mixed, x, self.slot_random, self.noise)
    }
}
