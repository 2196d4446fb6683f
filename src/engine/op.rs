//! What an op is. One file in `src/ops` holds everything about one op, in the order of the methods below.

use super::exec::cpu::CpuIo;
use super::exec::gpu::kernel::GpuBuilder;
use super::grad::Vjp;
use super::tensor::{Array, TensorType};
use crate::error::{Error, Result};
use std::sync::Arc;

/// Arithmetic and traffic of one execution, for the plan table and the benches. A multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiplications and additions of the mathematics, not those that a kernel does twice.
    pub flops: u64,
    /// Bytes that must move between memory and the device at least: each input read once, each output written once.
    pub bytes: u64,
}

impl Cost {
    /// Every input read once, every output written once.
    pub fn new(flops: usize, inputs: &[&TensorType], outputs: &[&TensorType]) -> Self {
        let words: usize = inputs.iter().chain(outputs).map(|ty| ty.len()).sum();
        Cost { flops: flops as u64, bytes: 4 * words as u64 }
    }
}

/// A forward op and its gradient as one. Its inputs are those of the gradient without the saved one; its outputs those of
/// the forward op, then those of the gradient.
#[derive(Debug)]
pub struct WithForward {
    /// What takes the place of both.
    pub op: Arc<dyn Op>,
    /// Which input of the gradient op the forward op has saved for it, counted from the end, the last being 1.
    pub saved_from_end: usize,
}

/// What there is to say about an op.
pub trait Op: std::fmt::Debug + Send + Sync {
    /// As the file is called, for labels and messages.
    fn name(&self) -> &'static str;

    /// Output types, or what is wrong with the inputs.
    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>>;

    /// `(input, output)` pairs where the output is the updated input. On entry the output holds the input's content;
    /// the plan lets both share their memory when nothing else reads the input afterwards.
    fn in_place(&self) -> &'static [(usize, usize)] {
        &[]
    }

    /// The specification: plain loops in f64, as in the paper. Outputs are zeroed on entry.
    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]);

    /// 32-bit words of scratch memory that `cpu` wants.
    fn cpu_scratch(&self, _inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        0
    }

    /// f32 on the host's cores. The result must not depend on the number of threads.
    /// Outputs hold anything on entry. Without a kernel of its own an op runs its reference: correct, but slow.
    fn cpu(&self, io: &mut CpuIo) {
        io.run_reference(|inputs, outputs| self.reference(inputs, outputs));
    }

    /// Which shaders run, with which constants, bindings and grids. Outputs hold anything on entry.
    fn gpu(&self, builder: &mut GpuBuilder);

    /// Appends nodes that compute the gradients of the inputs from the cotangents of the outputs.
    fn vjp(&self, _vjp: &mut Vjp) -> Result<()> {
        Err(Error::graph(self.name(), "this op is not differentiable"))
    }

    /// Of a gradient op: the op that does the forward op's work as well, in one sweep. See `fuse.rs`.
    fn with_forward(&self) -> Option<WithForward> {
        None
    }

    /// What one execution takes at least.
    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost;
}

/// Checks for `infer`: the message names what was expected and what came.
pub fn expect(op: &str, holds: bool, problem: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::graph(op, problem())) }
}
