//! The post-LN transformer encoder of S3-Rec and CoSeRec, on packed rows.
//!
//! ```text
//! x = dropout(LN(E[item] + P[position]))
//! per block: x = LN(x + dropout(W_o attention(W_q x, W_k x, W_v x) + b_o))
//!            x = LN(x + noise(W_2 gelu(W_1 x + b_1) + b_2))
//! ```
//!
//! `noise` is dropout, or the learnable Bernoulli masks of LMA4Rec (Eq. 3). There is no final LayerNorm.

use super::tokens::{Random, Rows, Tokens};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::{Error, Result};
use crate::ops::activation::Activation;
use crate::ops::attention::{Attention, AttentionDropout};
use crate::ops::bernoulli_mask::BernoulliMask;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
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
pub enum FeedForwardNoise {
    /// `hidden_dropout`, as elsewhere.
    Dropout,
    /// Learnable Bernoulli masks; `antithetic` is ARM's second pass, which shares all other noise with the first.
    Learned {
        /// Keeps by the mirrored uniform numbers.
        antithetic: bool,
    },
}

/// Sites of the random numbers: embedding dropout, then three per block.
const EMBEDDING_SITE: u32 = 0x100;
const PROBABILITY_SITE: u32 = 0;
const ATTENTION_SITE: u32 = 1;
const FEED_FORWARD_SITE: u32 = 2;

fn block_site(block: usize, which: u32) -> Site {
    Site(EMBEDDING_SITE + 1 + 4 * block as u32 + which)
}

/// Where the feed-forward noise of a block draws its numbers; ARM reads the same ones again.
pub fn feed_forward_site(block: usize) -> Site {
    block_site(block, FEED_FORWARD_SITE)
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
        noise: Option<FeedForwardNoise>,
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
        noise: Option<FeedForwardNoise>,
    ) -> Result<ValueId> {
        let gather = |graph: &mut Graph, table, ids, segments: Option<ValueId>, padding_idx| {
            let inputs: Vec<ValueId> = [table, ids].into_iter().chain(segments).collect();
            graph.add1(Embedding { padding_idx }, &inputs)
        };
        let segments = tokens.training.map(|t| (t.item_segments, t.position_segments)).unzip();
        let items = gather(graph, table, tokens.items, segments.0, padding_item)?;
        let position_table = self.position_table(graph);
        let positions = gather(graph, position_table, tokens.positions, segments.1, None)?;
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
        noise: Option<FeedForwardNoise>,
    ) -> Result<ValueId> {
        let x = self.layer_norm(graph, "embedding_norm", x, residual, None, random)?;
        match self.hidden_dropout(noise, Site(EMBEDDING_SITE)) {
            Some(dropout) => graph.add1(dropout, &with_random(&[x], random)),
            None => Ok(x),
        }
    }

    fn block(
        &self,
        graph: &mut Graph,
        rows: &Rows,
        x: ValueId,
        block: usize,
        noise: Option<FeedForwardNoise>,
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
        self.linear(graph, Linear::default(), &format!("block{block}.query"), x, self.dim, self.dim)
    }

    /// Keys and values of a block.
    pub fn key_and_value(&self, graph: &mut Graph, block: usize, x: ValueId) -> Result<[ValueId; 2]> {
        let [k, v] = ["key", "value"]
            .map(|part| self.linear(graph, Linear::default(), &format!("block{block}.{part}"), x, self.dim, self.dim));
        Ok([k?, v?])
    }

    /// The attention of a block among the rows of each sequence.
    pub fn attention(
        &self,
        graph: &mut Graph,
        rows: &Rows,
        block: usize,
        [q, k, v]: [ValueId; 3],
        noise: Option<FeedForwardNoise>,
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
    pub fn attention_dropout(&self, noise: Option<FeedForwardNoise>, block: usize) -> Option<AttentionDropout> {
        let (probability, site) = (self.attention_dropout, block_site(block, PROBABILITY_SITE));
        (noise.is_some() && probability > 0.0).then_some(AttentionDropout { probability, site })
    }

    /// The rest of a block: output projection, residual `x`, feed-forward layer.
    pub fn after_attention(
        &self,
        graph: &mut Graph,
        block: usize,
        mixed: ValueId,
        x: ValueId,
        random: Random,
        noise: Option<FeedForwardNoise>,
    ) -> Result<ValueId> {
        let name = |part: &str| format!("block{block}.{part}");
        let (dim, inner, plain) = (self.dim, self.inner_dim, Linear::default());
        let attended = self.linear(graph, plain, &name("attention_output"), mixed, dim, dim)?;
        let dropped = self.hidden_dropout(noise, block_site(block, ATTENTION_SITE));
        let x = self.layer_norm(graph, &name("attention_norm"), attended, x, dropped, random)?;

        let gelu = Linear { activation: Some(Activation::Gelu), ..plain };
        let hidden = self.linear(graph, gelu, &name("feed_forward_in"), x, dim, inner)?;
        let mut output = self.linear(graph, plain, &name("feed_forward_out"), hidden, inner, dim)?;
        let site = feed_forward_site(block);
        let mut dropped = None;
        match noise {
            Some(FeedForwardNoise::Learned { antithetic }) => {
                let logit = self.keep_logit(graph, block);
                let mask = BernoulliMask { site, antithetic };
                output = graph.add1(mask, &with_random(&[output, logit], random))?;
            }
            _ => dropped = self.hidden_dropout(noise, site),
        }
        self.layer_norm(graph, &name("feed_forward_norm"), output, x, dropped, random)
    }

    fn linear(
        &self,
        graph: &mut Graph,
        op: Linear,
        name: &str,
        x: ValueId,
        inputs: usize,
        outputs: usize,
    ) -> Result<ValueId> {
        let weight = graph.param(&format!("{name}.weight"), &[outputs, inputs], self.normal());
        let bias = graph.param(&format!("{name}.bias"), &[outputs], Init::Constant(0.0));
        graph.add1(op, &[x, weight, bias])
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
        let weight = graph.param(&format!("{name}.weight"), &[self.dim], Init::Constant(1.0));
        let bias = graph.param(&format!("{name}.bias"), &[self.dim], Init::Constant(0.0));
        let op = LayerNorm { eps: self.layer_norm_eps, residual: true, dropout };
        graph.add1(op, &with_random(&[x, weight, bias, residual], random.filter(|_| dropout.is_some())))
    }

    fn hidden_dropout(&self, noise: Option<FeedForwardNoise>, site: Site) -> Option<Dropout> {
        let probability = self.hidden_dropout;
        (noise.is_some() && probability > 0.0).then_some(Dropout { probability, site })
    }

    fn normal(&self) -> Init {
        Init::Normal(self.init_std as f32)
    }
}
