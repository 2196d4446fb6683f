//! `y = x`, through which no gradient flows: a target is a constant to the loss, though it is made of parameters.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::ops::add::Add;

/// Input `x`; output `y`, alike.
#[derive(Clone, Copy, Debug)]
pub struct Detach;

impl Op for Detach {
    fn name(&self) -> &'static str {
        "detach"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        Ok(vec![inputs[0].clone()])
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn reference(&self, _inputs: &[&Array], _outputs: &mut [Array]) {}

    fn cpu(&self, _io: &mut CpuIo) {}

    fn gpu(&self, _builder: &mut GpuBuilder) {}

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        vjp.stop(0);
        Ok(())
    }

    fn cost(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> Cost {
        Cost::default()
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("detach", build)];

/// `x + detach(y)`
fn build(b: &mut Builder) -> Result<()> {
    let (x, y) = (b.input("x")?, b.input("y")?);
    let constant = b.graph.add1(Detach, &[y])?;
    let sum = b.graph.add1(Add, &[x, constant])?;
    b.output("sum", sum);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = Case::new(KERNELS[0], "a constant of 6x35").normal("x", &[6, 35], 1.0);
    vec![case.constant("y", &[6, 35], (0..210).map(|i| i as f32).collect())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Graph, TensorType};
    use crate::ops::row_mse::RowMse;

    #[test]
    fn no_gradient_flows_through_a_detached_value() {
        let mut graph = Graph::default();
        let [a, b] = ["a", "b"].map(|name| graph.input(name, TensorType::f32(&[3, 2])));
        let constant = graph.add1(Detach, &[b]).unwrap();
        let loss = graph.add1(RowMse, &[a, constant]).unwrap();
        let cotangent = graph.input("cotangent", TensorType::f32(&[3]));
        let gradients = graph.vjp(&[(loss, cotangent)], &[a, b]).unwrap();
        assert!(gradients.contains_key(&a) && !gradients.contains_key(&b));
    }
}
