//! Causal attention over a batch of sequences of one length, without dropout.

use super::Effort;
use super::measure::{Measured, measure as time};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::{Executor, Feed, Graph, Tensor, TensorType};
use crate::error::Result;
use crate::ops::attention::Attention;
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    pub sequences: usize,
    pub heads: usize,
    pub length: usize,
    pub head_dim: usize,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "B{} H{} T{} d{}", self.sequences, self.heads, self.length, self.head_dim)
    }
}

/// SASRec's usual batch, and a longer and wider one.
pub fn shapes(quick: bool) -> [Shape; 2] {
    let divisor = if quick { 8 } else { 1 };
    [
        Shape { sequences: 256 / divisor, heads: 2, length: 50, head_dim: 32 },
        Shape { sequences: 64 / divisor, heads: 4, length: 200, head_dim: 64 },
    ]
}

pub fn measure(executor: &mut dyn Executor, shape: Shape, backward: bool, effort: &Effort) -> Result<Measured> {
    let Shape { sequences, heads, length, head_dim } = shape;
    let rows = sequences * length;
    let mut graph = Graph::new(ParamLayout::default());
    let [q, k, v, dy] =
        ["q", "k", "v", "dy"].map(|name| graph.param(name, &[rows, heads * head_dim], Init::Normal(1.0)));
    let borders = graph.input("cu_seqlens", TensorType::u32(&[sequences + 1]));
    let op = Attention { heads, scale: (head_dim as f64).powf(-0.5), causal: true, dropout: None, key_flags: false };
    for _ in 0..effort.copies {
        let y = graph.add1(op, &[q, k, v, borders])?;
        if backward {
            graph.vjp(&[(y, dy)], &[q, k, v])?;
        }
    }
    let starts: Vec<u32> = (0..=sequences).map(|i| (i * length) as u32).collect();
    let mut feed = Feed::default();
    feed.set("cu_seqlens", Tensor::u32(&[starts.len()], &starts));
    time(executor, graph, &feed, effort.copies, effort.time)
}
