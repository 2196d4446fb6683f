//! The post-LN transformer encoder of S3-Rec and CoSeRec, on packed rows.
//!
//! ```text
//! x = dropout(LN(E[item] + P[position]))
//! per block: x = LN(x + dropout(W_o attention(W_q x, W_k x, W_v x) + b_o))
//!            x = LN(x + noise(W_2 gelu(W_1 x + b_1) + b_2))
//! ```
//!
//! `noise` is dropout, or the learnable Bernoulli masks of LMA4Rec (Eq. 3). There is no final LayerNorm.

use super::layers::{self, Dense};
use super::tokens::{Random, Rows, Tokens};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::{Error, Result};
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::bernoulli_mask::BernoulliMask;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::layer_norm::LayerNorm;
use crate::settings;
use serde::{Deserialize, Serialize};

/// Sizes and dropout rates; the defaults are CoSeRec's, which LMA4Rec builds on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transformer {
    /// Columns of a hidden state.
    pub dim: usize,
    /// Attention heads, which share the columns.
    pub heads: usize,
    /// How many there are.
    pub blocks: usize,
    /// Width of the feed-forward layer's hidden part.
    pub inner_dim: usize,
    /// Items of the history that are used, the last ones.
    pub max_len: usize,
    /// On embeddings and on the output of attention and feed-forward layers.
    pub hidden_dropout: f64,
    /// On attention probabilities.
    pub attention_dropout: f64,
    /// Standard deviation of initial weights and embeddings.
    pub init_std: f64,
    /// Added to the variance.
    pub layer_norm_eps: f64,
}

impl Default for Transformer {
    fn default() -> Self {
        Transformer {
            dim: 64,
            heads: 2,
            blocks: 2,
            inner_dim: 256,
            max_len: 50,
            hidden_dropout: 0.5,
            attention_dropout: 0.5,
            init_std: 0.02,
            layer_norm_eps: 1e-12,
        }
    }
}

/// The noise of a training pass, by what multiplies the output of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PassNoise {
    /// `hidden_dropout`, as elsewhere.
    Dropout {
        /// Passes of a step that have other numbers draw apart from each other.
        pass: u32,
    },
    /// Learnable Bernoulli masks; `antithetic` is ARM's second pass, which shares all other noise with the first.
    Learned {
        /// Keeps by the mirrored uniform numbers.
        antithetic: bool,
    },
}

/// Sites of the random numbers of a pass: embedding dropout, then three per block.
const FIRST_SITE: u32 = 0x100;
const SITES: u32 = 0x100;
const PROBABILITY_SITE: u32 = 0;
const ATTENTION_SITE: u32 = 1;
const FEED_FORWARD_SITE: u32 = 2;

impl PassNoise {
    /// Where the dropout of embeddings draws.
    fn embedding_site(self) -> Site {
        let pass = if let PassNoise::Dropout { pass } = self { pass } else { 0 };
        Site(FIRST_SITE + SITES * pass)
    }

    fn block_site(self, block: usize, which: u32) -> Site {
        Site(self.embedding_site().0 + 1 + 4 * block as u32 + which)
    }

    /// Where the noise of a block's feed-forward layer draws; ARM reads the same numbers again.
    pub fn feed_forward_site(self, block: usize) -> Site {
        self.block_site(block, FEED_FORWARD_SITE)
    }
}

/// The inputs of an op, with what it counts its random numbers by where it draws any.
fn with_random(inputs: &[ValueId], random: Random) -> Vec<ValueId> {
    inputs.iter().copied().chain(random.into_iter().flatten()).collect()
}

impl Transformer {
    /// Refuses sizes and rates that make no network.
    pub fn validate(&self) -> Result<()> {
        settings::at_least_one(&[
            ("dim", self.dim),
            ("heads", self.heads),
            ("inner_dim", self.inner_dim),
            ("max_len", self.max_len),
        ])?;
        settings::rates(&[("hidden_dropout", self.hidden_dropout), ("attention_dropout", self.attention_dropout)])?;
        settings::not_negative(&[("init_std", self.init_std), ("layer_norm_eps", self.layer_norm_eps)])?;
        if !self.dim.is_multiple_of(self.heads) {
            let problem = format!("dim = {} cannot be split into {} heads", self.dim, self.heads);
            return Err(Error::usage(problem, "choose heads so that they divide dim"));
        }
        Ok(())
    }

    /// The item table `[rows, dim]`, shared by input and output.
    pub fn item_table(&self, graph: &mut Graph, rows: usize) -> ValueId {
        graph.param("item_table", &[rows, self.dim], self.normal())
    }

    /// The keep logit `[1]` of a block's learnable masks, in the parameter set `logits`.
    pub fn keep_logit(&self, graph: &mut Graph, block: usize) -> ValueId {
        graph.in_set("logits", |g| g.param(&format!("block{block}.keep_logit"), &[1], Init::Constant(0.0)))
    }

    /// Hidden states `[N, dim]` that know what came before. `noise` is `None` for evaluation: no random number is drawn then.
    pub fn encode(
        &self,
        graph: &mut Graph,
        tokens: &Tokens,
        table: ValueId,
        padding_item: Option<u32>,
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        self.encode_rows(graph, tokens, tokens.rows(true), table, padding_item, noise)
    }

    /// The same of rows that attend to each other as they say.
    pub fn encode_rows(
        &self,
        graph: &mut Graph,
        tokens: &Tokens,
        rows: Rows,
        table: ValueId,
        padding_item: Option<u32>,
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        let items = graph.add1(Embedding { padding_idx: padding_item }, &tokens.item_ids().behind(&[table]))?;
        let position_table = self.position_table(graph);
        let positions = tokens.position_ids().gather(graph, position_table)?;
        let mut x = self.normalised_input(graph, positions, items, rows.random, noise)?;
        for block in 0..self.blocks {
            x = graph.in_scope(&format!("block{block}"), |graph| self.block(graph, &rows, x, block, noise))?;
        }
        Ok(x)
    }

