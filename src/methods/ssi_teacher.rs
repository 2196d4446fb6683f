//! The teachers of SSI (Yuan et al., Improving Sequential Recommendation Consistency with Self-Supervised Imitation, IJCAI
//! 2021): BERT4Rec, which must also notice what is wrong with a sequence.
//!
//! ```text
//! L = L_cloze + weight L_task                                                              (Eq. 4)
//! temporal: were two n-grams exchanged?                     L_task = BCE(MLP(x_INT))       (Eq. 1)
//! persona:  was an n-gram replaced by somebody else's?      L_task = BCE(MLP(x_INT))       (Eq. 2)
//! global:   which n-gram was cut out of the sequence?       L_task = -1/B sum_i log softmax_j(g_i l_j)[i]    (Eq. 3)
//! ```
//!
//! `x_INT` is the hidden state of a token INT behind a copy of the sequence in which nothing is masked; `g` that of a sequence
//! with an n-gram masked, `l` that of the n-gram alone. In each batch come all masked sequences, then all copies, then all
//! n-grams.

use super::batch::{feed_ids, token_batch};
use super::bert4rec::{Bert4Rec, Bert4RecConfig, Cloze};
use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Request, Sampler, Shape, Sizes, Training, minimise};
use crate::data::sample::UserItems;
use crate::data::{Interactions, Packed, ngram};
use crate::engine::params::{Init, ParamLayout};
use crate::engine::rng::{RngState, Site, Stream};
use crate::engine::{Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::Dense;
use crate::nn::{Ids, Scorer, Tokens};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::bce_with_logits::BceWithLogits;
use crate::ops::info_nce::info_nce_one_way;
use crate::ops::reshape::Reshape;
use crate::ops::scale::Scale;
use crate::ops::weighted_sum::WeightedSum;
use crate::settings;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "ssi-teacher",
    title: "SSI teacher",
    paper: "Yuan et al., Improving Sequential Recommendation Consistency with Self-Supervised Imitation, IJCAI 2021",
    preset: include_str!("ssi_teacher.toml"),
    defaults: || table_of(&SsiTeacherConfig::default()),
    cases: &[&["heads=2", "task=temporal"], &["heads=2", "task=persona"], &["heads=2", "task=global"]],
    build: |config, Sizes { items, .. }| Ok(Box::new(SsiTeacher::new(typed(config)?, items)?)),
};

/// What a teacher must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Whether n-grams changed places.
    Temporal,
    /// Whether an n-gram is somebody else's.
    Persona,
    /// Which n-gram belongs to a sequence.
    Global,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SsiTeacherConfig {
    /// What the teacher must notice.
    pub task: Task,
    /// What the task's loss counts beside that of filling in.
    pub task_weight: f64,
    /// What products of hidden states are multiplied by in the softmax of the global task, times `1 / sqrt(dim)`.
    pub global_scale: f64,
    /// The rest is BERT4Rec's; `max_len` counts the mask.
    #[serde(flatten)]
    pub body: Bert4RecConfig,
}

impl Default for SsiTeacherConfig {
    fn default() -> Self {
        SsiTeacherConfig { task: Task::Temporal, task_weight: 1.0, global_scale: 1.0, body: Bert4RecConfig::default() }
    }
}

/// A teacher for a catalogue.
pub struct SsiTeacher {
    config: SsiTeacherConfig,
    body: Bert4Rec,
}

impl SsiTeacher {
    fn new(config: SsiTeacherConfig, n_items: usize) -> Result<SsiTeacher> {
        settings::not_negative(&[("task_weight", config.task_weight), ("global_scale", config.global_scale)])?;
        Ok(SsiTeacher { body: Bert4Rec::new(config.body.clone(), n_items, 2)?, config })
    }

    /// The item that asks.
    fn int(&self) -> u32 {
        self.body.mask() + 1
    }

    /// Sequences of a batch that belong to one user.
    fn copies(&self) -> usize {
        if self.config.task == Task::Global { 3 } else { 2 }
    }

    /// `[1]`: from the hidden states `[N, dim]` of all rows.
    fn task_loss(&self, graph: &mut Graph, hidden: ValueId, users: usize) -> Result<ValueId> {
        let ints = Ids::declare(graph, "int_rows", &[users], true).gather(graph, hidden)?;
        let dim = self.config.body.encoder.dim;
        if self.config.task == Task::Global {
            let cut = Ids::declare(graph, "cut_rows", &[users], true).gather(graph, hidden)?;
            let scale = self.config.global_scale / (dim as f64).sqrt();
            return Ok(info_nce_one_way(graph, ints, cut, scale)?[0]);
        }
        let normal = Init::Normal(self.config.body.encoder.init_std as f32);
        let x = Dense::new(dim).weight(normal).then(Activation::Gelu).of(graph, "task_hidden", ints)?;
        let logit = Dense::new(1).weight(normal).of(graph, "task_output", x)?;
        let logit = graph.add1(Reshape { shape: vec![users] }, &[logit])?;
        graph.output("task_logit", logit);
        let label = graph.input("task_label", TensorType::f32(&[users]));
        let weight = graph.input("task_share", TensorType::f32(&[users]));
        let losses = graph.add1(BceWithLogits, &[logit, label])?;
        graph.add1(WeightedSum, &[losses, weight])
    }
}

