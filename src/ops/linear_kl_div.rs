//! `loss_n = KL(softmax(t_n / tau) || softmax(s_n / tau))` over a whole catalogue, for each of the teachers; `t` and `s` are a
//! teacher's and the student's `H W^T (+ b)`. Without a factor `tau^2`. Only the student is differentiated.
//!
//! No logits are stored: with `e^T = exp(t - max t)`, `e^S = exp(s - max s)` and `x = (s - max s) - (t - max t)` (all over
//! `tau`) the loss is `log(sum e^S / sum e^T) - sum e^T x / sum e^T`. The sum of `e^S - e^T` is kept beside both sums: when
//! student and teacher agree, the logarithm of their ratio would drown in rounding. The gradient makes all tiles again:
//! `ds = sum over teachers of dloss (p^S - p^T) / tau`.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::column_sum::column_sum_gpu;
use crate::ops::fill::Fill;
use crate::ops::tiles;
use crate::ops::tiles::{
    GpuChunks, Gradients, LOWEST, Scorer, TILE, TILE_ITEMS, TILE_ROWS, TILE_STRIDE, chunks, gradient, gradient_scratch,
    lane_rows, reference_score, target_words,
};
use crate::shader;
use rayon::prelude::*;

/// Inputs: of the student `hidden[N, D]`, `weight[V, D]`, (`bias[V]`); then of each teacher the same, with a width of its own.
/// Outputs: `loss[N]` for each teacher and, for the gradient, `lse[N, 1 + K]` of the logits over `tau`, the student's first.
#[derive(Clone, Copy, Debug)]
pub struct LinearKlDiv {
    /// What the scores of all sides are divided by.
    pub temperature: f64,
    /// The catalogue is the first so many rows of all weights.
    pub items: Option<usize>,
    /// K
    pub teachers: usize,
    /// Whether the student has a bias.
    pub student_bias: bool,
    /// Whether the teachers have biases.
    pub teacher_bias: bool,
}

impl Default for LinearKlDiv {
    fn default() -> Self {
        LinearKlDiv { temperature: 1.0, items: None, teachers: 1, student_bias: false, teacher_bias: false }
    }
}

impl LinearKlDiv {
    fn items(&self, weight_rows: usize) -> usize {
        self.items.unwrap_or(weight_rows)
    }

    /// Where the inputs of a side begin, the student being side 0, and whether it has a bias.
    fn side(&self, side: usize) -> (usize, bool) {
        match side {
            0 => (0, self.student_bias),
            k => {
                (2 + usize::from(self.student_bias) + (k - 1) * (2 + usize::from(self.teacher_bias)), self.teacher_bias)
            }
        }
    }

    /// How many inputs there are.
    fn inputs(&self) -> usize {
        self.side(self.teachers + 1).0
    }

    /// A side in host memory.
    fn scorer<'a>(&self, io: &CpuIo<'a>, side: usize) -> Scorer<'a> {
        let (first, has_bias) = self.side(side);
        let bias = has_bias.then(|| io.inputs[first + 2].f());
        let (hidden, weight) = (io.inputs[first], io.inputs[first + 1]);
        Scorer { hidden: hidden.f(), weight: weight.f(), bias, width: hidden.width() }
    }

    /// The scale of the logits.
    fn scale(&self) -> f64 {
        1.0 / self.temperature
    }

    /// A row's logits over the temperature, and their log-sum-exp.
    fn reference_logits(&self, inputs: &[&Array], side: usize, row: usize) -> (Vec<f64>, f64) {
        let (first, has_bias) = self.side(side);
        let (hidden, weight, bias) = (inputs[first], inputs[first + 1], has_bias.then(|| inputs[first + 2]));
        let items = 0..self.items(weight.rows());
        let z: Vec<f64> = items.map(|v| reference_score(hidden, weight, bias, row, v) / self.temperature).collect();
        let max = z.iter().copied().fold(f64::MIN, f64::max);
        let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        (z, lse)
    }

    /// Scratch for a lane of the forward pass: a tile of the student, one of a teacher, a row, and all rows' numbers.
    fn lane_words(&self) -> usize {
        2 * TILE + TILE_ITEMS + self.teachers * STATS * TILE_ROWS
    }
}