    /// The table `[max_len, dim]` of learned positions.
    pub fn position_table(&self, graph: &mut Graph) -> ValueId {
        graph.param("position_table", &[self.max_len, self.dim], self.normal())
    }

    /// `dropout(LN(x + residual))`: what the first block reads.
    pub fn normalised_input(
        &self,
        graph: &mut Graph,
        x: ValueId,
        residual: ValueId,
        random: Random,
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        let x = self.layer_norm(graph, "embedding_norm", x, residual, None, random)?;
        match self.hidden_dropout(noise, PassNoise::embedding_site) {
            Some(dropout) => layers::dropout(graph, x, dropout, random),
            None => Ok(x),
        }
    }

    fn block(
        &self,
        graph: &mut Graph,
        rows: &Rows,
        x: ValueId,
        block: usize,
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        let qkv = self.projections(graph, block, x)?;
        let mixed = self.attention(graph, rows, block, qkv, noise)?;
        self.after_attention(graph, block, mixed, x, rows.random, noise)
    }

    /// Queries, keys and values of a block.
    pub fn projections(&self, graph: &mut Graph, block: usize, x: ValueId) -> Result<[ValueId; 3]> {
        let query = self.query(graph, block, x)?;
        let [key, value] = self.key_and_value(graph, block, x)?;
        Ok([query, key, value])
    }

    /// Queries of a block, where its keys are made of something else.
    pub fn query(&self, graph: &mut Graph, block: usize, x: ValueId) -> Result<ValueId> {
        self.dense(self.dim).of(graph, &format!("block{block}.query"), x)
    }

    /// Keys and values of a block.
    pub fn key_and_value(&self, graph: &mut Graph, block: usize, x: ValueId) -> Result<[ValueId; 2]> {
        let [k, v] = ["key", "value"].map(|part| self.dense(self.dim).of(graph, &format!("block{block}.{part}"), x));
        Ok([k?, v?])
    }

    /// The attention of a block among the rows of each sequence.
    pub fn attention(
        &self,
        graph: &mut Graph,
        rows: &Rows,
        block: usize,
        [q, k, v]: [ValueId; 3],
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        let Rows { cu_seqlens, row_flags, causal, random } = *rows;
        let dropout = self.attention_dropout(noise, block);
        let op = Attention { heads: self.heads, scale: self.scale(), causal, dropout, key_flags: row_flags.is_some() };
        let inputs: Vec<ValueId> = [q, k, v, cu_seqlens].into_iter().chain(row_flags).collect();
        graph.add1(op, &with_random(&inputs, random.filter(|_| dropout.is_some())))
    }

    /// What scores of attention are multiplied by.
    pub fn scale(&self) -> f64 {
        1.0 / ((self.dim / self.heads) as f64).sqrt()
    }

    /// The dropout on a block's probabilities.
    pub fn attention_dropout(&self, noise: Option<PassNoise>, block: usize) -> Option<Dropout> {
        let probability = self.attention_dropout;
        let of = |noise: PassNoise| Dropout { probability, site: noise.block_site(block, PROBABILITY_SITE) };
        noise.filter(|_| probability > 0.0).map(of)
    }

    /// The rest of a block: output projection, residual `x`, feed-forward layer.
    pub fn after_attention(
        &self,
        graph: &mut Graph,
        block: usize,
        mixed: ValueId,
        x: ValueId,
        random: Random,
        noise: Option<PassNoise>,
    ) -> Result<ValueId> {
        let name = |part: &str| format!("block{block}.{part}");
        let attended = self.dense(self.dim).of(graph, &name("attention_output"), mixed)?;
        let dropped = self.hidden_dropout(noise, |noise| noise.block_site(block, ATTENTION_SITE));
        let x = self.layer_norm(graph, &name("attention_norm"), attended, x, dropped, random)?;

        let hidden = self.dense(self.inner_dim).then(Activation::Gelu).of(graph, &name("feed_forward_in"), x)?;
        let mut output = self.dense(self.dim).of(graph, &name("feed_forward_out"), hidden)?;
        let mut dropped = None;
        match noise {
            Some(learned @ PassNoise::Learned { antithetic }) => {
                let logit = self.keep_logit(graph, block);
                let mask = BernoulliMask { site: learned.feed_forward_site(block), antithetic };
                output = graph.add1(mask, &with_random(&[output, logit], random))?;
            }
            _ => dropped = self.hidden_dropout(noise, |noise| noise.feed_forward_site(block)),
        }
        self.layer_norm(graph, &name("feed_forward_norm"), output, x, dropped, random)
    }

    fn dense(&self, outputs: usize) -> Dense {
        Dense::new(outputs).weight(self.normal())
    }

    /// `LN(residual + dropout(x))`
    fn layer_norm(
        &self,
        graph: &mut Graph,
        name: &str,
        x: ValueId,
        residual: ValueId,
        dropout: Option<Dropout>,
        random: Random,
    ) -> Result<ValueId> {
        let op = LayerNorm { eps: self.layer_norm_eps, residual: true, dropout };
        layers::layer_norm(graph, name, op, x, &with_random(&[residual], random.filter(|_| dropout.is_some())))
    }

    fn hidden_dropout(&self, noise: Option<PassNoise>, site: impl Fn(PassNoise) -> Site) -> Option<Dropout> {
        let probability = self.hidden_dropout;
        noise.filter(|_| probability > 0.0).map(|noise| Dropout { probability, site: site(noise) })
    }

    fn normal(&self) -> Init {
        Init::Normal(self.init_std as f32)
    }
}
