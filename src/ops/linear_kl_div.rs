//! `loss_n = KL(softmax(t_n / tau) || softmax(s_n / tau))` over a whole catalogue, `t` and `s` the teacher's and the
//! student's `H W^T`; without a factor `tau^2`. Only the student is differentiated.
//!
//! No logits are stored: with `e^T = exp(t - max t)`, `e^S = exp(s - max s)` and `x = (s - max s) - (t - max t)` (all over
//! `tau`) the loss is `log(sum e^S / sum e^T) - sum e^T x / sum e^T`. The sum of `e^S - e^T` is kept beside both sums: when
//! student and teacher agree, the logarithm of their ratio would drown in rounding. The gradient makes both tiles again:
//! `ds = dloss (p^S - p^T) / tau`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::tiles;
use crate::ops::tiles::{
    GpuChunks, Gradients, LOWEST, Scorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, chunks, gradient, gradient_scratch,
    lane_rows, reference_score,
};
use crate::shader;
use rayon::prelude::*;

/// Inputs `student_hidden[N, D]`, `student_weight[V, D]`, `teacher_hidden[N, E]`, `teacher_weight[V, E]`.
/// Outputs `loss[N]` and, for the gradient, `lse[N, 2]` of the student's and the teacher's logits over `tau`.
#[derive(Clone, Copy, Debug)]
pub struct LinearKlDiv {
    /// What the scores of both sides are divided by.
    pub temperature: f64,
    /// The catalogue is the first so many rows of both weights.
    pub items: Option<usize>,
}

impl LinearKlDiv {
    fn items(&self, weight_rows: usize) -> usize {
        self.items.unwrap_or(weight_rows)
    }

    /// A row's logits over the temperature, and their log-sum-exp.
    fn reference_logits(&self, hidden: &Array, weight: &Array, row: usize) -> (Vec<f64>, f64) {
        let items = 0..self.items(weight.rows());
        let z: Vec<f64> = items.map(|v| reference_score(hidden, weight, None, row, v) / self.temperature).collect();
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        (z, lse)
    }
}

/// The teacher as a scorer.
fn teacher<'a>(io: &CpuIo<'a>) -> Scorer<'a> {
    Scorer { hidden: io.inputs[2].f(), weight: io.inputs[3].f(), bias: None, width: io.inputs[2].width() }
}

