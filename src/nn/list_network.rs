//! The value network of DRL-Rec (Xie et al. 2021) over lists of impressions: fields attend to each other, a GRU walks down the
//! list, layers give the value of an item after what stands above it.
//!
//! ```text
//! x = LN(v + attention(Q v, K v, V v))        over F fields, v their vectors
//! h_t = GRU([x_1 | ... | x_F], h_(t-1))       down the list
//! u = tanh layers of z                        the last one is the hint that a student learns from
//! Q = <w, u> + b
//!
//! paper:  v of user and context at t, and of the item at t - 1; z = [h_t | v_f, f over the fields of the item at t]
//! inline: v of user, context and item at t; z = h_t          the item is one more step of the walk, as in the authors' code
//! ```
//!
//! Either state knows user, context and the items above (section 3.1). In the paper's form any item can be valued in it at the
//! price of the layers alone.

use super::fields::Impressions;
use super::layers::{self, Dense, glorot};
use super::tokens::{Ids, Random};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::concat::{Columns, Concat};
use crate::ops::dropout::Dropout;
use crate::ops::fill::Fill;
use crate::ops::gru::{Gru, Reset};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::reshape::Reshape;
use serde::{Deserialize, Serialize};

/// Width of the last hidden layer, the same for every size of network.
pub const HINT: usize = 32;
const HEADS: usize = 2;
const NORM_EPS: f64 = 1e-8;
const ATTENTION_NORM: &str = "attention_norm";
/// Places of a pass where dropout draws.
const SITES: u32 = 16;
const FIRST_SITE: u32 = 0x7000;

/// What the value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QForm {
    /// The state that the item meets, and the item.
    Paper,
    /// The state behind the item.
    Inline,
}

/// A network: sizes and the shape of what it sees.
#[derive(Clone, Debug)]
pub struct ListNetwork {
    /// d: columns of a field's vector.
    pub dim: usize,
    /// Places of the item's fields among all, ascending.
    pub item_fields: Vec<usize>,
    /// Rows of the joint table.
    pub rows: usize,
    /// Everywhere.
    pub dropout: f64,
    /// Standard deviation of the initial rows.
    pub init_std: f64,
    /// Whether fields attend to each other; else each keeps its vector.
    pub attention: bool,
    /// Whether a GRU walks down the list; else the state is the mean of its steps.
    pub recurrent: bool,
    /// What the value is made of.
    pub form: QForm,
}

/// What a network reads of a batch of lists, beside the impressions.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// `[B + 1]`: where lists begin.
    pub lists: ValueId,
    /// `[N]`: the impression above each in its list, `u32::MAX` for the first.
    pub above: Ids,
}

/// Items that were not shown, at positions of the batch's lists.
#[derive(Clone, Copy, Debug)]
pub struct Candidates {
    /// The position of each, as an impression of the batch.
    pub at: Ids,
    /// The row of the items' fields that is its own.
    pub of: Ids,
    /// `[C + 1]`: 0, 1, 2, ...: each is a walk of one step.
    pub each: ValueId,
    /// As many impressions, with no bags of their own.
    pub impressions: Impressions,
}

/// Values with the layer before them.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// `[N, HINT]`
    pub hint: ValueId,
    /// `[N, 1]`
    pub value: ValueId,
}

impl ListNetwork {
    /// Where the `place`-th dropout of a pass draws; passes draw apart from each other.
    fn site(pass: u32, place: u32) -> Site {
        Site(FIRST_SITE + SITES * pass + place)
    }

    /// The table `[rows, d]` of the current set. It is declared behind the rest, so that a target network, which has none, lies
    /// in its set as the network that it follows.
    pub fn table(&self, graph: &mut Graph, fields: usize) -> ValueId {
        self.declare(graph, fields);
        graph.param("table", &[self.rows, self.dim], Init::Normal(self.init_std as f32))
    }

    /// Columns of a state.
    fn state(&self, fields: usize) -> usize {
        fields * self.dim
    }

