//! `p_bv = 1/S sum_s softmax(H_bs W^T (+ b))_v`: the mean of S predicted distributions over a catalogue (DiffRec, Algorithm 3).
//!
//! Probabilities are averaged, not scores: the order of items is another one. Of the `B S x V` scores those of a few rows
//! exist at a time; the result is `B x V`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::tiles::{
    self, GpuChunks, LANES, LOWEST, Scorer, SteadyScorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, reference_score,
};
use crate::shader;
use rayon::prelude::*;

/// Inputs `hidden[B * S, D]` (the S samples of one distribution next to each other), `weight[V', D]`, (`bias[V']`);
/// output `p[B, V]`.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxMixture {
    /// S, at most `MAX_SAMPLES`.
    pub samples: usize,
    /// The catalogue is the first so many rows of the weight.
    pub items: Option<usize>,
}

/// Most samples: their scores are made together.
pub const MAX_SAMPLES: usize = TILE_ROWS;
/// How many scores all lanes may keep.
const KEPT_WORDS: usize = 1 << 25;

impl SoftmaxMixture {
    fn items(&self, weight: &TensorType) -> usize {
        self.items.unwrap_or(weight.rows())
    }

    /// Distributions that a lane makes together: a tile of rows, or fewer where two lanes could not keep that many scores.
    fn together(&self, items: usize) -> usize {
        let kept = KEPT_WORDS / (2 * self.samples * items);
        (TILE_ROWS / self.samples).min(kept).max(1)
    }

    /// Words of a lane: a tile, the queries, all scores of some rows.
    fn lane_words(&self, width: usize, items: usize) -> usize {
        TILE + TILE_ROWS * width + self.together(items) * self.samples * items.next_multiple_of(TILE_ITEMS)
    }

    /// How many lanes run at the same time, and how many distributions each makes.
    fn lanes(&self, batch: usize, items: usize) -> (usize, usize) {
        let together = self.together(items);
        let most = (KEPT_WORDS / (together * self.samples * items)).clamp(1, LANES);
        let each = batch.div_ceil(most).next_multiple_of(together);
        (batch.div_ceil(each), each)
    }
}

