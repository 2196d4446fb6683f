//! The suite tested on itself: kernels and gradients that are wrong on purpose must be caught.

use gpurec::engine::case::{Builder, Case, Kernel};
use gpurec::engine::exec::cpu::CpuIo;
use gpurec::engine::exec::gpu::kernel::GpuBuilder;
use gpurec::engine::grad::Vjp;
use gpurec::engine::{Array, Cost, Op, TensorType};
use gpurec::ops::linear::Linear;
use gpurec::ops::matmul::Matmul;
use gpurec::verify::{Target, checks};
use libtest_mimic::{Failed, Trial};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mutation {
    /// No fault: the control.
    None,
    /// The CPU kernel is off by one part in a hundred.
    ScaledKernel,
    /// The CPU kernel forgets the bias.
    DroppedTerm,
    /// The gradient of the weight is scaled by 1.01.
    ScaledGradient,
    /// The gradient of the weight comes from swapped operands.
    SwappedOperands,
}

/// `Linear` with a fault.
#[derive(Debug)]
struct Mutant(Mutation);

impl Op for Mutant {
    fn name(&self) -> &'static str {
        "mutant"
    }

    fn infer(&self, inputs: &[&TensorType]) -> gpurec::Result<Vec<TensorType>> {
        Linear::default().infer(inputs)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        Linear::default().reference(inputs, outputs);
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> usize {
        Linear::default().cpu_scratch(inputs, outputs)
    }

    fn cpu(&self, io: &mut CpuIo) {
        if self.0 == Mutation::DroppedTerm {
            io.inputs.pop();
        }
        Linear::default().cpu(io);
        if self.0 == Mutation::ScaledKernel {
            io.outputs[0].f().iter_mut().for_each(|y| *y *= 1.01);
        }
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        Linear::default().gpu(builder);
    }

    fn vjp(&self, vjp: &mut Vjp) -> gpurec::Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let (x, weight) = (vjp.input(0), vjp.input(1));
        let dx = vjp.add(Matmul::NN, &[dy, weight])?[0];
        vjp.accumulate(0, dx)?;
        let operands = if self.0 == Mutation::SwappedOperands { [x, dy] } else { [dy, x] };
        let mut dw = vjp.add(Matmul::TN, &operands)?[0];
        if self.0 == Mutation::ScaledGradient {
            dw = vjp.add(ScaleBy(1.01), &[dw])?[0];
        }
        vjp.accumulate(1, dw)?;
        let db = vjp.add(gpurec::ops::column_sum::ColumnSum, &[dy])?[0];
        vjp.accumulate(2, db)
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Linear::default().cost(inputs, outputs)
    }
}

#[derive(Debug)]
struct ScaleBy(f64);

impl Op for ScaleBy {
    fn name(&self) -> &'static str {
        "scale_by"
    }

    fn infer(&self, inputs: &[&TensorType]) -> gpurec::Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        outputs[0].f_mut().iter_mut().zip(inputs[0].f()).for_each(|(y, x)| *y = self.0 * x);
    }

    fn gpu(&self, _builder: &mut GpuBuilder) {
        unreachable!("mutants run on the cpu")
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

fn build_mutant(b: &mut Builder, mutation: Mutation) -> gpurec::Result<()> {
    let inputs = [b.input("x")?, b.input("weight")?, b.input("bias")?];
    let y = b.graph.add1(Mutant(mutation), &inputs)?;
    b.output("y", y);
    Ok(())
}

/// Square, so that swapped operands fit.
fn case(kernel: Kernel) -> Case {
    Case::new(kernel, "5x5x5").normal("x", &[5, 5], 1.0).normal("weight", &[5, 5], 1.0).normal("bias", &[5], 1.0)
}

pub fn trials() -> Vec<Trial> {
    const MUTANTS: &[(&str, Mutation, Kernel)] = &[
        ("the_control_passes", Mutation::None, ("mutant", |b| build_mutant(b, Mutation::None))),
        ("a_scaled_kernel_fails", Mutation::ScaledKernel, ("mutant", |b| build_mutant(b, Mutation::ScaledKernel))),
        ("a_dropped_term_fails", Mutation::DroppedTerm, ("mutant", |b| build_mutant(b, Mutation::DroppedTerm))),
        (
            "a_scaled_gradient_fails",
            Mutation::ScaledGradient,
            ("mutant", |b| build_mutant(b, Mutation::ScaledGradient)),
        ),
        (
            "swapped_operands_fail",
            Mutation::SwappedOperands,
            ("mutant", |b| build_mutant(b, Mutation::SwappedOperands)),
        ),
    ];
    let trial = |&(name, mutation, kernel): &(&'static str, Mutation, Kernel)| {
        Trial::test(format!("mutation::{name}"), move || {
            let case = case(kernel);
            let caught = match mutation {
                Mutation::ScaledGradient | Mutation::SwappedOperands => checks::gradients(&case).is_err(),
                _ => checks::against_reference(&case, &mut Target::Cpu { threads: 2 }).is_err(),
            };
            let clean = checks::gradients(&case).is_ok();
            match mutation {
                Mutation::None if caught || !clean => Err(Failed::from("the control fails")),
                Mutation::None => Ok(()),
                _ if caught => Ok(()),
                _ => Err(Failed::from(format!("{mutation:?} went unnoticed"))),
            }
        })
    };
    MUTANTS.iter().map(trial).collect()
}
