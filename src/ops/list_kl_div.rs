//! `loss_n = KL(softmax(t_n / tau_t) || softmax(s_n / tau_s))` of given lists of logits, each side with its own
//! temperature; only the student is differentiated: `ds = dloss (p^S - p^T) / tau_s`.
//!
//! Lists are short (tens of items): one thread owns a row.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
use rayon::prelude::*;

/// Rows that one worker takes.
const ROW_BLOCK: usize = 256;

/// Inputs `teacher[N, L]`, `student[N, L]`; output `loss[N]`.
#[derive(Clone, Copy, Debug)]
pub struct ListKlDiv {
    /// What the teacher's scores are divided by.
    pub teacher_temperature: f64,
    /// What the student's scores are divided by.
    pub student_temperature: f64,
}

impl ListKlDiv {
    /// `(teacher, student)` log-probabilities of a row.
    fn reference_row(&self, inputs: &[&Array], n: usize) -> (Vec<f64>, Vec<f64>) {
        let log_softmax = |row: &[f64], temperature: f64| {
            let max = row.iter().copied().fold(f64::MIN, f64::max) / temperature;
            let lse = max + row.iter().map(|x| (x / temperature - max).exp()).sum::<f64>().ln();
            row.iter().map(|x| x / temperature - lse).collect()
        };
        let teacher = log_softmax(inputs[0].row(n), self.teacher_temperature);
        (teacher, log_softmax(inputs[1].row(n), self.student_temperature))
    }

    fn scales(&self) -> (f32, f32) {
        ((1.0 / self.teacher_temperature) as f32, (1.0 / self.student_temperature) as f32)
    }
}

/// Maximum and log of the sum of `exp(x scale - maximum)`.
fn normalizer(row: &[f32], scale: f32) -> (f32, f32) {
    let max = row.iter().fold(-1e30f32, |max, x| max.max(x * scale));
    (max, row.iter().map(|x| (x * scale - max).exp()).sum::<f32>().ln())
}

impl Op for ListKlDiv {
    fn name(&self) -> &'static str {
        "list_kl_div"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0] == inputs[1] && inputs[0].shape.len() == 2;
        expect(self.name(), fits, || format!("teacher is {}, student is {}", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[inputs[0].rows()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        for n in 0..inputs[0].rows() {
            let (teacher, student) = self.reference_row(inputs, n);
            outputs[0].f_mut()[n] = teacher.iter().zip(&student).map(|(t, s)| t.exp() * (t - s)).sum();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (teacher, student, width) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[0].width());
        let (scale_t, scale_s) = self.scales();
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK).enumerate().for_each(|(block, loss)| {
            for (n, loss) in (block * ROW_BLOCK..).zip(loss) {
                let (t, s) = (&teacher[n * width..(n + 1) * width], &student[n * width..(n + 1) * width]);
                let ((max_t, log_t), (max_s, log_s)) = (normalizer(t, scale_t), normalizer(s, scale_s));
                let terms = t.iter().zip(s).map(|(t, s)| {
                    let (t, s) = (t * scale_t - max_t - log_t, s * scale_s - max_s - log_s);
                    t.exp() * (t - s)
                });
                *loss = terms.sum();
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width, (scale_t, scale_s)) = (b.inputs[0].rows(), b.inputs[0].width(), self.scales());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write)];
        let params = [rows.into(), width.into(), f64::from(scale_t).into(), f64::from(scale_s).into()];
        b.dispatch(shader!("list_kl_div"), &[], &bindings, &params, rows.div_ceil(64));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dloss) = vjp.cotangent(0) else { return Ok(()) };
        if vjp.needs(1) {
            let inputs = [vjp.input(0), vjp.input(1), dloss];
            let dstudent = vjp.add(ListKlDivGradient(*self), &inputs)?[0];
            vjp.accumulate(1, dstudent)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(10 * inputs[0].len(), inputs, outputs)
    }
}

/// Inputs `teacher`, `student`, `dloss[N]`; output `dstudent[N, L]`.
#[derive(Clone, Copy, Debug)]
pub struct ListKlDivGradient(pub ListKlDiv);

impl Op for ListKlDivGradient {
    fn name(&self) -> &'static str {
        "list_kl_div_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[1].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for n in 0..inputs[0].rows() {
            let (teacher, student) = self.0.reference_row(inputs, n);
            for (i, (t, s)) in teacher.iter().zip(&student).enumerate() {
                let scale = inputs[2].f()[n] / self.0.student_temperature;
                outputs[0].f_mut()[n * width + i] = scale * (s.exp() - t.exp());
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (teacher, student, dloss) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].f());
        let (width, (scale_t, scale_s)) = (io.inputs[0].width(), self.0.scales());
        io.outputs[0].f().par_chunks_mut(ROW_BLOCK * width).enumerate().for_each(|(block, rows)| {
            for (n, row) in (block * ROW_BLOCK..).zip(rows.chunks_exact_mut(width)) {
                let (t, s) = (&teacher[n * width..(n + 1) * width], &student[n * width..(n + 1) * width]);
                let ((max_t, log_t), (max_s, log_s)) = (normalizer(t, scale_t), normalizer(s, scale_s));
                for (ds, (t, s)) in row.iter_mut().zip(t.iter().zip(s)) {
                    let (t, s) = ((t * scale_t - max_t - log_t).exp(), (s * scale_s - max_s - log_s).exp());
                    *ds = dloss[n] * scale_s * (s - t);
                }
            }
        });
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width, (scale_t, scale_s)) = (b.inputs[0].rows(), b.inputs[0].width(), self.0.scales());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        let params = [rows.into(), width.into(), f64::from(scale_t).into(), f64::from(scale_s).into()];
        b.dispatch(shader!("list_kl_div_gradient"), &[], &bindings, &params, rows.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(10 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("list_kl_div", build)];

fn build(b: &mut Builder) -> Result<()> {
    let op = ListKlDiv {
        teacher_temperature: b.attr_f64("teacher_temperature")?,
        student_temperature: b.attr_f64("student_temperature")?,
    };
    let inputs = [b.input("teacher")?, b.input("student")?];
    let loss = b.graph.add1(op, &inputs)?;
    b.output("loss", loss);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |n: usize, l: usize, scale: f32, teacher_temperature: f64, student_temperature: f64| {
        let case = Case::new(KERNELS[0], format!("{n}x{l} {teacher_temperature} {student_temperature}"));
        let teacher = (0..n * l).map(|i| (((i * 37) % 101) as f32 / 40.0 - 1.25) * scale).collect();
        let case =
            case.attr("teacher_temperature", teacher_temperature).attr("student_temperature", student_temperature);
        case.constant("teacher", &[n, l], teacher).normal("student", &[n, l], 1.0)
    };
    vec![
        case(1, 1, 1.0, 1.0, 1.0).attr("zero_gradient", true),
        case(2, 3, 1.0, 2.0, 0.5),
        case(65, 10, 3.0, 1.0, 1.0),
        case(300, 63, 1.0, 10.0, 1.0),
        case(3, 130, 1e4, 1.0, 1.0),
    ]
}
