//! `loss_n = KL(softmax(t_n / tau) || softmax(s_n / tau))` over a whole catalogue, for each of the teachers; `t` and `s` are a
//! teacher's and the student's `H W^T (+ b)`. Without a factor `tau^2`. Only the student is differentiated.
//!
//! No logits are stored: with `e^T = exp(t - max t)`, `e^S = exp(s - max s)` and `x = (s - max s) - (t - max t)` (all over
//! `tau`) the loss is `log(sum e^S / sum e^T) - sum e^T x / sum e^T`. The sum of `e^S - e^T` is kept beside both sums: when
//! student and teacher agree, the logarithm of their ratio would drown in rounding. The gradient makes all tiles again:
//! `ds = sum over teachers of dloss (p^S - p^T) / tau`. Where `dloss` is known beforehand, as in training, loss and gradient are
//! made together: a block of rows keeps its logits, if memory for them is small beside the gradients.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, GpuBuilder, Region};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, WithForward, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::column_sum::column_sum_gpu;
use crate::ops::fill::Fill;
use crate::ops::tiles::{self, GpuChunks, Gradients, reference_score};
use crate::shader;
use cpu::Problem;
use std::sync::Arc;

#[path = "linear_kl_div/cpu.rs"]
mod cpu;

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

    /// The losses and `lse` on a GPU.
    fn losses_gpu(&self, builder: &mut GpuBuilder, losses: &[Region], lse: Region) {
        let (rows, items) = (builder.inputs[0].rows(), self.items(builder.inputs[1].rows()));
        let student = GpuChunks::new(builder, items).rounding();
        let teacher = student.beside(builder);
        let stats: Vec<Region> = (0..self.teachers).map(|_| builder.scratch(STATS * rows)).collect();
        student.each(builder, |builder, first, len| {
            let s = student.scores(builder, first, len, self.student_bias);
            for (k, (stats, loss)) in stats.iter().zip(losses).enumerate() {
                let (hidden, has_bias) = self.side(k + 1);
                let t = teacher.of(hidden).scores(builder, first, len, has_bias);
                let bindings = [(s, Read), (t, Read), (*stats, Update), (*loss, Update), (lse, Update)];
                let (is_first, is_last, sides) =
                    ((first == 0).into(), (first + len == items).into(), 1 + self.teachers);
                let params = [rows.into(), len.into(), is_first, is_last, self.scale().into(), k.into(), sides.into()];
                builder.dispatch(shader!("linear_kl_div"), &[], &bindings, &params, rows);
            }
        });
    }

    /// The gradient on a GPU, from `lse` and each teacher's `dloss`: of `hidden`, `weight` and the bias, if there is one.
    fn gradient_gpu(&self, builder: &mut GpuBuilder, lse: Region, dloss: &[Region], gradients: &[Region]) {
        let (rows, table_rows) = (builder.inputs[0].rows(), builder.inputs[1].rows());
        // All rows of the table, so that those behind the catalogue get their zeros.
        let student = GpuChunks::new(builder, table_rows).rounding();
        let (teacher, sum) = (student.beside(builder), student.beside(builder));
        student.each(builder, |builder, first, len| {
            let s = student.scores(builder, first, len, self.student_bias);
            let ds = sum.region(rows * len);
            for (k, dloss) in dloss.iter().enumerate() {
                let (hidden, has_bias) = self.side(k + 1);
                let t = teacher.of(hidden).scores(builder, first, len, has_bias);
                let bindings = [(s, Read), (t, Read), (lse, Read), (*dloss, Read), (ds, Update)];
                let (items, sides) = (self.items(table_rows).into(), 1 + self.teachers);
                let params =
                    [rows.into(), len.into(), first.into(), items, self.scale().into(), k.into(), sides.into()];
                let groups = (rows * len).div_ceil(64);
                builder.dispatch(shader!("linear_kl_div_gradient"), &[], &bindings, &params, groups);
            }
            student.products(builder, ds, (first, len), [gradients[0], gradients[1]]);
            if let Some(dbias) = gradients.get(2) {
                column_sum_gpu(builder, ds, (rows, len), dbias.slice(first, len), false);
            }
        });
    }
}