    /// Widths of the tanh layers.
    fn layers(&self, fields: usize) -> [usize; 3] {
        let whole = self.state(fields);
        [(whole / 2).max(1), (whole / 4).max(1), HINT]
    }

    /// Declares the parameters of the current set in their order.
    fn declare(&self, graph: &mut Graph, fields: usize) {
        self.projections(graph);
        layers::norm_parameters(graph, ATTENTION_NORM, self.dim);
        let state = self.state(fields);
        ListGru { width: state }.declare(graph);
        let mut inputs = match self.form {
            QForm::Paper => state + self.item_fields.len() * self.dim,
            QForm::Inline => state,
        };
        for (layer, outputs) in self.layers(fields).into_iter().enumerate() {
            Dense::new(outputs).declare(graph, &format!("layer{layer}"), inputs);
            inputs = outputs;
        }
        Dense::new(1).declare(graph, "output", HINT);
    }

    /// What makes queries, keys and values, `[d, d]` each.
    fn projections(&self, graph: &mut Graph) -> [ValueId; 3] {
        let dim = self.dim;
        ["query", "key", "value"].map(|name| graph.param(&format!("attention.{name}"), &[dim, dim], glorot(dim, dim)))
    }

    /// What an impression's fields are together, `[N, F d]`, from their vectors `[N F, d]`.
    fn together(&self, graph: &mut Graph, x: &Impressions, vectors: ValueId, pass: u32) -> Result<ValueId> {
        self.declare(graph, x.fields);
        let dropped = self.dropped(graph, vectors, Self::site(pass, 0), x.field_random)?;
        let mixed = if self.attention { self.attend(graph, x, dropped, pass)? } else { dropped };
        x.flat(graph, mixed)
    }

    /// The state behind each position, `[N, state]`.
    fn behind(&self, graph: &mut Graph, x: &Impressions, walk: &Walk, vectors: ValueId, pass: u32) -> Result<ValueId> {
        let flat = self.together(graph, x, vectors, pass)?;
        let states = if self.recurrent {
            ListGru { width: self.state(x.fields) }.down(graph, walk.lists, flat)?
        } else {
            self.mean(graph, walk, flat)?
        };
        self.dropped(graph, states, Self::site(pass, 2), x.random)
    }

    /// The state that the item of each position meets, `[N, state]`.
    fn before(&self, graph: &mut Graph, x: &Impressions, walk: &Walk, vectors: ValueId, pass: u32) -> Result<ValueId> {
        match self.form {
            QForm::Paper => {
                let there = x.flat(graph, vectors)?;
                let item = self.item(graph, there)?;
                let above = walk.above.gather(graph, item)?;
                let met = self.with_item(graph, x, there, above)?;
                self.behind(graph, x, walk, met, pass)
            }
            QForm::Inline => {
                let behind = self.behind(graph, x, walk, vectors, pass)?;
                walk.above.gather(graph, behind)
            }
        }
    }

    /// The values of the shown items, from the vectors of their fields `[N F, d]`.
    pub fn shown(
        &self,
        graph: &mut Graph,
        x: &Impressions,
        walk: &Walk,
        vectors: ValueId,
        pass: u32,
    ) -> Result<Values> {
        let z = match self.form {
            QForm::Inline => self.behind(graph, x, walk, vectors, pass)?,
            QForm::Paper => {
                let before = self.before(graph, x, walk, vectors, pass)?;
                let flat = x.flat(graph, vectors)?;
                let item = self.item(graph, flat)?;
                graph.add1(Concat, &[before, item])?
            }
        };
        self.values(graph, x.fields, z, x.random, pass)
    }

