//! What methods share that learn from single impressions whether they are clicked: fields in, a logit out, binary
//! cross-entropy.

use super::batch::feed_ids;
use super::{Bags, Batch, ListModel, ListRequest, Method, RequestShape, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::data::lists::Lists;
use crate::data::pack::{INERT, row_bucket};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::Impressions;
use crate::nn::fields::Pairs;
use crate::ops::bce_with_logits::BceWithLogits;
use crate::ops::reshape::Reshape;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Keys that all of them have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ClickConfig {
    /// The preset's table.
    pub mode: String,
    /// Columns of a row of the joint table.
    pub dim: usize,
    /// Standard deviation of the initial rows.
    pub init_std: f64,
    /// How long and how fast to train; a batch is so many lists.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for ClickConfig {
    fn default() -> Self {
        ClickConfig {
            mode: String::new(),
            dim: 16,
            init_std: 0.1,
            training: Training { learning_rate: 2e-4, select_by: "auc".into(), ..Training::default() },
        }
    }
}

impl ClickConfig {
    /// The table `[rows, dim]` that the fields' vectors come from.
    pub fn table(&self, graph: &mut Graph, rows: usize) -> ValueId {
        graph.param("table", &[rows, self.dim], Init::Normal(self.init_std as f32))
    }
}

/// What makes one such method another than the rest, with its configuration.
pub trait ClickModel: Clone + Send + Sync {
    /// The keys that all have.
    fn common(&self) -> &ClickConfig;

    /// Refuses settings that make no model.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it asks for `Pairs`.
    fn reads_pairs(&self) -> bool {
        false
    }

    /// The logits `[N, 1]` of a batch of impressions; the joint table has so many rows.
    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId>;
}

/// A click-through model of lists with these fields.
pub struct ClickThrough<M> {
    model: M,
    sizes: Sizes,
}

impl<M: ClickModel> ClickThrough<M> {
    /// Impressions of a batch of lists, and the capacity of their bags.
    fn impressions(&self, shape: Shape) -> [usize; 2] {
        [shape.sequences * self.sizes.length, shape.rows]
    }

    /// Refuses settings that cannot train.
    pub fn new(model: M, sizes: Sizes) -> Result<Self> {
        let common = model.common();
        common.training.validate()?;
        settings::at_least_one(&[("dim", common.dim)])?;
        settings::not_negative(&[("init_std", common.init_std)])?;
        model.validate()?;
        Ok(ClickThrough { model, sizes })
    }

    /// `[N]`, of so many impressions with so many rows in their bags.
    fn logits(&self, graph: &mut Graph, [count, rows]: [usize; 2], training: bool) -> Result<ValueId> {
        let fields = self.sizes.fields.len();
        let mut impressions = Impressions::declare(graph, "", [count, fields, rows], training);
        if self.model.reads_pairs() {
            impressions.pairs = Some(Pairs::declare(graph, count, fields, training));
        }
        let logits = self.model.logits(graph, &impressions, self.sizes.table_rows())?;
        graph.add1(Reshape { shape: vec![count] }, &[logits])
    }
}

/// Feeds what `nn::Impressions` reads of some lists; the shape of the batch.
pub fn feed_impressions(feed: &mut Feed, lists: &Lists, which: &[u32], training: Option<RngState>) -> Shape {
    let (fields, length) = (lists.fields.len(), lists.length);
    let impressions = || which.iter().flat_map(|list| (0..length).map(move |place| *list as usize * length + place));
    let bags = impressions().flat_map(|impression| (0..fields).map(move |field| lists.bag(impression, field)));
    let count = which.len() * length;
    let rows = feed_bags(feed, "", [count, fields], bags);
    if let Some(rng) = training {
        feed_ids(feed, "bag_rows", &rows);
        feed.set("rng", Tensor::u32(&[4], &rng.words()));
        let keys: Vec<u32> = impressions().flat_map(|n| [n as u32, 0]).collect();
        feed.set("impression_keys", Tensor::u32(&[count, 2], &keys));
        let of_fields = impressions().flat_map(|n| (0..fields).flat_map(move |f| [n as u32, f as u32]));
        feed.set("field_keys", Tensor::u32(&[count * fields, 2], &of_fields.collect::<Vec<u32>>()));
    }
    Shape::new(which.len(), rows.len())
}

/// Feeds the bags of all fields of so many impressions, under names that begin with the prefix; their rows end to end.
pub fn feed_bags<'a>(
    feed: &mut Feed,
    prefix: &str,
    [count, fields]: [usize; 2],
    bags: impl Iterator<Item = &'a [u32]>,
) -> Vec<u32> {
    let (mut rows, mut borders) = (Vec::new(), vec![0]);
    for bag in bags {
        rows.extend_from_slice(bag);
        borders.push(rows.len() as u32);
    }
    rows.resize(row_bucket(rows.len()), INERT);
    let of_impression: Vec<u32> = (0..=count).map(|n| (n * fields) as u32).collect();
    let mut set = |name: &str, words: &[u32]| feed.set(&format!("{prefix}{name}"), Tensor::u32(&[words.len()], words));
    set("bags", &borders);
    set("of_impression", &of_impression);
    set("bag_rows", &rows);
    rows
}

