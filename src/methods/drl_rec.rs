//! DRL-Rec (Xie et al., Explore, Filter and Distill: Distilled Reinforcement Learning in Recommendation, CIKM 2021): a large and
//! a small value network learn from logged lists, and the small one from what the large one makes of items that were not shown.
//!
//! ```text
//! y_t = r_t + gamma Q'(s_(t+1), a_(t+1))                     Q' follows Q; nothing behind the last position
//!                                                            or of the best by Q of what could come next (`target`)
//! L_T, L_S = mean (y - Q(s, a))^2                            `nn/list_network.rs`
//! c = 1 - (y - Q_T)^2 / max over the batch                   how far the teacher is to be believed
//! L_KL = mean over lists of c KL(softmax(Q_T / tau) || softmax(Q_S))
//! L_hint = mean c |u_T - u_S|^2 / 32
//! student: w_S L_S + w_KL L_KL + w_hint L_hint, then the last two once more over explored items
//! ```
//!
//! Explored: for one position of each list, of some candidates the best by the teacher and the best by the student. Per batch
//! the teacher learns, then the student, then the student from explored items; now and then the targets follow. No gradient
//! reaches the teacher from what it teaches.

use super::config::{table_of, typed};
use super::episodes::{
    Episodes, feed_list_request, feed_walk, goals, requested, targets_begin, targets_follow, td_loss,
};
use super::{Batch, ListModel, ListRequest, Method, MethodInfo, RequestShape, Sampler, Shape, Sizes, Training};
use crate::data::Interactions;
use crate::data::lists::{Group, Lists};
use crate::engine::params::{ParamLayout, State};
use crate::engine::{Feed, Graph, TensorType, ValueId};
use crate::error::Result;
use crate::nn::list_network::column;
use crate::nn::{Candidates, Ids, Impressions, ListNetwork, Optimizer, Values, adam_step};
use crate::ops::adam::AdamConfig;
use crate::ops::add::Add;
use crate::ops::confidence::Confidence;
use crate::ops::embedding::Embedding;
use crate::ops::linear_topk::TopK;
use crate::ops::list_kl_div::ListKlDiv;
use crate::ops::multiply::Multiply;
use crate::ops::reshape::Reshape;
use crate::ops::row_mse::RowMse;
use crate::ops::scale::Scale;
use crate::ops::sequence_max::SequenceMax;
use crate::ops::sequence_pool::SequencePool;
use crate::ops::top_union::TopUnion;
use crate::ops::weighted_sum::WeightedSum;
use batches::{Explored, next_of_list};
pub use config::{DrlRecConfig, Serve, Target};
use std::sync::Arc;

#[path = "drl_rec/batches.rs"]
mod batches;
#[path = "drl_rec/config.rs"]
mod config;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "drl-rec",
    title: "DRL-Rec",
    paper: "Xie et al., Explore, Filter and Distill: Distilled Reinforcement Learning in Recommendation, CIKM 2021",
    preset: include_str!("drl_rec.toml"),
    defaults: || table_of(&DrlRecConfig::default()),
    // All candidates are kept: a choice among them could fall out otherwise in another precision. Where one is chosen all the
    // same, nothing is dropped, so that the target values those nearly alike between which a choice is close.
    cases: &[
        &["teacher_dim=8", "dim=6", "candidates=3", "sync_every=3", "dropout=0.1"],
        &["teacher_dim=8", "dim=6", "candidates=2", "kept=2", "q_form=inline"],
        &["teacher_dim=8", "dim=6", "candidates=3", "dropout=0.0", "target=ddqn_candidates"],
        &["teacher_dim=4", "dim=2", "explore=false", "attention=false", "recurrent=false"],
    ],
    build: |config, sizes| Ok(Box::new(DrlRec::new(typed(config)?, sizes)?)),
};

/// Parameter sets: the student is what a model is.
const STUDENT: &str = "model";
const TEACHER: &str = "teacher";
const TARGETS: [&str; 2] = ["teacher_target", "student_target"];
/// Networks and the targets that follow them.
const PAIRS: &[[&str; 2]] = &[[TEACHER, TARGETS[0]], [STUDENT, TARGETS[1]]];

/// The first pass of networks that choose what comes next.
const NEXT: u32 = 10;

/// Training graphs, in the order of a step.
const TEACH: u8 = 0;
const LEARN: u8 = 1;
const EXPLORE: u8 = 2;
const SYNC: u8 = 3;

/// Graph inputs of a batch of lists.
struct Inputs {
    lists: Episodes,
    /// What could come next, and where the candidates of each position begin; none where that is what was shown.
    next: Option<(Candidates, ValueId)>,
}

/// DRL-Rec for lists with these fields.
pub struct DrlRec {
    config: DrlRecConfig,
    sizes: Sizes,
}