impl Op for SoftmaxMixture {
    fn name(&self) -> &'static str {
        "softmax_mixture"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), inputs, inputs.get(2).copied(), self.items)?;
        let fits = (1..=MAX_SAMPLES).contains(&self.samples)
            && inputs[0].rows() > 0
            && inputs[0].rows().is_multiple_of(self.samples);
        let problem = || format!("{} samples of {}; 1 to {MAX_SAMPLES} are possible", self.samples, inputs[0]);
        expect(self.name(), fits, problem)?;
        Ok(vec![TensorType::f32(&[inputs[0].rows() / self.samples, self.items(inputs[1])])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let items = outputs[0].width();
        for n in 0..inputs[0].rows() {
            let score = |v: usize| reference_score(inputs[0], inputs[1], inputs.get(2).copied(), n, v);
            let z: Vec<f64> = (0..items).map(score).collect();
            let max = z.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
            let p = &mut outputs[0].f_mut()[n / self.samples * items..][..items];
            p.iter_mut().zip(&z).for_each(|(p, z)| *p += (z - max).exp() / sum / self.samples as f64);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        let (width, items) = (inputs[0].width(), outputs[0].width());
        SteadyScorer::scratch(width) + self.lanes(outputs[0].rows(), items).0 * self.lane_words(width, items)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (width, items) = (io.inputs[0].width(), self.items(io.inputs[1].ty));
        let plain = Scorer::new(io, io.inputs.len() > 2);
        let (tail, lanes) = io.scratch.split_at_mut(SteadyScorer::scratch(width));
        let scorer = SteadyScorer::new(plain, items, tail);
        let ((_, each), together) = (self.lanes(io.outputs[0].ty.rows(), items), self.together(items));
        let lanes = lanes.par_chunks_mut(self.lane_words(width, items));
        lanes.zip(io.outputs[0].f().par_chunks_mut(each * items)).enumerate().for_each(|(lane, (space, p))| {
            let (tile, space) = space.split_at_mut(TILE);
            let (queries, z) = space.split_at_mut(TILE_ROWS * width);
            for (block, p) in p.chunks_mut(together * items).enumerate() {
                let first = (lane * each + block * together) * self.samples;
                let rows = p.len() / items * self.samples;
                let queries = scorer.queries(first..first + rows, queries);
                let mut largest = [LOWEST; TILE_ROWS];
                for chunk in tiles::chunks(0..items) {
                    scorer.tile(queries, &chunk, tile);
                    let rows =
                        z.chunks_exact_mut(items).zip(tile.chunks_exact(TILE_STRIDE)).zip(&mut largest).take(rows);
                    for ((z, tile), largest) in rows {
                        let tile = &tile[..chunk.len()];
                        z[chunk.clone()].copy_from_slice(tile);
                        *largest = largest.max(simd::max(tile));
                    }
                }
                let kept = z.chunks_mut(self.samples * items).zip(largest.chunks(self.samples));
                for (p, (z, largest)) in p.chunks_exact_mut(items).zip(kept) {
                    p.fill(0.0);
                    for (z, max) in z.chunks_exact_mut(items).zip(largest) {
                        let sum = simd::exp_sub_sum(z, *max);
                        simd::axpy(1.0 / (self.samples as f32 * sum), z, p);
                    }
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, has_bias, items) = (b.inputs[0].rows(), b.inputs.len() > 2, self.items(b.inputs[1]));
        let (chunks, stats) = (GpuChunks::new(b, items), b.scratch(2 * rows));
        chunks.each(b, |b, first, len| {
            let bindings = [(chunks.scores(b, first, len, has_bias), Read), (stats, Update)];
            let params = [rows.into(), len.into(), (first == 0).into()];
            b.dispatch(shader!("softmax_mixture_stats"), &[], &bindings, &params, rows);
        });
        chunks.each(b, |b, first, len| {
            let z = chunks.scores(b, first, len, has_bias);
            let (batch, p) = (rows / self.samples, b.output(0));
            let params = [batch.into(), self.samples.into(), len.into(), first.into(), items.into()];
            let bindings = [(z, Read), (stats, Read), (p, Update)];
            b.dispatch(shader!("softmax_mixture"), &[], &bindings, &params, (batch * len).div_ceil(64));
        });
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len() * self.items(inputs[1]), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("softmax_mixture", build)];

fn build(b: &mut Builder) -> Result<()> {
    let mut inputs = vec![b.input("hidden")?, b.input("weight")?];
    if b.has("bias") {
        inputs.push(b.input("bias")?);
    }
    let items = b.optional_f64("items").map(|items| items as usize);
    let p = b.graph.add1(SoftmaxMixture { samples: b.attr_usize("samples")?, items }, &inputs)?;
    b.output("p", p);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let values =
        |len: usize, step: usize| (0..len).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect::<Vec<_>>();
    let case = |name: &str, (batch, samples): (usize, usize), v: usize, d: usize, scale: f32| {
        let case = Case::new(KERNELS[0], format!("{name}{batch}x{samples}x{v}x{d}")).attr("samples", samples);
        let hidden = values(batch * samples * d, 7919).into_iter().map(|x| scale * x).collect();
        case.constant("hidden", &[batch * samples, d], hidden).constant("weight", &[v, d], values(v * d, 6007))
    };
    // Means of probabilities and of scores choose different items: [4, 0] and three times [0, 1].
    let opinions = Case::new(KERNELS[0], "one sure, three not").attr("samples", 4);
    let opinions = opinions.constant("hidden", &[4, 2], vec![4.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
    vec![
        case("", (1, 1), 1, 1, 1.0),
        case("", (3, 10), 127, 64, 1.0),
        case("a table with padding ", (65, 2), 300, 3, 1.0).attr("items", 290),
        case("bias ", (7, 3), 65, 5, 1.0).constant("bias", &[65], values(65, 37)),
        case("many samples ", (2, 128), 70, 2, 1.0),
        case("many items ", (2, 2), 4300, 2, 1.0),
        case("large scores ", (3, 2), 130, 8, 30.0),
        opinions.constant("weight", &[2, 2], vec![1.0, 0.0, 0.0, 1.0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_probabilities_is_not_that_of_scores() {
        let hidden = TensorType::f32(&[4, 2]);
        let hidden = Array::from_f64(&hidden, vec![4.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        let weight = Array::from_f64(&TensorType::f32(&[2, 2]), vec![1.0, 0.0, 0.0, 1.0]);
        let mut p = [Array::zeros(&TensorType::f32(&[1, 2]))];
        SoftmaxMixture { samples: 4, items: None }.reference(&[&hidden, &weight], &mut p);
        assert!((p[0].f()[0] - 0.4472).abs() < 1e-4 && (p[0].f()[1] - 0.5528).abs() < 1e-4);
    }
}
