//! The encoder of DiffRec (Du et al. 2023, section 4.3): a transformer over a history and a noisy slot behind it. What comes
//! out at the slot is the prediction of the vector that the noise was added to.
//!
//! Nothing else of the last block is wanted, so only the slots go through it; their keys are all rows.

use super::tokens::{Ids, Random, Tokens};
use super::{FeedForwardNoise, Transformer};
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::add::Add;
use crate::ops::cross_attention::CrossAttention;
use serde::{Deserialize, Serialize};

/// What attends to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotMask {
    /// All rows of its sequence, as in the paper: it is the last row of the sequence.
    Bidirectional,
    /// Only itself. The history is then the same for all noise and all steps, and several slots may share it: they are the
    /// last rows of the batch, and belong to no sequence.
    Prefix,
}

/// Where the slots are.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// `[Q]`: their rows; each sequence has the same number of them, next to each other.
    pub rows: Ids,
    /// `[R]`: the slot that a row is, `u32::MAX` on others. With `SlotMask::Prefix` only.
    pub of_row: Option<Ids>,
    /// What their random numbers are counted by, `[Q, 2]`.
    pub random: Random,
}

/// Sizes, and what sees the slot.
#[derive(Clone, Copy, Debug)]
pub struct Denoiser<'a> {
    /// The encoder.
    pub encoder: &'a Transformer,
    /// What sees the slot.
    pub mask: SlotMask,
}

impl Denoiser<'_> {
    /// The predictions `[Q, dim]`, from all rows' vectors `x[R, dim]` and the positions' (`[R, dim]`, or zeros).
    pub fn predict(
        &self,
        graph: &mut Graph,
        tokens: &Tokens,
        slots: &Slots,
        [x, positions]: [ValueId; 2],
        noise: Option<FeedForwardNoise>,
    ) -> Result<ValueId> {
        let (encoder, rows) = (self.encoder, tokens.rows(false));
        let mut x = encoder.normalised_input(graph, positions, x, rows.random, noise)?;
        let last = encoder.blocks - 1;
        for block in 0..last {
            x = graph.in_scope(&format!("block{block}"), |graph| {
                let [q, k, v] = encoder.projections(graph, block, [x; 3])?;
                let mut mixed = encoder.attention(graph, &rows, block, [q, k, v], noise)?;
                if let Some(of_row) = slots.of_row {
                    let q = slots.rows.gather(graph, q)?;
                    let of_slots = self.cross_attention(graph, tokens, slots, block, [q, k, v], noise)?;
                    let of_slots = of_row.gather(graph, of_slots)?;
                    mixed = graph.add1(Add, &[mixed, of_slots])?;
                }
                encoder.after_attention(graph, block, mixed, x, rows.random, noise)
            })?;
        }
        graph.in_scope(&format!("block{last}"), |graph| {
            let slot = slots.rows.gather(graph, x)?;
            let qkv = encoder.projections(graph, last, [slot, x, x])?;
            let mixed = self.cross_attention(graph, tokens, slots, last, qkv, noise)?;
            encoder.after_attention(graph, last, mixed, slot, slots.random, noise)
        })
    }

    fn cross_attention(
        &self,
        graph: &mut Graph,
        tokens: &Tokens,
        slots: &Slots,
        block: usize,
        [q, k, v]: [ValueId; 3],
        noise: Option<FeedForwardNoise>,
    ) -> Result<ValueId> {
        let dropout = self.encoder.attention_dropout(noise, block);
        let op = CrossAttention {
            heads: self.encoder.heads,
            scale: self.encoder.scale(),
            own_keys: self.mask == SlotMask::Prefix,
            dropout,
        };
        let random = slots.random.filter(|_| dropout.is_some()).into_iter().flatten();
        let inputs: Vec<ValueId> = [q, k, v, tokens.cu_seqlens].into_iter().chain(random).collect();
        graph.add1(op, &inputs)
    }
}