impl DrlRec {
    fn new(config: DrlRecConfig, sizes: Sizes) -> Result<DrlRec> {
        config.validate()?;
        Ok(DrlRec { config, sizes })
    }

    fn network(&self, dim: usize) -> ListNetwork {
        let fields = self.sizes.fields.iter().enumerate();
        ListNetwork {
            dim,
            item_fields: fields.filter(|(_, field)| field.of == Group::Item).map(|(place, _)| place).collect(),
            rows: self.sizes.table_rows(),
            dropout: self.config.dropout,
            init_std: self.config.init_std,
            attention: self.config.attention,
            recurrent: self.config.recurrent,
            form: self.config.q_form,
        }
    }

    fn teacher(&self) -> ListNetwork {
        self.network(self.config.teacher_dim)
    }

    fn student(&self) -> ListNetwork {
        self.network(self.config.dim)
    }

    /// The network whose values rank, and its set.
    fn served(&self) -> (ListNetwork, &'static str) {
        match self.config.serve {
            Serve::Student => (self.student(), STUDENT),
            Serve::Teacher => (self.teacher(), TEACHER),
        }
    }

    fn inputs(&self, graph: &mut Graph, shape: Shape, training: bool) -> Inputs {
        let (count, fields) = (shape.sequences * self.sizes.length, self.sizes.fields.len());
        let lists = Episodes::declare(graph, shape.sequences, [count, fields, shape.rows], training);
        let next = (training && self.chooses_next()).then(|| {
            let candidates = shape.sequences * next_of_list(self.sizes.length, self.explored());
            let groups = graph.input("next_groups", TensorType::u32(&[count + 1]));
            (candidates_named(graph, ["next_at", "next_of", "next_each", "next_"], [candidates, fields]), groups)
        });
        Inputs { lists, next }
    }

    /// Whether the item that comes next is chosen, and not the one that was shown.
    fn chooses_next(&self) -> bool {
        self.config.target == Target::DdqnCandidates
    }

    /// Candidates of the explored position of a list.
    fn explored(&self) -> usize {
        if self.config.explore { self.config.candidates } else { 0 }
    }

    fn vectors(&self, graph: &mut Graph, network: &ListNetwork, x: &Impressions) -> Result<ValueId> {
        let table = network.table(graph, x.fields);
        x.embed(graph, table)
    }

    /// A network's values, and what they should have been: `y`. Passes `pass` and `pass + 1` draw their dropout, and those from
    /// `NEXT + 2 pass` on where what comes next is chosen.
    fn values_and_goals(
        &self,
        graph: &mut Graph,
        network: &ListNetwork,
        (set, target): (&str, &str),
        inputs: &Inputs,
        pass: u32,
    ) -> Result<(Values, ValueId)> {
        let Episodes { x, walk, below } = &inputs.lists;
        let vectors = graph.in_set(set, |g| self.vectors(g, network, x))?;
        let values = graph.in_set(set, |g| network.shown(g, x, walk, vectors, pass))?;
        let next = match &inputs.next {
            None => graph.in_set(target, |g| network.shown(g, x, walk, vectors, pass + 1))?.value,
            Some((candidates, groups)) => {
                let vectors = (vectors, x.flat(graph, vectors)?);
                let first = NEXT + 2 * pass;
                let own = graph.in_set(set, |g| network.explored(g, x, walk, vectors, candidates, first))?;
                let aim = graph.in_set(target, |g| network.explored(g, x, walk, vectors, candidates, first + 2))?;
                let best = graph.add(SequenceMax::default(), &[own.value, *groups])?[1];
                let best = graph.add1(Reshape { shape: vec![x.count] }, &[best])?;
                graph.add1(Embedding { padding_idx: None }, &[aim.value, best])?
            }
        };
        Ok((values, goals(graph, self.config.gamma, next, *below)?))
    }

    fn teach(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = self.inputs(&mut graph, shape, true);
        let sets = (TEACHER, TARGETS[0]);
        let (values, goals) = self.values_and_goals(&mut graph, &self.teacher(), sets, &inputs, 0)?;
        let loss = td_loss(&mut graph, values.value, goals)?;
        graph.metric("loss_teacher", loss);
        let gradients = graph.backward(loss, TEACHER)?;
        adam_step(&mut graph, TEACHER, &gradients, self.config.training.clip())?;
        Ok(graph)
    }

    /// The teacher's values as it teaches them, and their confidence `[N]`.
    fn lessons(&self, graph: &mut Graph, inputs: &Inputs) -> Result<(Values, ValueId)> {
        let sets = (TEACHER, TARGETS[0]);
        let (values, goals) = self.values_and_goals(graph, &self.teacher(), sets, inputs, 2)?;
        let confidence = graph.add1(Confidence, &[values.value, goals])?;
        Ok((values, column(graph, confidence)?))
    }

