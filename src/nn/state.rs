//! Encoders of a session's last items into a state: the four that SNQN and SA2C are built on, as their authors' code has them
//! (Xin et al., WSDM 2022), and a transformer as one would take it today.
//!
//! | base | state |
//! |---|---|
//! | `gru` | GRU with the reset gate before the product; the empty session is one padding item |
//! | `caser` | filters over 2, 3 and 4 items, 16 each, maximum over time; one filter over all places per column |
//! | `nextitnet` | six residual blocks of two causal convolutions, dilated 1 and 2, 2 and 4, ... |
//! | `sasrec` | one block, one head; both residuals add the normalised input |
//! | `transformer` | two blocks of `nn/transformer.rs` |

use super::layers::{Dense, dropout, glorot, layer_norm};
use super::tokens::{Ids, Tokens};
use super::{PassNoise, Transformer};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::attention::Attention;
use crate::ops::concat::Concat;
use crate::ops::dropout::Dropout;
use crate::ops::fill::Fill;
use crate::ops::gru::{Gru, Reset};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::reshape::Reshape;
use crate::ops::sequence_max::SequenceMax;
use crate::ops::unfold::Unfold;
use crate::settings;
use serde::{Deserialize, Serialize};

/// Which encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Gated recurrent unit.
    Gru,
    /// Convolutional filters over the image of the items (Tang and Wang, WSDM 2018).
    Caser,
    /// Dilated causal convolutions (Yuan et al., WSDM 2019).
    NextItNet,
    /// Self-attention (Kang and McAuley, ICDM 2018).
    SasRec,
    /// Self-attention as in `nn/transformer.rs`.
    Transformer,
}

/// Sizes; the defaults are those of the authors' code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateEncoder {
    /// Which.
    pub base: Base,
    /// Columns of an item's vector, and of the hidden layers.
    pub dim: usize,
    /// Items of the session that are used, the last ones.
    pub max_len: usize,
    /// Of `caser`, `sasrec` and `transformer`.
    pub dropout: f64,
}

impl Default for StateEncoder {
    fn default() -> Self {
        StateEncoder { base: Base::Gru, dim: 64, max_len: 10, dropout: 0.1 }
    }
}

/// Heights of Caser's filters, and how many there are of each.
const HEIGHTS: [usize; 3] = [2, 3, 4];
const FILTERS: usize = 16;
/// Dilations of NextItNet's blocks; the second convolution of a block has twice as much.
const DILATIONS: [usize; 6] = [1, 2, 1, 2, 1, 2];
const NORM: LayerNorm = LayerNorm { eps: 1e-8, residual: false, dropout: None };

/// Where dropout draws; every pass of an encoder has sites of its own.
const FIRST_SITE: u32 = 0x5A00;
const SITES: u32 = 8;

/// A pass of an encoder: what it reads, and what its dropout draws by.
#[derive(Clone, Copy, Debug)]
pub struct StatePass {
    /// The sessions, laid out as the base wants them.
    pub tokens: Tokens,
    /// `[S]`: the last row of each, `u32::MAX` of an empty one.
    pub last_rows: Ids,
    /// `[S, 2]`: what random numbers of states are counted by.
    pub state_keys: Option<ValueId>,
    /// The pass draws numbers of its own; `None` draws none.
    pub noise: Option<u32>,
}

impl StateEncoder {
    /// Refuses sizes that make no network.
    pub fn validate(&self) -> Result<()> {
        settings::at_least_one(&[("dim", self.dim), ("max_len", self.max_len)])?;
        settings::rates(&[("dropout", self.dropout)])
    }

    /// Columns of a state.
    pub fn width(&self) -> usize {
        if self.base == Base::Caser { HEIGHTS.len() * FILTERS + self.dim } else { self.dim }
    }

    /// Rows that a session of so many items takes: Caser's image has all places, and a GRU reads a padding item where there is
    /// nothing else.
    pub fn rows(&self, items: usize) -> usize {
        match self.base {
            Base::Caser => self.max_len,
            Base::Gru => items.max(1),
            _ => items,
        }
    }

