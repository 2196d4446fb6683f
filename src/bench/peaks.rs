//! What a device reaches when it does nothing but fused multiply-adds, and nothing but a copy: the ceilings of the rest.

use super::measure::{Patience, Work, measure as time};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::{Executor, Feed, Graph};
use crate::error::Result;
use crate::ops::activation::Activation;
use crate::ops::fma_loop::FmaLoop;
use serde::{Deserialize, Serialize};

/// The ceilings of a device.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Peaks {
    /// Fused multiply-adds in registers, as 10^9 operations a second.
    pub gflops: f64,
    /// A copy, as 10^9 bytes a second, read and written ones together.
    pub gbps: f64,
    /// Read, and written once more.
    pub copied_bytes: u64,
}

/// How large the two measurements are.
#[derive(Clone, Copy, Debug)]
pub struct PeakSizes {
    /// Numbers that are multiplied and added to side by side.
    pub elements: usize,
    /// How often each of them is.
    pub rounds: usize,
    /// Length of the copy.
    pub copied_words: usize,
}

/// Both ceilings, the multiply-adds by the best sample and the copy by the median.
pub fn measure(executor: &mut dyn Executor, sizes: PeakSizes, patience: Patience) -> Result<Peaks> {
    let mut graph = Graph::new(ParamLayout::default());
    let x = graph.param("x", &[sizes.elements], Init::Constant(1.0));
    // Contracts to 0.5, so that the numbers stay where arithmetic is fast.
    let y = graph.add1(FmaLoop { a: 0.5, b: 0.25, rounds: sizes.rounds }, &[x])?;
    let fma = time(executor, Work::new(graph, Feed::default(), vec![y]), patience)?;

    // ReLU reads every word and writes every word, and does nothing else worth the time.
    let mut graph = Graph::new(ParamLayout::default());
    let x = graph.param("x", &[sizes.copied_words], Init::Constant(1.0));
    let y = graph.add1(Activation::Relu, &[x])?;
    let copy = time(executor, Work::new(graph, Feed::default(), vec![y]), patience)?;
    Ok(Peaks {
        gflops: 1e-9 * fma.flops as f64 / fma.quantile(0.0),
        gbps: 1e-9 * copy.bytes as f64 / copy.median(),
        copied_bytes: 4 * sizes.copied_words as u64,
    })
}
