//! `y_s = sum over the rows n of sequence s of x_n w_n`: what each packed sequence contributes to a weighted loss.
//!
//! For reading only (ARM needs the loss of every sequence by itself): it has no gradient.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;

/// Inputs `x[N]`, `weight[N]`, `cu_seqlens[S + 1]`; output `y[S, 1]`.
#[derive(Debug)]
pub struct SequenceSum;

impl Op for SequenceSum {
    fn name(&self) -> &'static str {
        "sequence_sum"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0].len() == inputs[1].len();
        expect("sequence_sum", fits, || format!("{} and {} differ in length", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[inputs[2].len() - 1, 1])])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let (x, weight) = (inputs[0].f(), inputs[1].f());
        for (y, ends) in outputs[0].f_mut().iter_mut().zip(inputs[2].u().windows(2)) {
            *y = (ends[0] as usize..ends[1] as usize).map(|n| x[n] * weight[n]).sum();
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (x, weight, cu_seqlens) = (io.inputs[0].f(), io.inputs[1].f(), io.inputs[2].u());
        for (y, ends) in io.outputs[0].f().iter_mut().zip(cu_seqlens.windows(2)) {
            *y = (ends[0] as usize..ends[1] as usize).map(|n| x[n] * weight[n]).sum();
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let sequences = b.outputs[0].len();
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.input(2), Read), (b.output(0), Write)];
        b.dispatch(shader!("sequence_sum"), &[], &bindings, &[sequences.into()], sequences.div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("sequence_sum", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("x")?, b.input("weight")?, b.input("cu_seqlens")?];
    let y = b.graph.add1(SequenceSum, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, n: usize, cu_seqlens: &[u32]| {
        let ramp = |step: usize| (0..n).map(|i| (i * step % 11) as f32 - 4.0).collect::<Vec<f32>>();
        let case = Case::new(KERNELS[0], name).constant("x", &[n], ramp(3)).constant("weight", &[n], ramp(5));
        case.ids("cu_seqlens", &[cu_seqlens.len()], cu_seqlens)
    };
    vec![case("empty, single and inert rows", 9, &[0, 0, 1, 7]), case("one sequence", 65, &[0, 65])]
}