    /// States `[S, width]`, by the parameters of the current set. The item table has a row for padding behind its `items`.
    pub fn encode(&self, graph: &mut Graph, pass: &StatePass, items: usize) -> Result<ValueId> {
        let tokens = pass.tokens;
        let table = graph.param("item_table", &[items + 1, self.dim], Init::Normal(0.01));
        if self.base == Base::Transformer {
            let encoder = self.transformer();
            let noise = pass.noise.filter(|_| self.dropout > 0.0).map(|pass| PassNoise::Dropout { pass });
            let hidden = encoder.encode(graph, &tokens, table, None, noise)?;
            return pass.last_rows.gather(graph, hidden);
        }
        let x = tokens.item_ids().gather(graph, table)?;
        match self.base {
            Base::Gru => self.gru(graph, pass, x),
            Base::Caser => self.caser(graph, pass, x),
            Base::NextItNet => self.nextitnet(graph, pass, x),
            Base::SasRec => self.sasrec(graph, pass, x),
            Base::Transformer => unreachable!("returned above"),
        }
    }

    fn transformer(&self) -> Transformer {
        Transformer {
            dim: self.dim,
            heads: if self.dim.is_multiple_of(2) { 2 } else { 1 },
            inner_dim: 4 * self.dim,
            max_len: self.max_len,
            hidden_dropout: self.dropout,
            attention_dropout: self.dropout,
            ..Transformer::default()
        }
    }

    /// Dropout at the `place`-th of a pass's sites; rows are those of the tokens.
    fn dropout(&self, graph: &mut Graph, pass: &StatePass, place: u32, x: ValueId) -> Result<ValueId> {
        let site = Site(FIRST_SITE + SITES * pass.noise.unwrap_or(0) + place);
        let random = pass.tokens.random().filter(|_| pass.noise.is_some());
        dropout(graph, x, Dropout { probability: self.dropout, site }, random)
    }

    fn gru(&self, graph: &mut Graph, pass: &StatePass, x: ValueId) -> Result<ValueId> {
        let (dim, sequences) = (self.dim, graph.shape(pass.tokens.cu_seqlens)[0] - 1);
        // One matrix each for gates and candidate, over input and state; here in two parts.
        let (gates, candidate) = (glorot(2 * dim, 2 * dim), glorot(2 * dim, dim));
        let open = Init::Constant(1.0);
        let of_gates = Dense::new(2 * dim).weight(gates).bias(open).of(graph, "gru.gates_of_input", x)?;
        let of_candidate = Dense::new(dim).weight(candidate).of(graph, "gru.candidate_of_input", x)?;
        let x = graph.add1(Concat, &[of_gates, of_candidate])?;
        let start = graph.add1(Fill { value: 0.0, shape: vec![sequences, dim] }, &[])?;
        let gates = graph.param("gru.gates_of_state", &[dim, 2 * dim], gates);
        let candidate = graph.param("gru.candidate_of_state", &[dim, dim], candidate);
        let gru = Gru { reset: Reset::Before };
        Ok(graph.add(gru, &[x, start, pass.tokens.cu_seqlens, gates, candidate])?[1])
    }

    fn caser(&self, graph: &mut Graph, pass: &StatePass, x: ValueId) -> Result<ValueId> {
        let borders = pass.tokens.cu_seqlens;
        let sequences = graph.shape(borders)[0] - 1;
        let filters =
            |count: usize| Dense::new(count).weight(Init::Normal(0.1)).bias(Init::Constant(0.1)).then(Activation::Relu);
        let mut parts = Vec::new();
        for height in HEIGHTS {
            let windows = graph.add1(Unfold { taps: height, dilation: 1, by_column: false }, &[x, borders])?;
            let filtered = filters(FILTERS).of(graph, &format!("horizontal{height}"), windows)?;
            parts.push(graph.add1(SequenceMax { skip: height - 1 }, &[filtered, borders])?);
        }
        let places = graph.add1(Unfold { taps: self.max_len, dilation: 1, by_column: true }, &[x, borders])?;
        let image = pass.last_rows.gather(graph, places)?;
        let image = graph.add1(Reshape { shape: vec![sequences * self.dim, self.max_len] }, &[image])?;
        let vertical = filters(1).of(graph, "vertical", image)?;
        parts.push(graph.add1(Reshape { shape: vec![sequences, self.dim] }, &[vertical])?);
        let state = graph.add1(Concat, &parts)?;
        self.state_dropout(graph, pass, state)
    }

