//! `y_nd = x_nd keep_nd / (1 - p)`, `keep_nd = [word(site, sequence_n, position_n, d) >= p 2^32]`.
//!
//! The mask is drawn from the row's logical place, so nothing is saved: the gradient is the same op on `dy`. The trick
//! is in the drawing: sixteen Philox blocks (64 features) run side by side in vector registers.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder, Param};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::rng::{RngState, Site, draw_row, drop_threshold};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Inputs `x[N, D]`, `rng[4]`, `row_keys[N, 2]` (logical sequence, position); output `y[N, D]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of dropping, in [0, 1).
    pub probability: f64,
    /// Where the masks are drawn.
    pub site: Site,
}

impl Dropout {
    /// What row `n`, feature `d` is multiplied by: 0 or `1 / (1 - p)`.
    pub fn factor(&self, rng: &Array, row_keys: &Array, n: usize, d: usize) -> f64 {
        let (state, keys) = (RngState::from_words(rng.u()), row_keys.u());
        let word = state.word(self.site, keys[2 * n], keys[2 * n + 1], d as u32);
        if word >= drop_threshold(self.probability) { 1.0 / (1.0 - self.probability) } else { 0.0 }
    }
}

/// The parameters `site`, `threshold`, `keep_scale` of a kernel that may drop.
pub fn drop_params(dropout: Option<Dropout>) -> [Param; 3] {
    match dropout {
        Some(Dropout { probability, site }) => {
            [site.0.into(), drop_threshold(probability).into(), (1.0 / (1.0 - probability)).into()]
        }
        None => [0u32.into(), 0u32.into(), 1.0.into()],
    }
}

/// Rows that one worker draws.
pub const ROW_BLOCK: usize = 64;

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let probability = self.probability;
        expect("dropout", (0.0..1.0).contains(&probability), || format!("{probability} is not in [0, 1)"))?;
        expect_random_rows("dropout", inputs[0], inputs[1], inputs[2])?;
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (i, (y, x)) in outputs[0].f_mut().iter_mut().zip(inputs[0].f()).enumerate() {
            *y = x * self.factor(inputs[1], inputs[2], i / width, i % width);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, width) = (io.inputs[0].f(), io.inputs[0].width());
        let draws = Draws { dropout: *self, rng: io.inputs[1].u(), row_keys: io.inputs[2].u() };
        let blocks = io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).zip(x.par_chunks(ROW_BLOCK * width));
        blocks.enumerate().for_each(|(block, (y, x))| {
            y.copy_from_slice(x);
            drop_rows(block * ROW_BLOCK, width, y, draws);
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (rows, width) = (builder.inputs[0].rows(), builder.inputs[0].width());
        let bindings =
            [(builder.input(0), Read), (builder.input(1), Read), (builder.input(2), Read), (builder.output(0), Write)];
        let mut params = vec![(rows * width).into(), width.into()];
        params.extend(drop_params(Some(*self)));
        let groups = (rows * width.div_ceil(4)).div_ceil(64);
        builder.dispatch(shader!("dropout"), &[], &bindings, &params, groups);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let dx = vjp.add(*self, &[dy, vjp.input(1), vjp.input(2)])?[0];
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(outputs[0].len(), inputs, outputs)
    }
}

/// Ops that draw random numbers for `[N, D]` take `rng[4]` and `row_keys[N, 2]`.
pub fn expect_random_rows(op: &str, x: &TensorType, rng: &TensorType, row_keys: &TensorType) -> Result<()> {
    expect(op, x.shape.len() == 2, || format!("x is {x}, it must have two axes"))?;
    let fits = *rng == TensorType::u32(&[4]) && row_keys.dtype == DType::U32 && row_keys.shape == [x.rows(), 2];
    expect(op, fits, || format!("x is {x}, rng {rng}, row_keys {row_keys}; they must be u32[4] and u32[N, 2]"))
}

/// Dropout with what it draws from.
#[derive(Clone, Copy)]
pub struct Draws<'a> {
    /// Rate and site.
    pub dropout: Dropout,
    /// `[4]`, the words of an `RngState`.
    pub rng: &'a [u32],
    /// `[N, 2]` of the whole tensor.
    pub row_keys: &'a [u32],
}

impl Draws<'_> {
    /// Multiplies row `n` by its mask.
    #[inline(always)]
    pub fn apply(&self, n: usize, row: &mut [f32]) {
        let (state, width) = (RngState::from_words(self.rng), row.len());
        let threshold = drop_threshold(self.dropout.probability);
        let scale = (1.0 / (1.0 - self.dropout.probability)) as f32;
        draw_row(state, self.dropout.site, &self.row_keys[2 * n..2 * n + 2], width, |first, words| {
            for (x, word) in row[first..].iter_mut().zip(words) {
                *x = if *word >= threshold { *x * scale } else { 0.0 };
            }
        });
    }
}

/// Multiplies the rows from `first` on by their masks.
pub fn drop_rows(first: usize, width: usize, rows: &mut [f32], draws: Draws) {
    simd::vectorised(
        #[inline(always)]
        || {
            for (n, row) in (first..).zip(rows.chunks_exact_mut(width)) {
                draws.apply(n, row);
            }
        },
    );
}

pub(crate) const KERNELS: &[Kernel] = &[("dropout", build)];

fn build(b: &mut Builder) -> Result<()> {
    let op = Dropout { probability: b.attr_f64("probability")?, site: Site(b.attr_usize("site")? as u32) };
    let inputs = [b.input("x")?, b.rng(), b.input("row_keys")?];
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

/// Logical places of `n` rows: sequences of five positions, numbered in descending order.
pub fn case_keys(n: usize) -> Vec<u32> {
    (0..n as u32).flat_map(|i| [1000 - i / 5, i % 5]).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, d: usize, probability: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{d} p={probability}")).attr("probability", probability);
        let case = case.attr("site", 12).attr("seed", 0x1234_5678_9abc_u64).attr("step", 7);
        case.normal("x", &[n, d], 1.0).ids("row_keys", &[n, 2], &case_keys(n))
    };
    let sizes = [(1, 130, 0.5), (2, 3, 0.0), (3, 64, 0.1), (63, 65, 0.5), (130, 7, 0.9), (127, 1, 0.25)];
    sizes.map(|(n, d, probability)| case(n, d, probability)).into()
}