    /// The values that other items would have had at some positions: item `candidates.of` of `items[M, F d]`, the vectors of
    /// impressions with all their fields side by side, at position `candidates.at`.
    pub fn explored(
        &self,
        graph: &mut Graph,
        x: &Impressions,
        walk: &Walk,
        (vectors, items): (ValueId, ValueId),
        candidates: &Candidates,
        pass: u32,
    ) -> Result<Values> {
        let before = self.before(graph, x, walk, vectors, pass)?;
        let before = candidates.at.gather(graph, before)?;
        let item = self.item(graph, items)?;
        let item = candidates.of.gather(graph, item)?;
        let z = match self.form {
            QForm::Paper => graph.add1(Concat, &[before, item])?,
            QForm::Inline => {
                let flat = x.flat(graph, vectors)?;
                let there = candidates.at.gather(graph, flat)?;
                let own = candidates.impressions;
                let mixed = self.with_item(graph, &own, there, item)?;
                let flat = self.together(graph, &own, mixed, pass + 1)?;
                let gru = ListGru { width: self.state(x.fields) };
                let states = gru.walk(graph, candidates.each, flat, before)?;
                self.dropped(graph, states, Self::site(pass + 1, 2), own.random)?
            }
        };
        self.values(graph, x.fields, z, candidates.impressions.random, pass + 1)
    }

    /// Impressions `there[N, F d]` with other items, `item[N, I d]`: vectors `[N F, d]`.
    fn with_item(&self, graph: &mut Graph, x: &Impressions, there: ValueId, item: ValueId) -> Result<ValueId> {
        let of_item = |field: &usize| self.item_fields.contains(field);
        let fields: Vec<usize> = (0..x.fields).collect();
        let (mut parts, mut taken) = (Vec::new(), 0);
        for run in fields.chunk_by(|one, next| of_item(one) == of_item(next)) {
            if of_item(&run[0]) {
                parts.push(columns(graph, item, taken, run.len(), self.dim)?);
                taken += run.len();
            } else {
                parts.push(columns(graph, there, run[0], run.len(), self.dim)?);
            }
        }
        let mixed = graph.add1(Concat, &parts)?;
        graph.add1(Reshape { shape: vec![x.count * x.fields, self.dim] }, &[mixed])
    }

    fn dropped(&self, graph: &mut Graph, x: ValueId, site: Site, random: Random) -> Result<ValueId> {
        layers::dropout(graph, x, Dropout { probability: self.dropout, site }, random)
    }

    fn attend(&self, graph: &mut Graph, x: &Impressions, vectors: ValueId, pass: u32) -> Result<ValueId> {
        let dim = self.dim;
        let mut parts = Vec::new();
        for weight in self.projections(graph) {
            parts.push(graph.add1(Linear::default(), &[vectors, weight])?);
        }
        let random = x.field_random.filter(|_| self.dropout > 0.0);
        let dropout = random.map(|_| Dropout { probability: self.dropout, site: Self::site(pass, 1) });
        let heads = if dim.is_multiple_of(HEADS) { HEADS } else { 1 };
        let scale = 1.0 / ((dim / heads) as f64).sqrt();
        let op = Attention { heads, scale, causal: false, dropout, key_flags: false };
        parts.push(x.of_impression);
        parts.extend(random.into_iter().flatten());
        let attended = graph.add1(op, &parts)?;
        let norm = LayerNorm { eps: NORM_EPS, residual: true, dropout: None };
        layers::layer_norm(graph, ATTENTION_NORM, norm, attended, &[vectors])
    }

    /// The mean of all rows up to each, by attention with queries of zero.
    fn mean(&self, graph: &mut Graph, walk: &Walk, flat: ValueId) -> Result<ValueId> {
        let nothing = graph.add1(Fill { value: 0.0, shape: graph.shape(flat).to_vec() }, &[])?;
        let op = Attention { heads: 1, scale: 1.0, causal: true, dropout: None, key_flags: false };
        graph.add1(op, &[nothing, nothing, flat, walk.lists])
    }

    /// `[N, I d]`: the vectors of the item's fields, of all fields' side by side.
    fn item(&self, graph: &mut Graph, flat: ValueId) -> Result<ValueId> {
        chosen(graph, flat, &self.item_fields, self.dim)
    }