    fn learn(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = self.inputs(&mut graph, shape, true);
        let (config, count, length) = (&self.config, inputs.lists.x.count, self.sizes.length);
        let sets = (STUDENT, TARGETS[1]);
        let (values, goals) = self.values_and_goals(&mut graph, &self.student(), sets, &inputs, 4)?;
        let own = td_loss(&mut graph, values.value, goals)?;
        let mut loss = graph.add1(Scale { factor: config.student_weight }, &[own])?;
        let mut metrics = vec![("loss_student", own)];
        if config.kl_weight > 0.0 || config.hint_weight > 0.0 {
            let (teacher, confidence) = self.lessons(&mut graph, &inputs)?;
            let share = graph.input_once("share", TensorType::f32(&[count]));
            // A share of the batch each, less where the teacher errs.
            let trust = if config.confidence { graph.add1(Multiply, &[confidence, share])? } else { share };
            let mean = graph.add1(WeightedSum, &[confidence, share])?;
            if config.kl_weight > 0.0 {
                let [t, s] = [teacher.value, values.value]
                    .map(|value| graph.add1(Reshape { shape: vec![shape.sequences, length] }, &[value]));
                let op = ListKlDiv { teacher_temperature: config.temperature, student_temperature: 1.0 };
                let each = graph.add1(op, &[t?, s?])?;
                let trust = graph.add1(Reshape { shape: vec![count, 1] }, &[trust])?;
                let ones = graph.input_once("ones", TensorType::f32(&[count]));
                let of_lists = graph.add1(SequencePool { mean: false }, &[trust, ones, inputs.lists.walk.lists])?;
                let of_lists = column(&mut graph, of_lists)?;
                let kl = graph.add1(WeightedSum, &[each, of_lists])?;
                metrics.push(("loss_kl", kl));
                let weighted = graph.add1(Scale { factor: config.kl_weight }, &[kl])?;
                loss = graph.add1(Add, &[loss, weighted])?;
            }
            if config.hint_weight > 0.0 {
                let rows = graph.add1(RowMse, &[values.hint, teacher.hint])?;
                let hint = graph.add1(WeightedSum, &[rows, trust])?;
                metrics.push(("loss_hint", hint));
                let weighted = graph.add1(Scale { factor: config.hint_weight }, &[hint])?;
                loss = graph.add1(Add, &[loss, weighted])?;
            }
            metrics.push(("confidence", mean));
        }
        metrics.insert(0, ("loss", loss));
        super::minimise(&mut graph, &metrics, &config.training)?;
        Ok(graph)
    }

    /// Candidates for one position of each list, valued by both networks; the best of either teach once more.
    fn explore(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let inputs = self.inputs(&mut graph, shape, true);
        let (config, lists) = (&self.config, shape.sequences);
        let count = lists * config.candidates;
        let names = ["explored", "candidates", "each_candidate", "candidate_"];
        let candidates = candidates_named(&mut graph, names, [count, self.sizes.fields.len()]);
        let Episodes { x, walk, .. } = &inputs.lists;
        let mut both = Vec::new();
        for (network, set, pass) in [(self.teacher(), TEACHER, 6), (self.student(), STUDENT, 8)] {
            both.push(graph.in_set(set, |g| {
                let vectors = self.vectors(g, &network, x)?;
                let items = x.flat(g, vectors)?;
                network.explored(g, x, walk, (vectors, items), &candidates, pass)
            })?);
        }
        let (mut scores, mut best) = (Vec::new(), Vec::new());
        for values in &both {
            let of_lists = graph.add1(Reshape { shape: vec![lists, config.candidates] }, &[values.value])?;
            scores.push(of_lists);
            best.push(graph.add(TopK { k: config.kept }, &[of_lists])?[1]);
        }
        let masks = graph.add(TopUnion { candidates: config.candidates }, &best)?;
        let of_list = graph.input("list_share", TensorType::f32(&[lists]));
        let [t, s] = [scores[0], scores[1]].map(|scores| graph.add1(Add, &[masks[1], scores]));
        let op = ListKlDiv { teacher_temperature: config.temperature, student_temperature: 1.0 };
        let each = graph.add1(op, &[t?, s?])?;
        let kl = graph.add1(WeightedSum, &[each, of_list])?;
        // The mean over what was kept of each list, then over the lists.
        let errors = graph.add1(RowMse, &[both[1].hint, both[0].hint])?;
        let errors = graph.add1(Reshape { shape: vec![count, 1] }, &[errors])?;
        let kept = graph.add1(Reshape { shape: vec![count] }, &[masks[0]])?;
        let borders = graph.input("of_list", TensorType::u32(&[lists + 1]));
        let hints = graph.add1(SequencePool { mean: true }, &[errors, kept, borders])?;
        let hints = column(&mut graph, hints)?;
        let hint = graph.add1(WeightedSum, &[hints, of_list])?;
        let parts = [(kl, config.kl_weight), (hint, config.hint_weight)];
        let [kl_part, hint_part] = parts.map(|(part, factor)| graph.add1(Scale { factor }, &[part]));
        let mut loss = graph.add1(Add, &[kl_part?, hint_part?])?;
        if config.confidence {
            let (_, confidence) = self.lessons(&mut graph, &inputs)?;
            let share = graph.input_once("share", TensorType::f32(&[x.count]));
            let trust = graph.add1(WeightedSum, &[confidence, share])?;
            loss = graph.add1(Multiply, &[loss, trust])?;
        }
        graph.metric("loss_explored", loss);
        let gradients = graph.backward(loss, STUDENT)?;
        adam_step(&mut graph, Optimizer { name: "explored", set: STUDENT }, &gradients, config.training.clip())?;
        Ok(graph)
    }
}