impl Method for SsiTeacher {
    fn training(&self) -> &Training {
        self.body.training()
    }

    fn max_len(&self) -> usize {
        self.body.max_len()
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let tokens = Tokens::for_training(&mut graph, shape.sequences, shape.rows);
        let hidden = self.body.encode(&mut graph, &tokens)?;
        let scorer = self.body.scorer_of_rows(&mut graph, hidden)?;
        let cloze = self.body.cloze_loss(&mut graph, &scorer)?;
        let task = self.task_loss(&mut graph, hidden, shape.sequences / self.copies())?;
        let weighted = graph.add1(Scale { factor: self.config.task_weight }, &[task])?;
        let loss = graph.add1(Add, &[weighted, cloze])?;
        minimise(&mut graph, &[("loss", loss), ("loss_cloze", cloze), ("loss_task", task)], self.training())?;
        Ok(graph)
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let own = UserItems::from_slices((0..data.n_users()).map(|user| data.train(user)));
        let method = SsiTeacher::new(self.config.clone(), data.n_items())?;
        Ok(Arc::new(Questions { cloze: self.body.cloze(data.clone()), method, own, data }))
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        self.body.scoring_batch(requests)
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        self.body.scorer(graph, tokens)
    }
}

/// Makes batches of masked sequences, and of copies about which something is asked.
struct Questions {
    method: SsiTeacher,
    cloze: Cloze,
    /// Training items of each user.
    own: UserItems,
    data: Arc<Interactions>,
}

/// Draws of labels and n-grams: one stream per user and step.
const TASKS: Site = Site(0x551);

/// A copy of a user's sequence.
struct Copy {
    items: Vec<u32>,
    /// What the global task cut out of it.
    cut: Vec<u32>,
    /// Whether its order and its items are the user's own.
    intact: bool,
}

impl Questions {
    fn copy(&self, users: &[u32], user: u32, rng: RngState) -> Copy {
        let all = self.data.train(user as usize);
        let sequence = &all[all.len().saturating_sub(self.method.max_len())..];
        let mut stream = rng.stream(TASKS, user);
        if self.method.config.task == Task::Global {
            let cut = ngram::cut(sequence.len(), &mut stream);
            let mut items = sequence.to_vec();
            items[cut.clone()].fill(self.method.body.mask());
            return Copy { items, cut: sequence[cut].to_vec(), intact: true };
        }
        let corrupted = match self.method.config.task {
            _ if stream.uniform() < 0.5 => None,
            Task::Temporal => ngram::exchange(sequence, &mut stream),
            _ => {
                let anybody = |stream: &mut Stream| {
                    let other = users[stream.below(users.len() as u32) as usize];
                    self.data.train(other as usize)
                };
                ngram::replace(sequence, self.own.of(user as usize), anybody, &mut stream)
            }
        };
        let intact = corrupted.is_none();
        Copy { items: corrupted.unwrap_or_else(|| sequence.to_vec()), cut: Vec::new(), intact }
    }

    /// Appends what is asked about each user, INT behind it. It draws its dropout apart from the sequences that are masked.
    fn push<'a>(&self, packed: &mut Packed, round: u32, questions: impl Iterator<Item = (u32, &'a [u32])>) {
        for (user, items) in questions {
            let logical = round * self.data.n_users() as u32 + user;
            packed.push(logical, &[items, &[self.method.int()]].concat(), self.method.config.body.encoder.max_len);
        }
    }
}

