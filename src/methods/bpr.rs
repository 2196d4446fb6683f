//! BPR-MF (Rendle et al., UAI 2009): a vector for every user and every item, and the item of each interaction is to score
//! higher than one that the user did not meet.
//!
//! ```text
//! s(u, i) = p_u . q_i (+ b_i)
//! L = mean over training interactions (u, i), with a uniform item j that u did not meet in training, of
//!     softplus(s(u, j) - s(u, i)) + l2 / 2 (|p_u|^2 + |q_i|^2 + |q_j|^2)
//! ```
//!
//! Only the rows that an interaction uses are regularised, as often as they are used. The order of a history counts for
//! nothing, and a user who was not trained on has no vector.

use super::batch::feed_ids;
use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Sampler, Shape, Sizes, Training};
use crate::data::pack::{INERT, row_bucket};
use crate::data::sample::{UserItems, negative};
use crate::data::{Interactions, trainable_users};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::{Ids, Scorer, Tokens};
use crate::ops::add::Add;
use crate::ops::bpr::Bpr;
use crate::ops::embedding::Embedding;
use crate::ops::row_dot::RowDot;
use crate::ops::scale::Scale;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "bpr",
    title: "BPR-MF",
    paper: "Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009",
    preset: include_str!("bpr.toml"),
    defaults: || table_of(&BprConfig::default()),
    cases: &[&["mode=quality", "l2=0.01"]],
    build: |config, sizes| Ok(Box::new(BprMf { config: checked(typed(config)?)?, sizes })),
};

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct BprConfig {
    /// The preset's table.
    pub mode: String,
    /// Factors of a user and of an item.
    pub dim: usize,
    /// Whether items have a bias.
    pub bias: bool,
    /// Weight of the squared norms of the factors used.
    pub l2: f64,
    /// Standard deviation of the initial factors.
    pub init_std: f64,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for BprConfig {
    fn default() -> Self {
        BprConfig { mode: String::new(), dim: 64, bias: false, l2: 0.0, init_std: 0.02, training: Training::default() }
    }
}

fn checked(config: BprConfig) -> Result<BprConfig> {
    config.training.validate()?;
    settings::at_least_one(&[("dim", config.dim)])?;
    settings::not_negative(&[("l2", config.l2), ("init_std", config.init_std)])?;
    Ok(config)
}

struct BprMf {
    config: BprConfig,
    sizes: Sizes,
}

impl BprMf {
    fn table(&self, graph: &mut Graph, name: &str, rows: usize) -> ValueId {
        graph.param(name, &[rows, self.config.dim], Init::Normal(self.config.init_std as f32))
    }

    fn user_table(&self, graph: &mut Graph) -> ValueId {
        self.table(graph, "user_table", self.sizes.users)
    }

    fn item_table(&self, graph: &mut Graph) -> ValueId {
        self.table(graph, "item_table", self.sizes.items)
    }

    /// Of users' vectors.
    fn scorer_of(&self, graph: &mut Graph, query: ValueId) -> Scorer {
        let (items, table) = (self.sizes.items, self.item_table(graph));
        let bias = self.config.bias.then(|| graph.param("item_bias", &[items], Init::Constant(0.0)));
        Scorer { query, table, bias, items, samples: 1 }
    }

    /// `sum of weight_n |table[ids_n]|^2`
    fn squared_norm(&self, graph: &mut Graph, table: ValueId, ids: Ids, weight: ValueId) -> Result<ValueId> {
        let rows = ids.gather(graph, table)?;
        let squares = graph.add1(RowDot, &ids.behind(&[rows, table]))?;
        graph.add1(WeightedSum, &[squares, weight])
    }
}

impl Method for BprMf {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        1
    }

    fn needs_user(&self) -> bool {
        true
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let [user, positive, negative] = INPUTS.map(|name| Ids::declare(&mut graph, name, &[shape.rows], true));
        let weight = graph.input("loss_weight", TensorType::f32(&[shape.rows]));
        let (user_table, item_table) = (self.user_table(&mut graph), self.item_table(&mut graph));
        let users = user.gather(&mut graph, user_table)?;
        let scorer = self.scorer_of(&mut graph, users);
        let scores = [scorer.score(&mut graph, positive)?, scorer.score(&mut graph, negative)?];
        let ranking = graph.add1(Bpr, &scores)?;
        let ranking = graph.add1(WeightedSum, &[ranking, weight])?;
        let mut loss = ranking;
        if self.config.l2 > 0.0 {
            for (table, ids) in [(user_table, user), (item_table, positive), (item_table, negative)] {
                let norm = self.squared_norm(&mut graph, table, ids, weight)?;
                let penalty = graph.add1(Scale { factor: 0.5 * self.config.l2 }, &[norm])?;
                loss = graph.add1(Add, &[penalty, loss])?;
            }
        }
        super::minimise(&mut graph, &[("loss", loss), ("loss_bpr", ranking)], &self.config.training)?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let met = UserItems::from_slices((0..data.n_users()).map(|user| data.train(user)));
        Ok(Arc::new(Pairs { met, data }))
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let users = tokens.users(graph);
        let user_table = self.user_table(graph);
        let query = graph.add1(Embedding { padding_idx: None }, &[user_table, users])?;
        Ok(self.scorer_of(graph, query))
    }
}

/// Ids of a row: who met which item, and an item not met.
const INPUTS: [&str; 3] = ["user", "positive", "negative"];

/// Makes batches: a row per training interaction of the users.
struct Pairs {
    data: Arc<Interactions>,
    /// Items of each user's training part, which are never negatives.
    met: UserItems,
}

/// Draws of negatives: one stream per user and step.
const NEGATIVES: Site = Site(0xB9);

impl Sampler for Pairs {
    fn samples(&self) -> Vec<u32> {
        trainable_users(&self.data)
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let mut columns = [(); INPUTS.len()].map(|()| Vec::new());
        for &user in users {
            let mut stream = rng.stream(NEGATIVES, user);
            for &item in self.data.train(user as usize) {
                let other = negative(&mut stream, self.data.n_items(), self.met.of(user as usize));
                columns.iter_mut().zip([user, item, other]).for_each(|(column, id)| column.push(id));
            }
        }
        let pairs = columns[0].len();
        let rows = row_bucket(pairs);
        let mut feed = Feed::default();
        for (name, column) in INPUTS.iter().zip(&mut columns) {
            column.resize(rows, INERT);
            feed_ids(&mut feed, name, column);
        }
        let mut weight = vec![1.0 / pairs as f32; pairs];
        weight.resize(rows, 0.0);
        feed.set("loss_weight", Tensor::f32(&[rows], weight));
        Ok(Batch { shape: Shape::new(users.len(), rows), feed, tokens: pairs })
    }
}