/// Numbers that a row carries from chunk to chunk: both maxima, `sum e^S`, `sum e^T`, `sum e^S - e^T`, `sum e^T x`.
const STATS: usize = 6;

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
        cpu::loss_scratch(inputs[0].rows(), self.teachers)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let problem = Problem::new(self, io);
        cpu::loss(&problem, io.outputs.iter_mut().map(|output| output.f()).collect(), io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let losses: Vec<Region> = (0..self.teachers).map(|k| builder.output(k)).collect();
        self.losses_gpu(builder, &losses, builder.output(self.teachers));
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
        cpu::separate_gradient_scratch(inputs[0].rows(), inputs[0].width())
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (op, forward) = (&self.0, self.0.inputs());
        let problem = Problem::new(op, io);
        let dloss: Vec<&[f32]> = (1..=op.teachers).map(|k| io.inputs[forward + k].f()).collect();
        let gradients = Gradients::of(&mut io.outputs);
        cpu::gradient(&problem, io.inputs[forward].f(), &dloss, gradients, io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (op, forward) = (&self.0, self.0.inputs());
        let dloss: Vec<Region> = (1..=op.teachers).map(|k| builder.input(forward + k)).collect();
        let gradients: Vec<Region> = (0..builder.outputs.len()).map(|i| builder.output(i)).collect();
        op.gradient_gpu(builder, builder.input(forward), &dloss, &gradients);
    }

    /// Inputs without `lse`, which becomes an output.
    fn with_forward(&self) -> Option<WithForward> {
        Some(WithForward { op: Arc::new(LinearKlDivWithGradient(self.0)), saved_from_end: 1 + self.0.teachers })
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(4 * inputs[0].len() * self.0.items(inputs[1].rows()), inputs, outputs)
    }
}

/// Both at once: inputs of the forward op, then `dloss[N]` for each teacher; outputs of the forward op, then `dhidden`, `dweight`,
/// (`dbias`) of the student.
#[derive(Clone, Copy, Debug)]
pub struct LinearKlDivWithGradient(pub LinearKlDiv);

impl Op for LinearKlDivWithGradient {
    fn name(&self) -> &'static str {
        "linear_kl_div_with_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let gradients = LinearKlDivGradient(self.0).infer(inputs)?;
        Ok(self.0.infer(&inputs[..self.0.inputs()])?.into_iter().chain(gradients).collect())
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (forward, dloss) = inputs.split_at(self.0.inputs());
        let (losses, gradients) = outputs.split_at_mut(1 + self.0.teachers);
        self.0.reference(forward, losses);
        let inputs = [forward, &[&losses[self.0.teachers]], dloss].concat();
        LinearKlDivGradient(self.0).reference(&inputs, gradients);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let items = self.0.items(inputs[1].rows());
        cpu::together_scratch(inputs[0].rows(), inputs[0].width(), items, self.0.teachers)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (op, forward) = (&self.0, self.0.inputs());
        let problem = Problem::new(op, io);
        let dloss: Vec<&[f32]> = (0..op.teachers).map(|k| io.inputs[forward + k].f()).collect();
        let (losses, gradients) = io.outputs.split_at_mut(1 + op.teachers);
        let losses = losses.iter_mut().map(|output| output.f()).collect();
        cpu::together(&problem, &dloss, losses, Gradients::of(gradients), io.scratch);
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let (op, forward) = (&self.0, self.0.inputs());
        let outputs: Vec<Region> = (0..builder.outputs.len()).map(|i| builder.output(i)).collect();
        let dloss: Vec<Region> = (0..op.teachers).map(|k| builder.input(forward + k)).collect();
        let lse = outputs[op.teachers];
        op.losses_gpu(builder, &outputs[..op.teachers], lse);
        op.gradient_gpu(builder, lse, &dloss, &outputs[1 + op.teachers..]);
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
        // Wide enough that a block of rows keeps its logits; more rows than a block, and a last chunk that is not full.
        case(130, 300, 180, 3, 2.0).attr("items", 290),
        several(140, 300, 240, 3),
    ]
}