impl Sampler for Questions {
    fn samples(&self) -> Vec<u32> {
        self.cloze.samples()
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let (count, global) = (users.len(), self.method.config.task == Task::Global);
        let mut packed = Packed::new();
        let masked = self.cloze.push(&mut packed, users, rng);
        let copies: Vec<Copy> = users.iter().map(|user| self.copy(users, *user, rng)).collect();
        let of_users = || users.iter().copied().zip(&copies);
        self.push(&mut packed, 1, of_users().map(|(user, copy)| (user, &copy.items[..])));
        if global {
            self.push(&mut packed, 2, of_users().map(|(user, copy)| (user, &copy.cut[..])));
        }
        let mut batch = token_batch(&mut packed, None, Some(rng));
        let (feed, last) = (&mut batch.feed, packed.last_rows());
        Cloze::feed(feed, packed.n_rows(), &masked);
        feed_ids(feed, "int_rows", &last[count..2 * count]);
        if global {
            feed_ids(feed, "cut_rows", &last[2 * count..]);
        } else {
            let labels = copies.iter().map(|copy| f32::from(u8::from(copy.intact))).collect();
            feed.set("task_label", Tensor::f32(&[count], labels));
            feed.set("task_share", Tensor::f32(&[count], vec![1.0 / count as f32; count]));
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::DeviceChoice;
    use crate::methods::config;
    use crate::nn::optimizer_inputs;
    use crate::train::trainer::layout_of;

    /// The share of right answers in the last quarter of a training on these sequences, and the mean loss of the task.
    fn trained(task: &str, sequences: &[Vec<u32>], steps: u64, shuffled: bool) -> (f64, f64) {
        let data = Arc::new(Interactions::from_sequences("toy", sequences));
        let settings = [
            &format!("task={task}")[..],
            "dim=16",
            "inner_dim=32",
            "heads=2",
            "blocks=1",
            "max_len=16",
            "hidden_dropout=0.0",
            "attention_dropout=0.0",
            "learning_rate=0.01",
            "learning_rate_warm_up=0",
        ];
        let settings: Vec<String> = settings.into_iter().map(String::from).collect();
        let method = (INFO.build)(&config::resolve(&INFO, None, None, &settings).unwrap(), Sizes::of(&data)).unwrap();
        let layout = layout_of(method.as_ref()).unwrap();
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        executor.load(&layout, &layout.initial_state(3)).unwrap();
        let sampler = method.sampler(data.clone()).unwrap();
        let users = sampler.samples();
        let (mut plan, mut right, mut asked, mut losses) = (None, 0, 0, Vec::new());
        for step in 1..=steps {
            let mut batch = sampler.batch(&users, RngState { seed: 1, step: step as u32 }).unwrap();
            let mut labels = batch.feed.get("task_label").map(|labels| labels.words.clone());
            if let (true, Some(labels)) = (shuffled, &mut labels) {
                RngState { seed: 2, step: step as u32 }.stream(TASKS, 0).shuffle(labels);
                batch.feed.set("task_label", Tensor::f32(&[users.len()], labels.clone()));
            }
            optimizer_inputs(&mut batch.feed, "model", &method.training().adam(), step);
            let plan = *plan.get_or_insert_with(|| {
                let graph = method.train_graph(batch.shape, layout.clone()).unwrap();
                executor.compile(graph).unwrap()
            });
            executor.run(plan, &batch.feed).unwrap();
            losses.push(f64::from(executor.drain_metrics().unwrap()[0][2]));
            if let Some(labels) = labels.filter(|_| step > steps * 3 / 4) {
                let logits = executor.fetch(plan, "task_logit").unwrap().words;
                right += logits.iter().zip(&labels).filter(|(z, y)| (**z > 0.0) == (**y > 0.5)).count();
                asked += labels.len();
            }
        }
        let last = &losses[losses.len() * 3 / 4..];
        (right as f64 / asked.max(1) as f64, last.iter().sum::<f64>() / last.len() as f64)
    }

    /// Sequences of eight training items that ascend.
    fn ascending() -> Vec<Vec<u32>> {
        (0..48u32).map(|user| (0..10).map(|i| 1 + user % 5 + 3 * i).collect()).collect()
    }

    /// Of users who meet, in training, the whole of one of four vocabularies.
    fn disjoint() -> Vec<Vec<u32>> {
        (0..48u32).map(|user| (0..12).map(|i| 1 + 10 * (user % 4) + (7 * i + user) % 10).collect()).collect()
    }

    #[test]
    fn exchanged_n_grams_are_found_among_ascending_items() {
        let (accuracy, _) = trained("temporal", &ascending(), 300, false);
        assert!(accuracy > 0.95, "{accuracy}");
    }

    #[test]
    fn foreign_n_grams_are_found_where_vocabularies_are_disjoint() {
        let (accuracy, _) = trained("persona", &disjoint(), 600, false);
        assert!(accuracy > 0.95, "{accuracy}");
    }

    #[test]
    fn nothing_is_learned_from_shuffled_labels() {
        let (accuracy, _) = trained("temporal", &ascending(), 200, true);
        assert!((0.45..0.55).contains(&accuracy), "{accuracy}");
    }

    #[test]
    fn the_global_task_begins_at_chance_and_is_learned() {
        let chance = 48f64.ln();
        let (_, first) = trained("global", &disjoint(), 1, false);
        assert!((first - chance).abs() < 0.05, "{first} and {chance}");
        let (_, last) = trained("global", &disjoint(), 300, false);
        // Which of the four vocabularies it is can be told, and little more.
        assert!(last < 12f64.ln() + 0.3, "{last}");
    }
}
