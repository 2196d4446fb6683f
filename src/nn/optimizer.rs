//! The optimizer step as nodes at the end of a training graph.

use crate::engine::grad::Gradients;
use crate::engine::graph::Flat;
use crate::engine::{Feed, Graph, TensorType};
use crate::error::Result;
use crate::ops::adam::{Adam, AdamConfig, hyper, hyper_anew};
use crate::ops::clip_scale::ClipScale;
use crate::ops::fill::Fill;

/// Adam over a parameter set, which is where its moments lie. One that begins anew has another name on the same set: its first
/// update forgets the moments that it finds.
#[derive(Clone, Copy, Debug)]
pub struct Optimizer<'a> {
    /// What its hyper-parameters and its updates are counted by.
    pub name: &'a str,
    /// What it updates.
    pub set: &'a str,
}

impl<'a> From<&'a str> for Optimizer<'a> {
    fn from(set: &'a str) -> Self {
        Optimizer { name: set, set }
    }
}

/// Appends one Adam update of a parameter set; `gradients` are by parameter value, absent ones are zero.
/// `clip_norm` scales all gradients of the set so that their global norm is at most this.
pub fn adam_step<'a>(
    graph: &mut Graph,
    optimizer: impl Into<Optimizer<'a>>,
    gradients: &Gradients,
    clip_norm: Option<f64>,
) -> Result<()> {
    let Optimizer { name, set } = optimizer.into();
    let index = graph.layout.set_index(set);
    for parameter in graph.layout.sets[index].parameters.clone() {
        let value = graph.in_set(set, |g| g.param(&parameter.name, &parameter.shape, parameter.init));
        let gradient = match gradients.get(&value) {
            Some(gradient) => *gradient,
            None => graph.add1(Fill { value: 0.0, shape: parameter.shape.clone() }, &[])?,
        };
        let taken = graph.gradient_homes.insert(gradient, (index, parameter.range.clone()));
        assert!(taken.is_none(), "two parameters cannot share one gradient value");
    }
    graph.in_scope("optimizer", |graph| {
        let [params, grads, m, v] =
            [Flat::Params, Flat::Grads, Flat::FirstMoment, Flat::SecondMoment].map(|flat| graph.flat(index, flat));
        let hyper = graph.input(&hyper_name(name), TensorType::f32(&[8]));
        let mut inputs = vec![params, grads, m, v, hyper];
        if let Some(max_norm) = clip_norm {
            inputs.push(graph.add1(ClipScale { max_norm }, &[grads])?);
        }
        graph.add(Adam, &inputs)?;
        Ok(())
    })
}

const HYPER: &str = "adam.";

fn hyper_name(optimizer: &str) -> String {
    format!("{HYPER}{optimizer}")
}

/// The optimizers of a graph, by name.
pub fn optimizers(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.inputs().filter_map(|(_, input)| input.name.strip_prefix(HYPER))
}

/// Feeds an optimizer for its update number `update`, counted from 1.
pub fn optimizer_inputs(feed: &mut Feed, name: &str, config: &AdamConfig, update: u64) {
    let hyper = if update == 1 { hyper_anew(config) } else { hyper(config, update) };
    feed.set(&hyper_name(name), hyper);
}
