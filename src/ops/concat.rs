//! `y = [x_0 | x_1 | ...]`: columns side by side; and back, a range of the columns. Each is made of the other's gradient.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder};
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::fill::Fill;
use crate::shader;

/// Inputs `x_i[N, D_i]`; output `y[N, sum of D_i]`.
#[derive(Clone, Copy, Debug)]
pub struct Concat;

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let rows = inputs.first().map_or(0, |x| x.rows());
        let fits = !inputs.is_empty() && inputs.iter().all(|x| x.shape.len() == 2 && x.rows() == rows);
        expect("concat", fits, || format!("{} tensors, the first {rows} rows long", inputs.len()))?;
        Ok(vec![TensorType::f32(&[rows, inputs.iter().map(|x| x.width()).sum()])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = outputs[0].width();
        let mut first = 0;
        for x in inputs {
            for n in 0..x.rows() {
                outputs[0].f_mut()[n * width + first..][..x.width()].copy_from_slice(x.row(n));
            }
            first += x.width();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let width = io.outputs[0].ty.width();
        let mut first = 0;
        for x in &io.inputs {
            let own = x.width();
            let rows = io.outputs[0].f().chunks_exact_mut(width).zip(x.f().chunks_exact(own));
            rows.for_each(|(y, x)| y[first..first + own].copy_from_slice(x));
            first += own;
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let width = b.outputs[0].width();
        let mut first = 0;
        for i in 0..b.inputs.len() {
            let (len, own) = (b.inputs[i].len(), b.inputs[i].width());
            let bindings = [(b.input(i), Read), (b.output(0), Update)];
            let params = [len.into(), own.into(), width.into(), first.into()];
            b.dispatch(shader!("concat"), &[], &bindings, &params, len.div_ceil(64));
            first += own;
        }
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let mut first = 0;
        for i in 0..vjp.n_inputs() {
            let count = vjp.ty(vjp.input(i)).width();
            if vjp.needs(i) {
                let dx = vjp.add(Columns { first, count }, &[dy])?[0];
                vjp.accumulate(i, dx)?;
            }
            first += count;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

/// Input `x[N, D]`; output `y[N, count]`, the columns from `first` on.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    /// The first column.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Op for Columns {
    fn name(&self) -> &'static str {
        "columns"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].shape.len() == 2 && self.first + self.count <= inputs[0].width() && self.count > 0;
        expect("columns", fits, || format!("{} columns from {} on, of {}", self.count, self.first, inputs[0]))?;
        Ok(vec![TensorType::f32(&[inputs[0].rows(), self.count])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        for n in 0..inputs[0].rows() {
            let own = &inputs[0].row(n)[self.first..self.first + self.count];
            outputs[0].f_mut()[n * self.count..(n + 1) * self.count].copy_from_slice(own);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let rows =
            io.outputs[0].f().chunks_exact_mut(self.count).zip(io.inputs[0].f().chunks_exact(io.inputs[0].width()));
        rows.for_each(|(y, x)| y.copy_from_slice(&x[self.first..self.first + self.count]));
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let len = b.outputs[0].len();
        let params = [len.into(), b.inputs[0].width().into(), self.first.into(), self.count.into()];
        let bindings = [(b.input(0), Read), (b.output(0), Write)];
        b.dispatch(shader!("copy_columns"), &[], &bindings, &params, len.div_ceil(64));
    }

    /// Zeros on both sides.
    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0).filter(|_| vjp.needs(0)) else { return Ok(()) };
        let x = vjp.ty(vjp.input(0));
        let mut parts = Vec::new();
        for (width, part) in [(self.first, None), (self.count, Some(dy)), (x.width() - self.first - self.count, None)] {
            if width > 0 {
                let zeros = Fill { value: 0.0, shape: vec![x.rows(), width] };
                parts.push(part.map_or_else(|| Ok(vjp.add(zeros, &[])?[0]), Ok)?);
            }
        }
        let dx = if parts.len() == 1 { dy } else { vjp.add(Concat, &parts)?[0] };
        vjp.accumulate(0, dx)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("concat", build), ("columns", build_columns)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = (0..b.attr_usize("parts")?).map(|i| b.input(&format!("x{i}"))).collect::<Result<Vec<_>>>()?;
    let y = b.graph.add1(Concat, &inputs)?;
    b.output("y", y);
    Ok(())
}

fn build_columns(b: &mut Builder) -> Result<()> {
    let x = b.input("x")?;
    let y = b.graph.add1(Columns { first: b.attr_usize("first")?, count: b.attr_usize("count")? }, &[x])?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |rows: usize, widths: &[usize]| {
        let case = Case::new(KERNELS[0], format!("{rows} rows of {widths:?}")).attr("parts", widths.len());
        widths.iter().enumerate().fold(case, |case, (i, width)| case.normal(&format!("x{i}"), &[rows, *width], 1.0))
    };
    let columns = |rows: usize, width: usize, first: usize, count: usize| {
        let case = Case::new(KERNELS[1], format!("{count} columns of {rows}x{width} from {first}"));
        case.attr("first", first).attr("count", count).normal("x", &[rows, width], 1.0)
    };
    vec![
        case(1, &[1]),
        case(3, &[2, 65, 1]),
        case(130, &[16, 16, 16, 64]),
        columns(1, 1, 0, 1),
        columns(3, 70, 2, 65),
        columns(130, 5, 0, 2),
        columns(65, 9, 7, 2),
    ]
}
