//! The ops: one file each, with its equations, reference, CPU kernel, GPU kernels, gradient, cost and test cases.
//!
//! The list of modules is generated from the folder by `build.rs`: a new file is an op as soon as it is there, and it
//! must have `KERNELS` (its names in golden files) and `cases()`. A shader that no op names breaks the build as well.

use crate::engine::case::{Case, Kernel};
use crate::engine::grad::{Gradients, Vjp};
use crate::engine::graph::Source;
use crate::engine::{Graph, ValueId};
use crate::error::Result;
use add::Add;
use fill::Fill;

/// Shared by the ops that gather rows of a table.
pub mod segments;
/// Shared by the ops that score against a catalogue.
pub(crate) mod tiles;

include!(concat!(env!("OUT_DIR"), "/ops.rs"));

/// One file of this folder, as the suites see it.
#[derive(Debug)]
pub struct OpFile {
    /// The file's stem, and the op's name.
    pub name: &'static str,
    /// The names and builders under which golden files know its ops.
    pub kernels: &'static [Kernel],
    /// What every check and suite runs.
    pub cases: fn() -> Vec<Case>,
}

/// The builder of an op by its name in golden files.
pub fn kernel(name: &str) -> Option<Kernel> {
    OP_FILES.iter().flat_map(|file| file.kernels).find(|kernel| kernel.0 == name).copied()
}

impl Vjp<'_> {
    /// Adds a contribution to the gradient of input `i`.
    pub fn accumulate(&mut self, i: usize, gradient: ValueId) -> Result<()> {
        let total = match self.take_partial(i) {
            Some(partial) => self.add(Add, &[partial, gradient])?[0],
            None => gradient,
        };
        self.set_gradient(i, total);
        Ok(())
    }

    /// Like `cotangent`, with zeros where the loss does not depend on the output.
    pub fn cotangent_or_zero(&mut self, i: usize) -> Result<ValueId> {
        match self.cotangent(i) {
            Some(value) => Ok(value),
            None => {
                let shape = self.graph.shape(self.output(i)).to_vec();
                Ok(self.add(Fill { value: 0.0, shape }, &[])?[0])
            }
        }
    }
}

impl Graph {
    /// Gradients of a scalar loss with respect to the parameters of a set. Those of other sets are constants to it.
    pub fn backward(&mut self, loss: ValueId, set: &str) -> Result<Gradients> {
        let shape = self.shape(loss).to_vec();
        let one = self.add1(Fill { value: 1.0, shape }, &[])?;
        let wanted = self.layout.set_index(set);
        let is_parameter =
            |v: &ValueId| matches!(self.values[v.0].source, Source::Parameter { set, .. } if set == wanted);
        let parameters: Vec<ValueId> = (0..self.values.len()).map(ValueId).filter(is_parameter).collect();
        self.vjp(&[(loss, one)], &parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::linear_cross_entropy::LinearCrossEntropy;
    use crate::engine::graph::Graph;
    use crate::engine::params::{Init, ParamLayout};
    use crate::engine::tensor::TensorType;

    #[test]
    fn a_loss_that_depends_on_an_output_without_a_gradient_is_refused() {
        let gradient_of = |output: usize| {
            let mut graph = Graph::new(ParamLayout::default());
            let (hidden, target) =
                (graph.input("h", TensorType::f32(&[2, 4])), graph.input("t", TensorType::u32(&[2])));
            let weight = graph.param("w", &[3, 4], Init::Constant(0.0));
            let outputs = graph.add(LinearCrossEntropy::default(), &[hidden, weight, target]).unwrap();
            graph.backward(outputs[output], "model").map(|gradients| gradients.len())
        };
        assert_eq!(gradient_of(0).unwrap(), 1);
        let error = gradient_of(1).unwrap_err().to_string();
        assert!(
            error.contains("linear_cross_entropy") && error.contains("no gradient flows through output 1"),
            "{error}"
        );
    }
}
