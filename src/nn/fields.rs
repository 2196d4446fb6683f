//! Impressions in fields of categories: N impressions of F fields, each a bag of rows of one joint table.

use super::layers::{Dense, batch_norm, dropout};
use super::tokens::{Ids, Random};
use crate::engine::params::Init;
use crate::engine::rng::Site;
use crate::engine::{Graph, TensorType, ValueId};
use crate::error::{Error, Result};
use crate::ops::activation::Activation;
use crate::ops::dropout::Dropout;
use crate::ops::fill::Fill;
use crate::ops::linear::Linear;
use crate::ops::multiply::Multiply;
use crate::ops::reshape::Reshape;
use crate::ops::scale::Scale;
use crate::ops::sequence_pool::SequencePool;

/// Graph inputs of a batch of impressions.
#[derive(Clone, Copy, Debug)]
pub struct Impressions {
    /// N
    pub count: usize,
    /// F
    pub fields: usize,
    /// What is in the fields; none where their vectors come from elsewhere.
    pub bags: Option<Bags>,
    /// `[N + 1]`: where the fields of each impression begin among all, `0, F, 2 F, ...`
    pub of_impression: ValueId,
    /// All pairs of fields, for models that look at each.
    pub pairs: Option<Pairs>,
    /// What random numbers of impressions are counted by.
    pub random: Random,
    /// The same of an impression's fields.
    pub field_random: Random,
}

/// The bags of all fields, end to end.
#[derive(Clone, Copy, Debug)]
pub struct Bags {
    /// `[M]`: rows of the joint table; `u32::MAX` behind the last.
    pub rows: Ids,
    /// `[N F + 1]`: where each bag begins.
    pub borders: ValueId,
}

/// The P = F (F - 1) / 2 pairs of fields of each impression.
#[derive(Clone, Copy, Debug)]
pub struct Pairs {
    /// `[N P]`: the first field of each pair, among all.
    pub first: Ids,
    /// `[N P]`: the second.
    pub second: Ids,
    /// `[N + 1]`: where the pairs of each impression begin.
    pub borders: ValueId,
}

impl Pairs {
    /// Adds the inputs `pair_first`, `pair_second` and `pairs`.
    pub fn declare(graph: &mut Graph, count: usize, fields: usize, training: bool) -> Pairs {
        let pairs = count * fields * fields.saturating_sub(1) / 2;
        let [first, second] = ["pair_first", "pair_second"].map(|name| Ids::declare(graph, name, &[pairs], training));
        Pairs { first, second, borders: graph.input("pairs", TensorType::u32(&[count + 1])) }
    }

    /// Products of the vectors of each pair, `[N P, D]`.
    pub fn products(&self, graph: &mut Graph, vectors: ValueId) -> Result<ValueId> {
        let sides = [self.first.gather(graph, vectors)?, self.second.gather(graph, vectors)?];
        graph.add1(Multiply, &sides)
    }
}

impl Impressions {
    /// Adds the inputs `bag_rows[M]`, `bags`, `of_impression`, and for training `bag_rows_segments`, `rng`,
    /// `impression_keys[N, 2]` and `field_keys[N F, 2]`; the names of all but `rng` begin with the prefix.
    pub fn declare(graph: &mut Graph, prefix: &str, [count, fields, rows]: [usize; 3], training: bool) -> Impressions {
        let borders = graph.input(&format!("{prefix}bags"), TensorType::u32(&[count * fields + 1]));
        let bags = Bags { rows: Ids::declare(graph, &format!("{prefix}bag_rows"), &[rows], training), borders };
        Impressions { bags: Some(bags), ..Self::without_bags(graph, prefix, count, fields, training) }
    }

    /// Impressions whose vectors come from elsewhere, under names that begin so. They share `rng`.
    pub fn without_bags(graph: &mut Graph, prefix: &str, count: usize, fields: usize, training: bool) -> Impressions {
        let mut input = |name: &str, shape: &[usize]| graph.input(&format!("{prefix}{name}"), TensorType::u32(shape));
        let of_impression = input("of_impression", &[count + 1]);
        let keys = training.then(|| [input("impression_keys", &[count, 2]), input("field_keys", &[count * fields, 2])]);
        let random = keys.map(|keys| {
            let rng = graph.input_once("rng", TensorType::u32(&[4]));
            keys.map(|keys| [rng, keys])
        });
        let [random, field_random] = random.map_or([None; 2], |random| random.map(Some));
        Impressions { count, fields, bags: None, pairs: None, of_impression, random, field_random }
    }

