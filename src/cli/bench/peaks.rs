//! What the same executor reaches on a large square product and on a large copy: the yardsticks of the other numbers.

use super::Effort;
use super::measure::{Measured, measure as time};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::{Executor, Feed, Graph};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::matmul::Matmul;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Peaks {
    pub gemm: Measured,
    pub gemm_side: usize,
    pub copy: Measured,
    /// Read, and written once more.
    pub copy_mib: usize,
}

pub fn measure(executor: &mut dyn Executor, effort: &Effort) -> Result<Peaks> {
    let (side, words) = (effort.gemm_side, effort.copy_words);
    let mut graph = Graph::new(ParamLayout::default());
    let [a, b] = ["a", "b"].map(|name| graph.param(name, &[side, side], Init::Uniform(1.0)));
    graph.add1(Matmul::NN, &[a, b])?;
    let gemm = time(executor, graph, &Feed::default(), 1, effort.time)?;

    // ReLU reads every word and writes every word, and does nothing else worth the time.
    let mut graph = Graph::new(ParamLayout::default());
    let x = graph.param("x", &[words], Init::Constant(1.0));
    graph.add1(Activation::Relu, &[x])?;
    let copy = time(executor, graph, &Feed::default(), 1, effort.time)?;
    Ok(Peaks { gemm, gemm_side: side, copy, copy_mib: words >> 18 })
}
