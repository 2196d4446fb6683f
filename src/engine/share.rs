//! Computes once what a graph asks for twice: a node with the op and the inputs of an earlier one becomes that node.
//!
//! The two forward passes of LMA4Rec are equal up to the first mask that tells them apart, and methods are written down
//! as their papers have them, without regard to that. The executors for real devices do this before they plan; the
//! reference does not, so that every comparison with it is also a proof that nothing changed.

use super::graph::{Graph, Source, ValueId};
use super::op::Op;
use std::collections::HashMap;

/// Removes every node that repeats an earlier one. Ops that update an input keep their places: they are not functions.
pub fn share(graph: &mut Graph) {
    let mut instead: HashMap<ValueId, ValueId> = HashMap::new();
    let mut known: HashMap<(String, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for mut node in std::mem::take(&mut graph.nodes) {
        node.inputs.iter_mut().for_each(|value| *value = *instead.get(value).unwrap_or(value));
        let key = (attributes(node.op.as_ref()), node.inputs.clone());
        let has_home = node.outputs.iter().any(|value| graph.gradient_homes.contains_key(value));
        if node.op.in_place().is_empty() && !has_home {
            if let Some(outputs) = known.get(&key) {
                instead.extend(node.outputs.iter().copied().zip(outputs.iter().copied()));
                continue;
            }
            known.insert(key, node.outputs.clone());
        }
        for (output, value) in node.outputs.iter().enumerate() {
            graph.values[value.0].source = Source::Node { node: nodes.len(), output };
        }
        nodes.push(node);
    }
    graph.nodes = nodes;
    let results = graph.outputs.values_mut().chain(graph.metrics.iter_mut().map(|(_, value)| value));
    results.for_each(|value| *value = *instead.get(value).unwrap_or(value));
}

/// Name and attributes of an op: the derived `Debug` of its struct.
fn attributes(op: &dyn Op) -> String {
    format!("{} {op:?}", op.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TensorType;
    use crate::ops::activation::Activation::{Gelu, Silu};
    use crate::ops::scale::Scale;

    #[test]
    fn equal_nodes_are_computed_once_and_the_rest_stays() {
        let mut graph = Graph::default();
        let x = graph.input("x", TensorType::f32(&[2, 3]));
        let y = graph.add1(Gelu, &[x]).unwrap();
        let same = graph.add1(Gelu, &[x]).unwrap();
        let other = graph.add1(Silu, &[x]).unwrap();
        let deep = graph.add1(Silu, &[y]).unwrap();
        let deep_same = graph.add1(Silu, &[same]).unwrap();
        let in_place = [0, 1].map(|_| graph.add1(Scale { factor: 2.0 }, &[x]).unwrap());
        let named =
            [("same", same), ("other", other), ("deep", deep), ("deep_same", deep_same), ("scaled", in_place[1])];
        named.into_iter().for_each(|(name, value)| graph.output(name, value));
        share(&mut graph);
        let of = |name: &str| graph.outputs[name];
        assert_eq!((of("same"), of("deep_same")), (y, deep));
        assert_eq!(
            graph.nodes.iter().map(|n| n.outputs[0]).collect::<Vec<_>>(),
            [y, other, deep, in_place[0], in_place[1]]
        );
        for (index, node) in graph.nodes.iter().enumerate() {
            assert_eq!(graph.values[node.outputs[0].0].source, Source::Node { node: index, output: 0 });
        }
    }
}