/// Candidates without bags of their own, for training: the names of where and which they are, of their walks, and the prefix of
/// the rest.
fn candidates_named(graph: &mut Graph, names: [&str; 4], [count, fields]: [usize; 2]) -> Candidates {
    let [at, of, each, prefix] = names;
    let [at, of] = [at, of].map(|name| Ids::declare(graph, name, &[count], true));
    let each = graph.input(each, TensorType::u32(&[count + 1]));
    Candidates { at, of, each, impressions: Impressions::without_bags(graph, prefix, count, fields, true) }
}

impl Method for DrlRec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.sizes.length
    }

    fn training_graphs(&self) -> u8 {
        4
    }

    fn graphs_of_step(&self, _graph: u8, step: u64) -> Vec<u8> {
        let explores = self.config.explore && self.config.kl_weight + self.config.hint_weight > 0.0;
        let syncs = step.is_multiple_of(self.config.sync_every);
        [Some(TEACH), Some(LEARN), explores.then_some(EXPLORE), syncs.then_some(SYNC)].into_iter().flatten().collect()
    }

    fn optimizer(&self, name: &str) -> AdamConfig {
        let learning_rate =
            if name == "explored" { self.config.explore_learning_rate } else { self.config.training.learning_rate };
        AdamConfig { learning_rate, ..self.config.training.adam() }
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        match shape.graph {
            TEACH => self.teach(shape, layout),
            LEARN => self.learn(shape, layout),
            EXPLORE => self.explore(shape, layout),
            _ => {
                let mut graph = Graph::new(layout);
                targets_follow(&mut graph, self.config.sync_rate, PAIRS)?;
                Ok(graph)
            }
        }
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        let (candidates, chooses_next) = (self.explored(), self.chooses_next());
        Ok(Arc::new(Explored { candidates, chooses_next, lists: data.lists()? }))
    }

    fn initial_state(&self, layout: &ParamLayout, seed: u64, _data: &Interactions) -> State {
        let mut state = layout.initial_state(seed);
        targets_begin(layout, &mut state, PAIRS);
        state
    }

    fn list_model(&self) -> Option<&dyn ListModel> {
        Some(self)
    }
}

impl ListModel for DrlRec {
    fn scores(&self, graph: &mut Graph, shape: Shape) -> Result<ValueId> {
        let inputs = self.inputs(graph, shape, false);
        let (network, set) = self.served();
        let Episodes { x, walk, .. } = &inputs.lists;
        let values = graph.in_set(set, |g| {
            let vectors = self.vectors(g, &network, x)?;
            network.shown(g, x, walk, vectors, 0)
        })?;
        column(graph, values.value)
    }

    fn batch(&self, lists: &Lists, which: &[u32]) -> Batch {
        let mut feed = Feed::default();
        let shape = feed_walk(&mut feed, lists, which, None);
        Batch { shape, feed, tokens: which.len() * lists.length }
    }

    fn candidates(&self, graph: &mut Graph, shape: RequestShape) -> Result<ValueId> {
        let fields = self.sizes.fields.len();
        let inputs = Episodes::declare(graph, 1, [shape.list[0], fields, shape.list[1]], false);
        let candidates = requested(graph, fields, shape.candidates);
        let (network, set) = self.served();
        let values = graph.in_set(set, |g| {
            let vectors = self.vectors(g, &network, &inputs.x)?;
            let own = self.vectors(g, &network, &candidates.impressions)?;
            let items = candidates.impressions.flat(g, own)?;
            network.explored(g, &inputs.x, &inputs.walk, (vectors, items), &candidates, 0)
        })?;
        column(graph, values.value)
    }

    fn discount(&self) -> Option<f64> {
        Some(self.config.gamma)
    }

    fn request(&self, request: &ListRequest) -> (RequestShape, Feed) {
        feed_list_request(request, self.sizes.fields.len())
    }
}

#[cfg(test)]
#[path = "drl_rec/tests.rs"]
mod tests;