/// The same of impressions that a request names; their number, and the capacity of their bags.
pub fn feed_request(feed: &mut Feed, prefix: &str, impressions: &[Bags], fields: usize) -> [usize; 2] {
    let bags = impressions.iter().flatten().copied();
    [impressions.len(), feed_bags(feed, prefix, [impressions.len(), fields], bags).len()]
}

impl<M: ClickModel> Method for ClickThrough<M> {
    fn training(&self) -> &Training {
        &self.model.common().training
    }

    fn max_len(&self) -> usize {
        self.sizes.length
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let logits = self.logits(&mut graph, self.impressions(shape), true)?;
        let count = graph.shape(logits)[0];
        let [clicks, weight] = ["clicks", "loss_weight"].map(|name| graph.input(name, TensorType::f32(&[count])));
        let losses = graph.add1(BceWithLogits, &[logits, clicks])?;
        let loss = graph.add1(WeightedSum, &[losses, weight])?;
        super::minimise(&mut graph, &[("loss", loss)], &self.model.common().training)?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Shown { lists: data.lists()?, pairs: self.model.reads_pairs() }))
    }

    fn list_model(&self) -> Option<&dyn ListModel> {
        Some(self)
    }
}

impl<M: ClickModel> ListModel for ClickThrough<M> {
    fn scores(&self, graph: &mut Graph, shape: Shape) -> Result<ValueId> {
        self.logits(graph, self.impressions(shape), false)
    }

    fn batch(&self, lists: &Lists, which: &[u32]) -> Batch {
        let mut feed = Feed::default();
        let shape = feed_impressions(&mut feed, lists, which, None);
        if self.model.reads_pairs() {
            feed_pairs(&mut feed, which.len() * lists.length, lists.fields.len());
        }
        Batch { shape, feed, tokens: which.len() * lists.length }
    }

    fn candidates(&self, graph: &mut Graph, shape: RequestShape) -> Result<ValueId> {
        self.logits(graph, shape.candidates, false)
    }

    fn request(&self, request: &ListRequest) -> (RequestShape, Feed) {
        let (mut feed, fields) = (Feed::default(), self.sizes.fields.len());
        let candidates = feed_request(&mut feed, "", &request.candidates, fields);
        if self.model.reads_pairs() {
            feed_pairs(&mut feed, request.candidates.len(), fields);
        }
        (RequestShape { list: [0, 0], candidates }, feed)
    }
}

/// Makes batches of whole lists.
struct Shown {
    lists: Arc<Lists>,
    pairs: bool,
}

/// Feeds what `Pairs` reads: all pairs of fields of each impression.
fn feed_pairs(feed: &mut Feed, count: usize, fields: usize) {
    let places = || (0..fields as u32).flat_map(|f| (f + 1..fields as u32).map(move |g| [f, g]));
    let pairs = places().count();
    for (side, name) in ["pair_first", "pair_second"].into_iter().enumerate() {
        let of = |n: usize| places().map(move |pair| (n * fields) as u32 + pair[side]);
        feed_ids(feed, name, &(0..count).flat_map(of).collect::<Vec<u32>>());
    }
    let borders: Vec<u32> = (0..=count).map(|n| (n * pairs) as u32).collect();
    feed.set("pairs", Tensor::u32(&[count + 1], &borders));
}

impl Sampler for Shown {
    fn samples(&self) -> Vec<u32> {
        self.lists.training()
    }

    fn batch(&self, which: &[u32], rng: RngState) -> Result<Batch> {
        let mut feed = Feed::default();
        let shape = feed_impressions(&mut feed, &self.lists, which, Some(rng));
        if self.pairs {
            feed_pairs(&mut feed, which.len() * self.lists.length, self.lists.fields.len());
        }
        let clicks: Vec<f32> = which.iter().flat_map(|list| self.lists.clicks_of(*list as usize)).copied().collect();
        let count = clicks.len();
        feed.set("clicks", Tensor::f32(&[count], clicks));
        feed.set("loss_weight", Tensor::f32(&[count], vec![1.0 / count as f32; count]));
        Ok(Batch { shape, feed, tokens: count })
    }
}

#[cfg(test)]
#[path = "click_through/tests.rs"]
mod tests;