impl Op for LinearKlDiv {
    fn name(&self) -> &'static str {
        "linear_kl_div"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        tiles::check(self.name(), &inputs[..2], None, self.items)?;
        tiles::check(self.name(), &inputs[2..], None, self.items)?;
        let rows = inputs[0].rows();
        let fits = inputs[2].rows() == rows && inputs[3].rows() == inputs[1].rows() && self.temperature > 0.0;
        expect(self.name(), fits, || {
            format!("{self:?} of {} x {} and {} x {}", inputs[0], inputs[1], inputs[2], inputs[3])
        })?;
        Ok(vec![TensorType::f32(&[rows]), TensorType::f32(&[rows, 2])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        for n in 0..inputs[0].rows() {
            let (s, lse_s) = self.reference_logits(inputs[0], inputs[1], n);
            let (t, lse_t) = self.reference_logits(inputs[2], inputs[3], n);
            let terms = s.iter().zip(&t).map(|(s, t)| (t - lse_t).exp() * ((t - lse_t) - (s - lse_s)));
            outputs[0].f_mut()[n] = terms.sum();
            outputs[1].f_mut()[2 * n..2 * n + 2].copy_from_slice(&[lse_s, lse_t]);
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let rows = inputs[0].rows();
        rows.div_ceil(lane_rows(rows)) * (2 * TILE + STATS * TILE_ROWS)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (student, teacher, items) = (Scorer::new(io, false), teacher(io), self.items(io.inputs[1].rows()));
        let (lane_len, scale) = (lane_rows(io.inputs[0].rows()), (1.0 / self.temperature) as f32);
        let [loss, lse] = &mut io.outputs[..] else { unreachable!("inferred") };
        let outputs = loss.f().par_chunks_mut(lane_len).zip(lse.f().par_chunks_mut(2 * lane_len));
        let lanes = io.scratch.par_chunks_mut(2 * TILE + STATS * TILE_ROWS);
        lanes.zip(outputs).enumerate().for_each(|(lane, (space, (loss, lse)))| {
            let (student_tile, rest) = space.split_at_mut(TILE);
            let (teacher_tile, stats) = rest.split_at_mut(TILE);
            for (block, (loss, lse)) in loss.chunks_mut(TILE_ROWS).zip(lse.chunks_mut(2 * TILE_ROWS)).enumerate() {
                let first = lane * lane_len + block * TILE_ROWS;
                let rows = |s: Scorer<'_>| first * s.width..(first + loss.len()) * s.width;
                let (student_rows, teacher_rows) = (rows(student), rows(teacher));
                let stats = &mut stats[..STATS * loss.len()];
                stats
                    .chunks_exact_mut(STATS)
                    .for_each(|row| row.copy_from_slice(&[LOWEST, LOWEST, 0.0, 0.0, 0.0, 0.0]));
                for chunk in chunks(0..items) {
                    student.tile(&student.hidden[student_rows.clone()], chunk.clone(), student_tile);
                    teacher.tile(&teacher.hidden[teacher_rows.clone()], chunk.clone(), teacher_tile);
                    let tiles =
                        student_tile.chunks_exact_mut(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
                    for (stats, (s, t)) in stats.chunks_exact_mut(STATS).zip(tiles) {
                        fold_pair(stats, &mut s[..chunk.len()], &mut t[..chunk.len()], scale);
                    }
                }
                for ((stats, loss), lse) in stats.chunks_exact(STATS).zip(loss).zip(lse.chunks_exact_mut(2)) {
                    let &[max_s, max_t, sum_s, sum_t, difference, weighted] = stats else {
                        unreachable!("six numbers")
                    };
                    lse.copy_from_slice(&[max_s + sum_s.ln(), max_t + sum_t.ln()]);
                    let close = difference.abs() < 0.25 * sum_t;
                    *loss =
                        if close { (difference / sum_t).ln_1p() } else { sum_s.ln() - sum_t.ln() } - weighted / sum_t;
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) -> Result<()> {
        let (rows, items) = (builder.inputs[0].rows(), self.items(builder.inputs[1].rows()));
        let student = GpuChunks::new(builder, items);
        let teacher = student.beside(builder, 2);
        let stats = builder.scratch(STATS * rows);
        student.each(builder, |builder, first, len| {
            let s = student.scores(builder, first, len, false)?;
            let t = teacher.scores(builder, first, len, false)?;
            let mut bindings = vec![(s, Read), (t, Read), (stats, Update)];
            bindings.extend([(builder.output(0), Update), (builder.output(1), Update)]);
            let mut params = vec![rows.into(), len.into(), (first == 0).into(), (first + len == items).into()];
            params.push((1.0 / self.temperature).into());
            builder.dispatch(shader!("linear_kl_div"), &[], &bindings, &params, rows)
        })
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        let mut inputs: Vec<_> = (0..4).map(|i| vjp.input(i)).collect();
        inputs.extend([vjp.output(1), dloss]);
        let gradients = vjp.add(LinearKlDivGradient(*self), &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if vjp.needs(i) {
                vjp.accumulate(i, gradient)?;
            }
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.items(inputs[1].rows());
        Cost::new(2 * (inputs[0].len() + inputs[2].len()) * items, inputs, outputs)
    }
}

/// Numbers that a row carries from chunk to chunk: both maxima, `sum e^S`, `sum e^T`, `sum e^S - e^T`, `sum e^T x`.
const STATS: usize = 6;

/// Logits may rise so far above the maximum of the first chunk before sums are rescaled, which costs accuracy.
const HEADROOM: f32 = 30.0;

/// Takes a chunk of both logits into a row's numbers. The logits are used up.
fn fold_pair(stats: &mut [f32], s: &mut [f32], t: &mut [f32], scale: f32) {
    simd::scale(s, scale);
    simd::scale(t, scale);
    let shift = |before: f32, max: f32| if max > before + HEADROOM { max } else { before };
    let (max_s, max_t) = (shift(stats[0], simd::max(s)), shift(stats[1], simd::max(t)));
    if stats[3] > 0.0 && (max_s, max_t) != (stats[0], stats[1]) {
        let (rise_s, rise_t) = (max_s - stats[0], max_t - stats[1]);
        let (shrink_s, shrink_t) = ((-rise_s).exp(), (-rise_t).exp());
        stats[5] = (stats[5] + stats[3] * (rise_t - rise_s)) * shrink_t;
        stats[4] = stats[4] * shrink_s + stats[3] * (shrink_s - shrink_t);
        stats[2] *= shrink_s;
        stats[3] *= shrink_t;
    }
    let mut x = [0.0; TILE_ITEMS];
    let x = &mut x[..s.len()];
    x.iter_mut().zip(s.iter().zip(t.iter())).for_each(|(x, (s, t))| *x = (s - max_s) - (t - max_t));
    (stats[0], stats[1]) = (max_s, max_t);
    stats[2] += simd::exp_sub_sum(s, max_s);
    stats[3] += simd::exp_sub_sum(t, max_t);
    stats[5] += simd::dot(t, x);
    simd::axpy(-1.0, t, s);
    stats[4] += simd::sum(s);
}

/// Inputs of the forward op, `lse[N, 2]`, `dloss[N]`; outputs `dstudent_hidden`, `dstudent_weight`.
#[derive(Clone, Copy, Debug)]
pub struct LinearKlDivGradient(pub LinearKlDiv);

impl Op for LinearKlDivGradient {
    fn name(&self) -> &'static str {
        "linear_kl_div_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone(), inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (hidden, weight, lse, dloss) = (inputs[0], inputs[1], inputs[4], inputs[5].f());
        let width = hidden.width();
        for (n, dloss) in dloss.iter().enumerate() {
            let (s, t) =
                (self.0.reference_logits(hidden, weight, n).0, self.0.reference_logits(inputs[2], inputs[3], n).0);
            for (v, (s, t)) in s.iter().zip(&t).enumerate() {
                let ds = dloss / self.0.temperature * ((s - lse.row(n)[0]).exp() - (t - lse.row(n)[1]).exp());
                for d in 0..width {
                    outputs[0].f_mut()[n * width + d] += ds * weight.row(v)[d];
                    outputs[1].f_mut()[v * width + d] += ds * hidden.row(n)[d];
                }
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        inputs[0].rows() + gradient_scratch(inputs[0].rows(), inputs[0].width(), TILE)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (student, teacher, items) = (Scorer::new(io, false), teacher(io), self.0.items(io.inputs[1].rows()));
        let (lse, dloss, scale) = (io.inputs[4].f(), io.inputs[5].f(), (1.0 / self.0.temperature) as f32);
        let (rows, scratch) = io.scratch.split_at_mut(dloss.len());
        let rows: &mut [u32] = bytemuck::cast_slice_mut(rows);
        rows.iter_mut().zip(0..).for_each(|(row, n)| *row = n);
        let gradients = Gradients::of(&mut io.outputs);
        gradient(student, (rows, items, TILE), gradients, scratch, |rows, chunk, tile, teacher_tile| {
            let first = rows[0] as usize;
            let queries = &teacher.hidden[first * teacher.width..(first + rows.len()) * teacher.width];
            teacher.tile(queries, chunk.clone(), teacher_tile);
            let tiles = tile.chunks_exact_mut(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
            for (&row, (s, t)) in rows.iter().zip(tiles) {
                let (s, t, row) = (&mut s[..chunk.len()], &mut t[..chunk.len()], row as usize);
                simd::scale(s, scale);
                simd::scale(t, scale);
                simd::exp_sub_scale(s, lse[2 * row], dloss[row] * scale);
                simd::exp_sub_scale(t, lse[2 * row + 1], dloss[row] * scale);
                simd::axpy(-1.0, t, s);
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) -> Result<()> {
        let (rows, table_rows) = (builder.inputs[0].rows(), builder.inputs[1].rows());
        // All rows of the table, so that those behind the catalogue get their zeros.
        let student = GpuChunks::new(builder, table_rows);
        let teacher = student.beside(builder, 2);
        student.each(builder, |builder, first, len| {
            let ds = student.scores(builder, first, len, false)?;
            let t = teacher.scores(builder, first, len, false)?;
            let bindings = [(ds, Update), (t, Read), (builder.input(4), Read), (builder.input(5), Read)];
            let mut params = vec![rows.into(), len.into(), first.into(), self.0.items(table_rows).into()];
            params.push((1.0 / self.0.temperature).into());
            let groups = (rows * len).div_ceil(64);
            builder.dispatch(shader!("linear_kl_div_gradient"), &[], &bindings, &params, groups)?;
            let gradients = [builder.output(0), builder.output(1)];
            student.products(builder, ds, (first, len), gradients)
        })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let items = self.0.items(inputs[1].rows());
        Cost::new((6 * inputs[0].len() + 2 * inputs[2].len()) * items, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("linear_kl_div", build)];

fn build(b: &mut Builder) -> Result<()> {
    let names = ["student_hidden", "student_weight", "teacher_hidden", "teacher_weight"];
    let inputs = names.into_iter().map(|name| b.input(name)).collect::<Result<Vec<_>>>()?;
    let items = b.optional_f64("items").map(|items| items as usize);
    let loss = b.graph.add1(LinearKlDiv { temperature: b.attr_f64("temperature")?, items }, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, v: usize, d: usize, e: usize, temperature: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{v}x{d},{e} tau {temperature}")).attr("temperature", temperature);
        let case = case.normal("student_hidden", &[n, d], 1.0).normal("student_weight", &[v, d], 1.0);
        let data = |len: usize, step: usize| (0..len).map(|i| ((i * step) % 101) as f32 / 40.0 - 1.25).collect();
        case.constant("teacher_hidden", &[n, e], data(n * e, 37)).constant("teacher_weight", &[v, e], data(v * e, 29))
    };
    vec![
        case(1, 2, 1, 1, 1.0),
        case(3, 65, 2, 5, 2.0),
        case(63, 130, 7, 3, 0.5),
        case(130, 64, 3, 2, 1.0).attr("items", 61),
        case(530, 5, 2, 3, 4.0),
        case(2, 4300, 2, 1, 3.0),
    ]
}