    /// The vector of each field of each impression, the mean over its bag: `[N F, D]`.
    pub fn embed(&self, graph: &mut Graph, table: ValueId) -> Result<ValueId> {
        let bags = self.bags.ok_or_else(|| Error::graph("fields", "these impressions have no bags"))?;
        let rows = bags.rows.gather(graph, table)?;
        let ones = self.ones(graph, graph.shape(rows)[0])?;
        graph.add1(SequencePool { mean: true }, &[rows, ones, bags.borders])
    }

    fn ones(&self, graph: &mut Graph, count: usize) -> Result<ValueId> {
        graph.add1(Fill { value: 1.0, shape: vec![count] }, &[])
    }

    /// Sums over the fields of each impression: `[N F, D]` to `[N, D]`.
    pub fn sum(&self, graph: &mut Graph, x: ValueId) -> Result<ValueId> {
        let ones = self.ones(graph, self.count * self.fields)?;
        graph.add1(SequencePool { mean: false }, &[x, ones, self.of_impression])
    }

    /// The vectors of an impression's fields side by side: `[N, F D]`.
    pub fn flat(&self, graph: &mut Graph, x: ValueId) -> Result<ValueId> {
        let width = graph.ty(x).width();
        graph.add1(Reshape { shape: vec![self.count, self.fields * width] }, &[x])
    }

    /// A number per row, summed over an impression's fields, and one for all: `w_0 + sum_f w_f`, `[N, 1]`.
    pub fn first_order(&self, graph: &mut Graph, rows: usize) -> Result<ValueId> {
        let table = graph.param("first_order", &[rows, 1], Init::Constant(0.0));
        let each = self.embed(graph, table)?;
        let sum = self.sum(graph, each)?;
        let one = graph.add1(Fill { value: 1.0, shape: vec![1, 1] }, &[])?;
        let bias = graph.param("bias", &[1], Init::Constant(0.0));
        graph.add1(Linear::default(), &[sum, one, bias])
    }

    /// Products of the vectors of all pairs of fields, summed over the pairs: `1/2 ((sum_f v_f)^2 - sum_f v_f^2)`, `[N, D]`.
    pub fn pairs(&self, graph: &mut Graph, x: ValueId) -> Result<ValueId> {
        let sum = self.sum(graph, x)?;
        let square_of_sum = graph.add1(Multiply, &[sum, sum])?;
        let squares = graph.add1(Multiply, &[x, x])?;
        let sum_of_squares = self.sum(graph, squares)?;
        let negative = graph.add1(Scale { factor: -1.0 }, &[sum_of_squares])?;
        let twice = graph.add1(crate::ops::add::Add, &[square_of_sum, negative])?;
        graph.add1(Scale { factor: 0.5 }, &[twice])
    }

    /// Layers of these widths, ReLU and dropout behind each (at this site and those that follow), and batch normalisation
    /// before the ReLU if it is `normalised`; then one of a single column: `[N, 1]`.
    pub fn tower(
        &self,
        graph: &mut Graph,
        name: &str,
        mut x: ValueId,
        widths: &[usize],
        drop: Dropout,
        normalised: bool,
    ) -> Result<ValueId> {
        for (layer, &width) in (0..).zip(widths) {
            let (name, dense) = (format!("{name}{layer}"), Dense::new(width));
            x = match normalised {
                false => dense.then(Activation::Relu).of(graph, &name, x)?,
                true => {
                    let x = dense.of(graph, &name, x)?;
                    let x = batch_norm(graph, &format!("{name}_norm"), x, self.random.is_some())?;
                    graph.add1(Activation::Relu, &[x])?
                }
            };
            x = dropout(graph, x, Dropout { site: Site(drop.site.0 + layer), ..drop }, self.random)?;
        }
        Dense::new(1).of(graph, &format!("{name}_output"), x)
    }
}

/// The sum over the columns of `[N, D]`: `[N, 1]`.
pub fn row_sum(graph: &mut Graph, x: ValueId) -> Result<ValueId> {
    let ones = graph.add1(Fill { value: 1.0, shape: vec![1, graph.ty(x).width()] }, &[])?;
    graph.add1(Linear::default(), &[x, ones])
}