    /// Dropout on states.
    fn state_dropout(&self, graph: &mut Graph, pass: &StatePass, state: ValueId) -> Result<ValueId> {
        let site = Site(FIRST_SITE + SITES * pass.noise.unwrap_or(0));
        let keys = pass.tokens.training.zip(pass.state_keys).filter(|_| pass.noise.is_some());
        let random = keys.map(|(training, keys)| [training.rng, keys]);
        dropout(graph, state, Dropout { probability: self.dropout, site }, random)
    }

    fn nextitnet(&self, graph: &mut Graph, pass: &StatePass, x: ValueId) -> Result<ValueId> {
        let borders = pass.tokens.cu_seqlens;
        let mut x = x;
        for (block, dilation) in DILATIONS.into_iter().enumerate() {
            let before = x;
            for (half, dilation) in [dilation, 2 * dilation].into_iter().enumerate() {
                let name = format!("block{block}.conv{half}");
                let windows = graph.add1(Unfold { taps: 3, dilation, by_column: true }, &[x, borders])?;
                let convolved = Dense::new(self.dim).weight(Init::Normal(0.02)).of(graph, &name, windows)?;
                let normalised = layer_norm(graph, &format!("{name}_norm"), NORM, convolved, &[])?;
                x = graph.add1(Activation::Relu, &[normalised])?;
            }
            x = graph.add1(Add, &[x, before])?;
        }
        pass.last_rows.gather(graph, x)
    }

    fn sasrec(&self, graph: &mut Graph, pass: &StatePass, x: ValueId) -> Result<ValueId> {
        let (dim, tokens) = (self.dim, pass.tokens);
        let positions = graph.param("position_table", &[self.max_len, dim], Init::Normal(0.01));
        let positions = tokens.position_ids().gather(graph, positions)?;
        let x = graph.add1(Add, &[positions, x])?;
        let x = self.dropout(graph, pass, 0, x)?;
        let query = layer_norm(graph, "query_norm", NORM, x, &[])?;
        let plain = Dense::new(dim);
        let q = plain.of(graph, "query", query)?;
        let k = plain.of(graph, "key", x)?;
        let v = plain.of(graph, "value", x)?;
        let random = tokens.training.filter(|_| self.dropout > 0.0).zip(pass.noise);
        let dropout =
            random.map(|(_, draw)| Dropout { probability: self.dropout, site: Site(FIRST_SITE + SITES * draw + 1) });
        let attention =
            Attention { heads: 1, scale: 1.0 / (dim as f64).sqrt(), causal: true, dropout, key_flags: false };
        let mut inputs = vec![q, k, v, tokens.cu_seqlens];
        inputs.extend(random.iter().flat_map(|(training, _)| [training.rng, training.row_keys]));
        let mixed = graph.add1(attention, &inputs)?;
        let y = graph.add1(Add, &[mixed, query])?;
        let y = layer_norm(graph, "feed_forward_norm", NORM, y, &[])?;
        let hidden = plain.then(Activation::Relu).of(graph, "feed_forward_in", y)?;
        let hidden = self.dropout(graph, pass, 2, hidden)?;
        let hidden = plain.of(graph, "feed_forward_out", hidden)?;
        let hidden = self.dropout(graph, pass, 3, hidden)?;
        let y = graph.add1(Add, &[hidden, y])?;
        // Padding is 0 before the last normalisation: an empty session is its bias.
        let last = pass.last_rows.gather(graph, y)?;
        layer_norm(graph, "final_norm", NORM, last, &[])
    }
}