    /// The layers; `random` is what their dropout is counted by.
    fn values(&self, graph: &mut Graph, fields: usize, z: ValueId, random: Random, pass: u32) -> Result<Values> {
        let (mut u, mut hint) = (z, z);
        for (layer, outputs) in (0u32..).zip(self.layers(fields)) {
            hint = Dense::new(outputs).then(Activation::Tanh).of(graph, &format!("layer{layer}"), u)?;
            u = self.dropped(graph, hint, Self::site(pass, 3 + layer), random)?;
        }
        Ok(Values { hint, value: Dense::new(1).of(graph, "output", u)? })
    }
}

/// The vectors of some fields, of all fields' side by side: `[N, F d]` to `[N, C d]`.
pub fn chosen(graph: &mut Graph, flat: ValueId, fields: &[usize], dim: usize) -> Result<ValueId> {
    let mut parts = Vec::new();
    for run in fields.chunk_by(|one, next| one + 1 == *next) {
        parts.push(columns(graph, flat, run[0], run.len(), dim)?);
    }
    if let [part] = parts[..] { Ok(part) } else { graph.add1(Concat, &parts) }
}

/// The vectors of `count` fields from the `first` on.
fn columns(graph: &mut Graph, flat: ValueId, first: usize, count: usize, dim: usize) -> Result<ValueId> {
    graph.add1(Columns { first: first * dim, count: count * dim }, &[flat])
}

/// A GRU that walks down lists, as wide as what comes in. Its gates begin open.
#[derive(Clone, Copy, Debug)]
pub struct ListGru {
    /// Columns of input and state.
    pub width: usize,
}

impl ListGru {
    /// Declares the parameters `gru.*` of the current set in their order.
    pub fn declare(self, graph: &mut Graph) {
        for (name, dense) in self.of_input() {
            dense.declare(graph, name, self.width);
        }
        self.of_state(graph);
    }

    /// The layers over what comes in: gates and candidate. They begin as parts of one matrix each over input and state.
    fn of_input(self) -> [(&'static str, Dense); 2] {
        let width = self.width;
        let gates = Dense::new(2 * width).weight(glorot(2 * width, 2 * width)).bias(Init::Constant(1.0));
        let candidate = Dense::new(width).weight(glorot(2 * width, width));
        [("gru.gates_of_input", gates), ("gru.candidate_of_input", candidate)]
    }

    /// The other parts of these matrices.
    fn of_state(self, graph: &mut Graph) -> [ValueId; 2] {
        let width = self.width;
        let gates = graph.param("gru.gates_of_state", &[width, 2 * width], glorot(2 * width, 2 * width));
        [gates, graph.param("gru.candidate_of_state", &[width, width], glorot(2 * width, width))]
    }

    /// The states `[N, width]` behind the rows `x[N, width]` of walks that begin at `borders[W + 1]`, from `start[W, width]`.
    pub fn walk(self, graph: &mut Graph, borders: ValueId, x: ValueId, start: ValueId) -> Result<ValueId> {
        let mut parts = Vec::new();
        for (name, dense) in self.of_input() {
            parts.push(dense.of(graph, name, x)?);
        }
        let of_input = graph.add1(Concat, &parts)?;
        let [gates, candidate] = self.of_state(graph);
        graph.add1(Gru { reset: Reset::Before }, &[of_input, start, borders, gates, candidate])
    }

    /// The same from states of zero.
    pub fn down(self, graph: &mut Graph, borders: ValueId, x: ValueId) -> Result<ValueId> {
        let walks = graph.shape(borders)[0] - 1;
        let start = graph.add1(Fill { value: 0.0, shape: vec![walks, self.width] }, &[])?;
        self.walk(graph, borders, x, start)
    }
}

/// A column `[N, 1]` as `[N]`.
pub fn column(graph: &mut Graph, x: ValueId) -> Result<ValueId> {
    let rows = graph.shape(x)[0];
    graph.add1(Reshape { shape: vec![rows] }, &[x])
}