impl Op for LinearKlDiv {
    fn name(&self) -> &'static str {
        "linear_kl_div"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let count = inputs.len() == self.inputs() && self.teachers > 0 && self.temperature > 0.0;
        expect(self.name(), count, || format!("{self:?} of {} inputs", inputs.len()))?;
        let rows = inputs[0].rows();
        for side in 0..=self.teachers {
            let (first, has_bias) = self.side(side);
            let (hidden, weight) = (inputs[first], inputs[first + 1]);
            tiles::check(self.name(), &[hidden, weight], has_bias.then(|| inputs[first + 2]), self.items)?;
            let fits = hidden.rows() == rows && weight.rows() == inputs[1].rows();
            expect(self.name(), fits, || format!("{hidden} x {weight} beside {} x {}", inputs[0], inputs[1]))?;
        }
        let lse = TensorType::f32(&[rows, 1 + self.teachers]);
        Ok(std::iter::repeat_n(TensorType::f32(&[rows]), self.teachers).chain([lse]).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (losses, lses) = outputs.split_at_mut(self.teachers);
        for n in 0..inputs[0].rows() {
            let (s, lse_s) = self.reference_logits(inputs, 0, n);
            let lses = &mut lses[0].f_mut()[n * (1 + self.teachers)..][..1 + self.teachers];
            lses[0] = lse_s;
            for (k, loss) in losses.iter_mut().enumerate() {
                let (t, lse_t) = self.reference_logits(inputs, k + 1, n);
                let terms = s.iter().zip(&t).map(|(s, t)| (t - lse_t).exp() * ((t - lse_t) - (s - lse_s)));
                loss.f_mut()[n] = terms.sum();
                lses[k + 1] = lse_t;
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let rows = inputs[0].rows();
        rows.div_ceil(lane_rows(rows)) * self.lane_words()
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (rows, items, scale) = (io.inputs[0].rows(), self.items(io.inputs[1].rows()), self.scale() as f32);
        let (student, lane_len) = (self.scorer(io, 0), lane_rows(rows));
        let teachers: Vec<Scorer> = (1..=self.teachers).map(|side| self.scorer(io, side)).collect();
        let of_lane = |lane: usize| lane * lane_len..rows.min((lane + 1) * lane_len);
        // A lane's part of each output.
        let mut outputs: Vec<Vec<&mut [f32]>> = (0..rows.div_ceil(lane_len)).map(|_| Vec::new()).collect();
        for (k, output) in io.outputs.iter_mut().enumerate() {
            let width = if k < self.teachers { 1 } else { 1 + self.teachers };
            let parts = output.f().chunks_mut(lane_len * width);
            outputs.iter_mut().zip(parts).for_each(|(of_lane, part)| of_lane.push(part));
        }
        let lanes = io.scratch.par_chunks_mut(self.lane_words()).zip(outputs);
        lanes.enumerate().for_each(|(lane, (space, mut outputs))| {
            let (student_tile, space) = space.split_at_mut(TILE);
            let (teacher_tile, space) = space.split_at_mut(TILE);
            let (copy, all_stats) = space.split_at_mut(TILE_ITEMS);
            let lane = of_lane(lane);
            for first in lane.clone().step_by(TILE_ROWS) {
                let block = first..lane.end.min(first + TILE_ROWS);
                let queries = |s: &Scorer| block.start * s.width..block.end * s.width;
                let stats = &mut all_stats[..self.teachers * STATS * block.len()];
                let start = [LOWEST, LOWEST, 0.0, 0.0, 0.0, 0.0];
                stats.chunks_exact_mut(STATS).for_each(|row| row.copy_from_slice(&start));
                for chunk in chunks(0..items) {
                    student.tile(&student.hidden[queries(&student)], chunk.clone(), student_tile);
                    for (teacher, stats) in teachers.iter().zip(stats.chunks_exact_mut(STATS * block.len())) {
                        teacher.tile(&teacher.hidden[queries(teacher)], chunk.clone(), teacher_tile);
                        let tiles =
                            student_tile.chunks_exact(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
                        for (stats, (s, t)) in stats.chunks_exact_mut(STATS).zip(tiles) {
                            let copy = &mut copy[..chunk.len()];
                            copy.copy_from_slice(&s[..chunk.len()]);
                            fold_pair(stats, copy, &mut t[..chunk.len()], scale);
                        }
                    }
                }
                for (k, stats) in stats.chunks_exact(STATS * block.len()).enumerate() {
                    for (row, stats) in (first - lane.start..).zip(stats.chunks_exact(STATS)) {
                        let (loss, [lse_s, lse_t]) = finish(stats);
                        outputs[k][row] = loss;
                        let lse = &mut outputs[self.teachers][row * (1 + self.teachers)..];
                        (lse[0], lse[k + 1]) = (lse_s, lse_t);
                    }
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (rows, items) = (builder.inputs[0].rows(), self.items(builder.inputs[1].rows()));
        let student = GpuChunks::new(builder, items).rounding();
        let teacher = student.beside(builder);
        let stats: Vec<Region> = (0..self.teachers).map(|_| builder.scratch(STATS * rows)).collect();
        student.each(builder, |builder, first, len| {
            let s = student.scores(builder, first, len, self.student_bias);
            for (k, stats) in stats.iter().enumerate() {
                let (hidden, has_bias) = self.side(k + 1);
                let t = teacher.of(hidden).scores(builder, first, len, has_bias);
                let mut bindings = vec![(s, Read), (t, Read), (*stats, Update)];
                bindings.extend([(builder.output(k), Update), (builder.output(self.teachers), Update)]);
                let (is_first, is_last, sides) =
                    ((first == 0).into(), (first + len == items).into(), 1 + self.teachers);
                let params = [rows.into(), len.into(), is_first, is_last, self.scale().into(), k.into(), sides.into()];
                builder.dispatch(shader!("linear_kl_div"), &[], &bindings, &params, rows);
            }
        });
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let cotangents: Vec<_> = (0..self.teachers).map(|k| vjp.cotangent(k)).collect();
        if cotangents.iter().all(Option::is_none) {
            return Ok(());
        }
        let mut inputs: Vec<_> = (0..self.inputs()).map(|i| vjp.input(i)).collect();
        inputs.push(vjp.output(self.teachers));
        for cotangent in cotangents {
            let shape = vjp.ty(vjp.output(0)).shape;
            inputs.push(match cotangent {
                Some(cotangent) => cotangent,
                None => vjp.add(Fill { value: 0.0, shape }, &[])?[0],
            });
        }
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
        let numbers: usize = (0..=self.teachers).map(|side| inputs[self.side(side).0].len()).sum();
        Cost::new(2 * numbers * items, inputs, outputs)
    }
}

/// A row's loss, and the log-sum-exps of student and teacher.
fn finish(stats: &[f32]) -> (f32, [f32; 2]) {
    let &[max_s, max_t, sum_s, sum_t, difference, weighted] = stats else { unreachable!("six numbers") };
    let close = difference.abs() < 0.25 * sum_t;
    let log_ratio = if close { (difference / sum_t).ln_1p() } else { sum_s.ln() - sum_t.ln() };
    (log_ratio - weighted / sum_t, [max_s + sum_s.ln(), max_t + sum_t.ln()])
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

/// Inputs of the forward op, `lse[N, 1 + K]`, then `dloss[N]` for each teacher; outputs `dhidden`, `dweight`, (`dbias`) of the
/// student.
#[derive(Clone, Copy, Debug)]
pub struct LinearKlDivGradient(pub LinearKlDiv);

impl Op for LinearKlDivGradient {
    fn name(&self) -> &'static str {
        "linear_kl_div_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(inputs[..2 + usize::from(self.0.student_bias)].iter().map(|ty| (*ty).clone()).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (op, forward) = (&self.0, self.0.inputs());
        let (hidden, weight, lse, width) = (inputs[0], inputs[1], inputs[forward], inputs[0].width());
        for n in 0..hidden.rows() {
            let s = op.reference_logits(inputs, 0, n).0;
            for k in 1..=op.teachers {
                let (t, dloss) = (op.reference_logits(inputs, k, n).0, inputs[forward + k].f()[n]);
                for (v, (s, t)) in s.iter().zip(&t).enumerate() {
                    let ds = dloss / op.temperature * ((s - lse.row(n)[0]).exp() - (t - lse.row(n)[k]).exp());
                    for d in 0..width {
                        outputs[0].f_mut()[n * width + d] += ds * weight.row(v)[d];
                        outputs[1].f_mut()[v * width + d] += ds * hidden.row(n)[d];
                    }
                    outputs.iter_mut().skip(2).for_each(|dbias| dbias.f_mut()[v] += ds);
                }
            }
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        target_words(inputs[0].rows()) + gradient_scratch(inputs[0].rows(), inputs[0].width(), TILE)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (op, forward) = (&self.0, self.0.inputs());
        let (student, items, scale) = (op.scorer(io, 0), op.items(io.inputs[1].rows()), op.scale() as f32);
        let teachers: Vec<(Scorer, &[f32])> =
            (1..=op.teachers).map(|k| (op.scorer(io, k), io.inputs[forward + k].f())).collect();
        let (lse, sides) = (io.inputs[forward].f(), 1 + op.teachers);
        let count = io.inputs[0].rows();
        let (rows, scratch) = io.scratch.split_at_mut(target_words(count));
        let rows: &mut [u32] = bytemuck::cast_slice_mut(&mut rows[..count]);
        rows.iter_mut().zip(0..).for_each(|(row, n)| *row = n);
        let gradients = Gradients::of(&mut io.outputs);
        gradient(student, (rows, items, TILE), gradients, scratch, |rows, chunk, tile, teacher_tile| {
            let first = rows[0] as usize;
            for (&row, s) in rows.iter().zip(tile.chunks_exact_mut(TILE_STRIDE)) {
                let (s, row) = (&mut s[..chunk.len()], row as usize);
                let dloss = teachers.iter().map(|(_, dloss)| dloss[row]).sum::<f32>();
                simd::scale(s, scale);
                simd::exp_sub_scale(s, lse[sides * row], dloss * scale);
            }
            for (k, (teacher, dloss)) in (1..).zip(&teachers) {
                let queries = &teacher.hidden[first * teacher.width..(first + rows.len()) * teacher.width];
                teacher.tile(queries, chunk.clone(), teacher_tile);
                let tiles = tile.chunks_exact_mut(TILE_STRIDE).zip(teacher_tile.chunks_exact_mut(TILE_STRIDE));
                for (&row, (s, t)) in rows.iter().zip(tiles) {
                    let (s, t, row) = (&mut s[..chunk.len()], &mut t[..chunk.len()], row as usize);
                    simd::scale(t, scale);
                    simd::exp_sub_scale(t, lse[sides * row + k], dloss[row] * scale);
                    simd::axpy(-1.0, t, s);
                }
            }
        });
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (op, forward) = (&self.0, self.0.inputs());
        let (rows, table_rows) = (builder.inputs[0].rows(), builder.inputs[1].rows());
        // All rows of the table, so that those behind the catalogue get their zeros.
        let student = GpuChunks::new(builder, table_rows).rounding();
        let (teacher, sum) = (student.beside(builder), student.beside(builder));
        student.each(builder, |builder, first, len| {
            let s = student.scores(builder, first, len, op.student_bias);
            let ds = sum.region(rows * len);
            for k in 0..op.teachers {
                let (hidden, has_bias) = op.side(k + 1);
                let t = teacher.of(hidden).scores(builder, first, len, has_bias);
                let mut bindings = vec![(s, Read), (t, Read), (builder.input(forward), Read)];
                bindings.extend([(builder.input(forward + 1 + k), Read), (ds, Update)]);
                let (items, sides) = (op.items(table_rows).into(), 1 + op.teachers);
                let params = [rows.into(), len.into(), first.into(), items, op.scale().into(), k.into(), sides.into()];
                let groups = (rows * len).div_ceil(64);
                builder.dispatch(shader!("linear_kl_div_gradient"), &[], &bindings, &params, groups);
            }
            let gradients = [builder.output(0), builder.output(1)];
            student.products(builder, ds, (first, len), gradients);
            if op.student_bias {
                let dbias = builder.output(2).slice(first, len);
                column_sum_gpu(builder, ds, (rows, len), dbias, false);
            }
        });
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let (op, items) = (&self.0, self.0.items(inputs[1].rows()));
        let teachers: usize = (1..=op.teachers).map(|side| inputs[op.side(side).0].len()).sum();
        Cost::new((6 * inputs[0].len() + 2 * teachers) * items, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("linear_kl_div", build)];

/// Of several teachers all but the first have numbered inputs and losses.
fn numbered(name: &str, teacher: usize) -> String {
    if teacher == 1 { name.into() } else { format!("{name}_{teacher}") }
}

fn build(b: &mut Builder) -> Result<()> {
    let mut op = LinearKlDiv { temperature: b.attr_f64("temperature")?, ..LinearKlDiv::default() };
    op.items = b.optional_f64("items").map(|items| items as usize);
    op.teachers = b.optional_f64("teachers").map_or(1, |teachers| teachers as usize);
    let mut inputs = vec![b.input("student_hidden")?, b.input("student_weight")?];
    op.student_bias = b.has("student_bias");
    if op.student_bias {
        inputs.push(b.input("student_bias")?);
    }
    op.teacher_bias = b.has("teacher_bias");
    for teacher in 1..=op.teachers {
        inputs.extend([b.input(&numbered("teacher_hidden", teacher))?, b.input(&numbered("teacher_weight", teacher))?]);
        if op.teacher_bias {
            inputs.push(b.input(&numbered("teacher_bias", teacher))?);
        }
    }
    let losses = b.graph.add(op, &inputs)?;
    for (teacher, loss) in (1..=op.teachers).zip(losses) {
        b.output(&numbered("loss", teacher), loss);
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let data = |len: usize, step: usize| (0..len).map(|i| ((i * step) % 101) as f32 / 40.0 - 1.25).collect();
    let case = |n: usize, v: usize, d: usize, e: usize, temperature: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{v}x{d},{e} tau {temperature}")).attr("temperature", temperature);
        let case = case.normal("student_hidden", &[n, d], 1.0).normal("student_weight", &[v, d], 1.0);
        case.constant("teacher_hidden", &[n, e], data(n * e, 37)).constant("teacher_weight", &[v, e], data(v * e, 29))
    };
    // Teacher k has width k, and all sides have biases.
    let several = |n: usize, v: usize, d: usize, teachers: usize| {
        let case = Case::new(KERNELS[0], format!("{n}x{v}x{d}, {teachers} teachers")).attr("temperature", 1.0);
        let case = case.attr("teachers", teachers);
        let case = case.normal("student_hidden", &[n, d], 1.0).normal("student_weight", &[v, d], 1.0);
        (1..=teachers).fold(case.normal("student_bias", &[v], 1.0), |case, k| {
            let case = case.constant(&numbered("teacher_hidden", k), &[n, k], data(n * k, 30 + k));
            let case = case.constant(&numbered("teacher_weight", k), &[v, k], data(v * k, 20 + k));
            case.constant(&numbered("teacher_bias", k), &[v], data(v, 10 + k))
        })
    };
    vec![
        case(1, 2, 1, 1, 1.0),
        case(3, 65, 2, 5, 2.0),
        case(63, 130, 7, 3, 0.5),
        case(130, 64, 3, 2, 1.0).attr("items", 61),
        case(530, 5, 2, 3, 4.0),
        case(2, 4300, 2, 1, 3.0),
        several(5, 37, 3, 3),
        several(131, 259, 2, 3).attr("items", 258),
        several(2, 4300, 2, 2),
    ]
}
