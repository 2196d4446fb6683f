//! Joins a forward op with its gradient where one sweep can do the work of both.
//!
//! Autodiff keeps them apart, because in general the cotangent depends on what the forward op gives. In training it does
//! not: the weight of each row's loss is known beforehand. Then the forward op moves down to its gradient, and whatever
//! reads its outputs moves behind both. The executors for real devices do this before they plan; the reference does not,
//! so that every comparison with it is also a proof of the fused ops.

use super::graph::{Graph, Node, Source, ValueId};
use super::op::WithForward;
use crate::error::Result;

/// Joins every pair that can be joined.
pub fn fuse(graph: &mut Graph) -> Result<()> {
    for gradient in (0..graph.nodes.len()).rev() {
        if let Some(with_forward) = graph.nodes.get(gradient).and_then(|node| node.op.with_forward()) {
            join(graph, gradient, with_forward)?;
        }
    }
    Ok(())
}

/// Joins node `gradient` with the forward node that saved an input for it, unless another input depends on that node.
fn join(graph: &mut Graph, gradient: usize, fused: WithForward) -> Result<()> {
    let inputs = &graph.nodes[gradient].inputs;
    let saved_at = inputs.len() - fused.saved_from_end;
    let Source::Node { node: forward, .. } = graph.values[inputs[saved_at].0].source else { return Ok(()) };
    let behind = behind(graph, forward, gradient);
    let others = inputs.iter().enumerate().filter(|(i, _)| *i != saved_at);
    let produced_behind = |value: &ValueId| match graph.values[value.0].source {
        Source::Node { node, .. } => node == forward || behind.contains(&node),
        _ => false,
    };
    if others.clone().any(|(_, value)| produced_behind(value)) {
        return Ok(());
    }
    let inputs = others.map(|(_, value)| *value).collect();
    let outputs = [graph.nodes[forward].outputs.clone(), graph.nodes[gradient].outputs.clone()].concat();
    let label = graph.nodes[gradient].label.clone();
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut graph.nodes).into_iter().map(Some).collect();
    let mut order: Vec<usize> = (0..gradient).filter(|index| *index != forward && !behind.contains(index)).collect();
    order.push(gradient);
    order.extend(behind);
    order.extend(gradient + 1..nodes.len());
    nodes[gradient] = Some(Node { op: fused.op, inputs, outputs, label });
    graph.nodes = order.into_iter().map(|index| nodes[index].take().expect("each node has one place")).collect();
    for (index, node) in graph.nodes.iter().enumerate() {
        for (output, value) in node.outputs.iter().enumerate() {
            graph.values[value.0].source = Source::Node { node: index, output };
        }
    }
    Ok(())
}

/// The nodes between two that depend on the first.
fn behind(graph: &Graph, first: usize, last: usize) -> Vec<usize> {
    let mut dependent = vec![false; graph.values.len()];
    graph.nodes[first].outputs.iter().for_each(|value| dependent[value.0] = true);
    let mut behind = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate().take(last).skip(first + 1) {
        if node.inputs.iter().any(|value| dependent[value.0]) {
            node.outputs.iter().for_each(|value| dependent[value.0] = true);
            behind.push(index);
        }
    }
    behind
}
