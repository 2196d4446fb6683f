//! Logged lists as episodes, top to bottom: what methods share that learn values of items from them.

use super::batch::feed_ids;
use super::click_through::{feed_impressions, feed_request};
use super::{ListRequest, RequestShape, Shape};
use crate::data::lists::Lists;
use crate::data::pack::INERT;
use crate::engine::graph::Flat;
use crate::engine::params::{ParamLayout, State};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::{Candidates, Ids, Impressions, Walk};
use crate::ops::add::Add;
use crate::ops::detach::Detach;
use crate::ops::row_mse::RowMse;
use crate::ops::scale::Scale;
use crate::ops::soft_sync::SoftSync;
use crate::ops::weighted_sum::WeightedSum;

/// Graph inputs of a batch of lists.
pub struct Episodes {
    /// All impressions, list after list.
    pub x: Impressions,
    /// How they follow each other.
    pub walk: Walk,
    /// The impression below each, for the value of what comes next.
    pub below: Ids,
}

impl Episodes {
    /// Of so many lists, with so many impressions of so many fields and rows in their bags.
    pub fn declare(graph: &mut Graph, lists: usize, [count, fields, rows]: [usize; 3], training: bool) -> Episodes {
        let x = Impressions::declare(graph, "", [count, fields, rows], training);
        let lists = graph.input("lists", TensorType::u32(&[lists + 1]));
        let above = Ids::declare(graph, "above", &[count], training);
        Episodes { x, walk: Walk { lists, above }, below: Ids::declare(graph, "below", &[count], false) }
    }
}

/// `y_t = r_t + gamma Q'_(t+1)` from a target's values `[N, 1]`; behind the last position there is nothing `below`.
pub fn goals(graph: &mut Graph, gamma: f64, values: ValueId, below: Ids) -> Result<ValueId> {
    let next = below.gather(graph, values)?;
    let next = graph.add1(Scale { factor: gamma }, &[next])?;
    let rewards = graph.input_once("rewards", TensorType::f32(graph.shape(values).to_vec().as_slice()));
    let goals = graph.add1(Add, &[next, rewards])?;
    graph.add1(Detach, &[goals])
}

/// `mean (y - Q)^2`
pub fn td_loss(graph: &mut Graph, values: ValueId, goals: ValueId) -> Result<ValueId> {
    let share = graph.input_once("share", TensorType::f32(&[graph.shape(goals)[0]]));
    let errors = graph.add1(RowMse, &[values, goals])?;
    graph.add1(WeightedSum, &[errors, share])
}

/// Target networks begin where the networks do that they follow: the second set of each pair gets the first numbers of the
/// first.
pub fn targets_begin(layout: &ParamLayout, state: &mut State, pairs: &[[&str; 2]]) {
    for pair in pairs {
        let [set, target] = pair.map(|name| layout.sets.iter().position(|set| set.name == name));
        if let (Some(set), Some(target)) = (set, target) {
            let words = state.sets[target].params.len();
            let own = state.sets[set].params[..words].to_vec();
            state.sets[target].params = own;
        }
    }
}

/// The targets move towards their networks.
pub fn targets_follow(graph: &mut Graph, rate: f64, pairs: &[[&str; 2]]) -> Result<()> {
    for pair in pairs {
        let [source, target] = pair.map(|set| {
            let index = graph.layout.set_index(set);
            graph.flat(index, Flat::Params)
        });
        graph.add1(SoftSync { rate }, &[target, source])?;
    }
    Ok(())
}

/// The candidates of a request, with bags of their own.
pub fn requested(graph: &mut Graph, fields: usize, [count, rows]: [usize; 2]) -> Candidates {
    let impressions = Impressions::declare(graph, "candidate_", [count, fields, rows], false);
    let [at, of] = ["explored", "candidates"].map(|name| Ids::declare(graph, name, &[count], false));
    let each = graph.input("each_candidate", TensorType::u32(&[count + 1]));
    Candidates { at, of, each, impressions }
}

/// Feeds impressions, and where lists begin and what stands above and below in them.
pub fn feed_walk(feed: &mut Feed, lists: &Lists, which: &[u32], training: Option<RngState>) -> Shape {
    let shape = feed_impressions(feed, lists, which, training);
    feed_places(feed, which.len() as u32, lists.length as u32);
    shape
}

/// Feeds the clicks of lists as rewards, and each impression's share of a batch; how many there are.
pub fn feed_rewards(feed: &mut Feed, lists: &Lists, which: &[u32]) -> usize {
    let rewards: Vec<f32> = which.iter().flat_map(|list| lists.clicks_of(*list as usize)).copied().collect();
    let count = rewards.len();
    feed.set("rewards", Tensor::f32(&[count, 1], rewards));
    feed.set("share", Tensor::f32(&[count], vec![1.0 / count as f32; count]));
    count
}

/// Feeds where lists of one length begin and what stands above and below in them.
fn feed_places(feed: &mut Feed, lists: u32, length: u32) {
    let borders: Vec<u32> = (0..=lists).map(|list| list * length).collect();
    feed.set("lists", Tensor::u32(&[borders.len()], &borders));
    let above: Vec<u32> = (0..lists * length).map(|n| if n % length == 0 { INERT } else { n - 1 }).collect();
    let below: Vec<u32> = (0..lists * length).map(|n| if n % length == length - 1 { INERT } else { n + 1 }).collect();
    feed_ids(feed, "above", &above);
    feed.set("below", Tensor::u32(&[below.len()], &below));
}

/// Feeds a list with the place that comes next, and what could stand there.
pub fn feed_list_request(request: &ListRequest, fields: usize) -> (RequestShape, Feed) {
    let (mut feed, mut list) = (Feed::default(), request.shown.clone());
    list.push(request.here.clone());
    let shape = RequestShape {
        list: feed_request(&mut feed, "", &list, fields),
        candidates: feed_request(&mut feed, "candidate_", &request.candidates, fields),
    };
    feed_places(&mut feed, 1, list.len() as u32);
    let count = request.candidates.len();
    let numbers: Vec<u32> = (0..=count as u32).collect();
    feed.set("explored", Tensor::u32(&[count], &vec![request.shown.len() as u32; count]));
    feed.set("candidates", Tensor::u32(&[count], &numbers[..count]));
    feed.set("each_candidate", Tensor::u32(&[count + 1], &numbers));
    (shape, feed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::DeviceChoice;

    #[test]
    fn goals_are_the_rewards_and_what_comes_next() {
        let mut graph = Graph::new(ParamLayout::default());
        let values = graph.input("values", TensorType::f32(&[3, 1]));
        let below = Ids::declare(&mut graph, "below", &[3], false);
        let goals = goals(&mut graph, 0.4, values, below).unwrap();
        graph.output("goals", goals);
        let mut feed = Feed::default();
        feed.set("values", Tensor::f32(&[3, 1], vec![0.5, 0.4, 0.3]));
        feed.set("rewards", Tensor::f32(&[3, 1], vec![0.0, 1.0, 0.0]));
        feed.set("below", Tensor::u32(&[3], &[1, 2, INERT]));
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        let plan = executor.compile(graph).unwrap();
        executor.run(plan, &feed).unwrap();
        let goals = executor.fetch(plan, "goals").unwrap().words;
        assert!(
            goals.iter().zip([0.16, 1.12, 0.0]).all(|(goal, expected)| (goal - expected).abs() < 1e-6),
            "{goals:?}"
        );
    }
}
