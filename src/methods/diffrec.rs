//! DiffRec (Du et al. 2023, Sequential Recommendation with Diffusion Models): the vector of the next item is denoised from
//! pure noise, given the history.
//!
//! ```text
//! h^n = sqrt(abar_n) E(v) + sqrt(1 - abar_n) eps                                     noise on the target, step n of N
//! x_t = E(v_t) + y_t + z_n, the slot's with h^n for E(v)                              positions y, step z (sinusoids)
//! h_hat = f(x_1 .. x_T) at the slot                                                   `nn/denoiser.rs`
//! L = mean( w_n |E(v) - h_hat|^2 / d  -  log softmax(W h_hat + b)_v )                 n from p_n, w_n = 1 / (N p_n)
//! ```
//!
//! Every prefix of a training sequence is a sample. Where the paper leaves a choice it is a setting: whether W is the item
//! table, which vector the cross-entropy reads, how many of the last items are noised, what sees the slot.

use super::config::{table_of, typed};
use super::{Batch, Method, MethodInfo, Request, Sampler, Shape, Sizes, Training};
use crate::data::pack::INERT;
use crate::data::{Interactions, Prefixes, row_bucket};
use crate::engine::graph::Flat;
use crate::engine::params::{Init, ParamLayout, State};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType, ValueId};
use crate::error::Result;
use crate::nn::denoiser::History;
use crate::nn::tokens::Random;
use crate::nn::{Denoiser, Ids, PassNoise, Scorer, SlotMask, Tokens};
use crate::ops::add::Add;
use crate::ops::detach::Detach;
use crate::ops::embedding::Embedding;
use crate::ops::fill::Fill;
use crate::ops::importance_sampler::{EMPTY, ImportanceRecord, ImportanceSampler};
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::row_mse::RowMse;
use crate::ops::scale::Scale;
use crate::ops::step_mix::{Schedule, StepMix};
use crate::ops::weighted_sum::WeightedSum;
use batches::{Layout, Noised};
use config::checked;
pub use config::{DiffRecConfig, Inference, RecOn};
use rayon::prelude::*;
use std::sync::Arc;

#[path = "diffrec/batches.rs"]
mod batches;
#[path = "diffrec/config.rs"]
mod config;

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "diffrec",
    title: "DiffRec",
    paper: "Du et al., Sequential Recommendation with Diffusion Models, arXiv 2304.04541",
    preset: include_str!("diffrec.toml"),
    defaults: || table_of(&DiffRecConfig::default()),
    cases: &[
        &["mode=paper", "blocks=2", "steps=20"],
        &["mode=quality", "steps=20", "noised_scale=0.3", "step_scale=0.2"],
        &["mode=quality", "blocks=2", "steps=20", "tie_weights=true", "rec_on=both", "slot_from_last=false"],
        &["mode=paper", "steps=20", "slot_from_last=true", "noised_scale=0.3", "step_scale=0.2"],
        &["mode=paper", "steps=5", "noised_items=3", "detach_target=true"],
    ],
    build: |config, Sizes { items, .. }| Ok(Box::new(DiffRec { config: checked(typed(config)?)?, n_items: items })),
};

/// Steps back that one run of a graph makes.
const STEPS_PER_ROUND: usize = 20;

/// Losses of a step that its importance is known by.
const KEPT_LOSSES: usize = 10;

/// Where random numbers are drawn: the step of a sample, its noise, the noise of inference.
const STEP: Site = Site(0xD1F);
const NOISE: Site = Site(0xD20);
const START: Site = Site(0xD21);

/// DiffRec for a catalogue.
pub struct DiffRec {
    config: DiffRecConfig,
    n_items: usize,
}

impl DiffRec {
    fn prefix(&self) -> bool {
        self.config.slot_mask == SlotMask::Prefix
    }

    /// `E[V, dim]`
    fn item_table(&self, graph: &mut Graph) -> ValueId {
        let shape = [self.n_items, self.config.encoder.dim];
        graph.param("item_table", &shape, Init::Normal(self.config.item_init_std as f32))
    }

    /// `W`, and `b` where the output layer is not the item table.
    fn output(&self, graph: &mut Graph) -> (ValueId, Option<ValueId>) {
        if self.config.tie_weights {
            return (self.item_table(graph), None);
        }
        let encoder = &self.config.encoder;
        let weight = graph.param("output.weight", &[self.n_items, encoder.dim], Init::Normal(encoder.init_std as f32));
        (weight, Some(graph.param("output.bias", &[self.n_items], Init::Constant(0.0))))
    }

    /// `[N + 1, 2]`, row n: what the item's vector and the noise are multiplied by. Row 0 is no noise.
    fn mix_table(&self, graph: &mut Graph) -> ValueId {
        graph.in_set(SCHEDULE, |g| g.param("mix", &[self.config.steps + 1, 2], Init::Constant(0.0)))
    }

    /// `[N + 1, dim]`, row n: the sinusoids `z_n`.
    fn step_table(&self, graph: &mut Graph) -> ValueId {
        let shape = [self.config.steps + 1, self.config.encoder.dim];
        graph.in_set(SCHEDULE, |g| g.param("step", &shape, Init::Constant(0.0)))
    }

    /// The losses by step that the sampler of steps knows, as a flat buffer of its own set.
    fn losses_by_step(&self, graph: &mut Graph) -> ValueId {
        let shape = [self.config.steps, KEPT_LOSSES];
        graph.in_set(LOSSES, |g| g.param("by_step", &shape, Init::Constant(EMPTY)));
        let set = graph.layout.set_index(LOSSES);
        graph.flat(set, Flat::Params)
    }

    fn denoiser<'a>(&'a self, inputs: &Inputs) -> Denoiser<'a> {
        let noise = inputs.tokens.training.map(|_| PassNoise::Dropout { pass: 0 });
        Denoiser { encoder: &self.config.encoder, tokens: inputs.tokens, slot_random: inputs.slot_random, noise }
    }

    /// What no noise and no step changes.
    fn condition(&self, graph: &mut Graph, inputs: &Inputs) -> Result<Condition> {
        let (tokens, table) = (inputs.tokens, self.item_table(graph));
        let items = Ids { ids: tokens.items, segments: tokens.training.map(|t| t.item_segments) };
        let positions = Ids { ids: tokens.positions, segments: tokens.training.map(|t| t.position_segments) };
        let items = items.gather(graph, table)?;
        let positions = self.positions(graph, positions, items)?;
        match inputs.slots {
            SlotInputs::Rows { .. } => Ok(Condition::Rows { items, positions }),
            SlotInputs::Alone { .. } => Ok(Condition::History(self.denoiser(inputs).history(graph, items, positions)?)),
        }
    }

    /// The predictions `[Q, dim]` of the slots, from their noised vectors (or those of all rows, where more is noised) and
    /// the step of each (or of each row, where all rows see the slot): sinusoids, if they are added.
    fn predict(
        &self,
        graph: &mut Graph,
        inputs: &Inputs,
        condition: &Condition,
        noised: ValueId,
        steps: Option<ValueId>,
    ) -> Result<ValueId> {
        let denoiser = self.denoiser(inputs);
        let noised = match self.config.noised_scale {
            1.0 => noised,
            factor => graph.add1(Scale { factor }, &[noised])?,
        };
        let with_steps = |graph: &mut Graph, x: ValueId| match steps {
            Some(steps) => graph.add1(Add, &[x, steps]),
            None => Ok(x),
        };
        match (&inputs.slots, condition) {
            (SlotInputs::Rows { slot_rows, slot_of_row }, Condition::Rows { items, positions }) => {
                let noised = match slot_of_row {
                    Some(of_row) => of_row.gather(graph, noised)?,
                    None => noised,
                };
                let x = graph.add1(Add, &[noised, *items])?;
                let x = with_steps(graph, x)?;
                denoiser.predict_rows(graph, *slot_rows, x, *positions)
            }
            (SlotInputs::Alone { positions, items }, Condition::History(history)) => {
                let mut x = with_steps(graph, noised)?;
                if let Some(items) = items {
                    let table = self.item_table(graph);
                    let items = items.gather(graph, table)?;
                    x = graph.add1(Add, &[x, items])?;
                }
                let positions = self.positions(graph, *positions, x)?;
                denoiser.predict_slots(graph, history, x, positions)
            }
            _ => unreachable!("slots and condition are of one mask"),
        }
    }

    /// The sinusoids of the step that is given for each slot or row, by this input; none where they are not added.
    fn steps(&self, graph: &mut Graph, inputs: &Inputs, name: &str) -> Result<Option<ValueId>> {
        if !self.config.step_embedding {
            return Ok(None);
        }
        let ids = Ids::declare(graph, name, &[inputs.steps(graph)], false);
        let table = self.step_table(graph);
        ids.gather(graph, table).map(Some)
    }

    /// Step `n` for each slot or row, as `steps` reads it.
    fn feed_steps(&self, feed: &mut Feed, name: &str, layout: &Layout, n: u32) {
        let steps: Vec<u32> = match self.prefix() {
            true => vec![n; layout.slots.len()],
            false => layout.sample_of_row().into_iter().map(|sample| if sample == INERT { INERT } else { n }).collect(),
        };
        feed.set(name, Tensor::u32(&[steps.len()], &steps));
    }

    fn layout(&self, requests: &[Request]) -> Layout {
        let mut layout = Layout::new(&self.config);
        requests.iter().for_each(|request| layout.push(request.key(), request.history, self.config.samples));
        layout.packed.pad_to(row_bucket(layout.packed.n_rows()), INERT);
        layout
    }

    /// The noise `[Q, dim]` of inference at step `n`: it depends on the request and the number of its sample alone.
    fn noise(&self, requests: &[Request], n: u32) -> Tensor {
        let (dim, samples) = (self.config.encoder.dim, self.config.samples);
        let mut noise = vec![0.0; requests.len() * samples * dim];
        noise.par_chunks_exact_mut(dim).enumerate().for_each(|(slot, noise)| {
            let (key, sample) = (requests[slot / samples].key(), (slot % samples) as u32);
            RngState { seed: 0, step: n }.normals(START, key, sample, noise);
        });
        Tensor::f32(&[requests.len() * samples, dim], noise)
    }

    /// What is added to `x` for its place; zeros where positions are switched off.
    fn positions(&self, graph: &mut Graph, ids: Ids, x: ValueId) -> Result<ValueId> {
        if self.config.position_embedding {
            let table = self.config.encoder.position_table(graph);
            return ids.gather(graph, table);
        }
        let shape = graph.shape(x).to_vec();
        graph.add1(Fill { value: 0.0, shape }, &[])
    }

    /// Whether noised vectors are given for every row, and not for the slots alone.
    fn noises_rows(&self) -> bool {
        self.config.noised_items != 1
    }
}

/// Parameter sets that no optimizer updates.
const SCHEDULE: &str = "schedule";
const LOSSES: &str = "losses";

/// Graph inputs that training and inference share.
struct Inputs {
    tokens: Tokens,
    slots: SlotInputs,
    slot_random: Random,
}

/// What predictions of one history have in common.
enum Condition {
    /// Vectors and positions of the rows, which the slots are among.
    Rows { items: ValueId, positions: ValueId },
    /// The histories, as slots see them.
    History(History),
}

enum SlotInputs {
    /// Slots are rows of their sequences: `[Q]`, the row of each; `[R]`, the noised vector that a row holds, `u32::MAX` on
    /// others (none where there is one for every row).
    Rows { slot_rows: Ids, slot_of_row: Option<Ids> },
    /// Slots are none: `[Q]`, the position of each, and the item whose vector is added to it, if any is.
    Alone { positions: Ids, items: Option<Ids> },
}

impl Inputs {
    /// For Q slots; `tokens` are R rows.
    fn declare(method: &DiffRec, graph: &mut Graph, tokens: Tokens, slots: usize) -> Inputs {
        let (training, rows) = (tokens.training.is_some(), graph.shape(tokens.items)[0]);
        let keys = TensorType::u32(&[slots, 2]);
        let slot_random = tokens.training.map(|t| [t.rng, graph.input("slot_keys", keys)]);
        let slots = match method.prefix() {
            true => SlotInputs::Alone {
                positions: Ids::declare(graph, "slot_positions", &[slots], training),
                items: (method.config.slot_from_last).then(|| Ids::declare(graph, "slot_items", &[slots], training)),
            },
            false => SlotInputs::Rows {
                slot_rows: Ids::declare(graph, "slot_rows", &[slots], training),
                slot_of_row: (!(training && method.noises_rows()))
                    .then(|| Ids::declare(graph, "slot_of_row", &[rows], training)),
            },
        };
        Inputs { tokens, slots, slot_random }
    }

    fn for_scoring(method: &DiffRec, graph: &mut Graph, tokens: Tokens) -> Inputs {
        let sequences = graph.shape(tokens.cu_seqlens)[0] - 1;
        let slots = if method.prefix() { sequences * method.config.samples } else { sequences };
        Inputs::declare(method, graph, tokens, slots)
    }

    /// Q
    fn count(&self, graph: &Graph) -> usize {
        let slots = match self.slots {
            SlotInputs::Rows { slot_rows, .. } => slot_rows,
            SlotInputs::Alone { positions, .. } => positions,
        };
        graph.shape(slots.ids)[0]
    }

    /// How many steps are given: one for each slot, or for each row.
    fn steps(&self, graph: &Graph) -> usize {
        let of = match self.slots {
            SlotInputs::Rows { .. } => self.tokens.items,
            SlotInputs::Alone { positions, .. } => positions.ids,
        };
        graph.shape(of)[0]
    }
}

impl Method for DiffRec {
    fn training(&self) -> &Training {
        &self.config.training
    }

    fn max_len(&self) -> usize {
        self.config.encoder.max_len - 1
    }

    fn train_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let (config, batch) = (&self.config, shape.sequences);
        let mut graph = Graph::new(layout);
        let tokens = Tokens::for_training(&mut graph, batch, shape.rows);
        let inputs = Inputs::declare(self, &mut graph, tokens, batch);
        let table = self.item_table(&mut graph);
        let target = Ids::declare(&mut graph, "target", &[batch], true);
        let h0 = target.gather(&mut graph, table)?;

        // Which steps, and how much of vector and noise they mix.
        let sampler = ImportanceSampler { steps: config.steps, kept: KEPT_LOSSES };
        let losses = self.losses_by_step(&mut graph);
        let uniform = graph.input("uniform", TensorType::f32(&[batch]));
        let [step, weight] = graph.add(sampler, &[losses, uniform])?[..] else { unreachable!("two outputs") };
        let gather = Embedding { padding_idx: None };
        let mix_table = self.mix_table(&mut graph);
        let mut mix = graph.add1(gather, &[mix_table, step])?;
        let mut clean = h0;
        let mut noised_rows = batch;
        if self.noises_rows() {
            noised_rows = shape.rows;
            let of_row = graph.input("sample_of_noised", TensorType::u32(&[shape.rows]));
            mix = graph.add1(gather, &[mix, of_row])?;
            clean = Ids::declare(&mut graph, "noised_items", &[shape.rows], true).gather(&mut graph, table)?;
        }
        let eps = graph.input("noise", TensorType::f32(&[noised_rows, config.encoder.dim]));
        let noised = graph.add1(StepMix::default(), &[clean, eps, mix])?;
        let mut steps = None;
        if config.step_embedding {
            let table = self.step_table(&mut graph);
            let sinusoids = graph.add1(gather, &[table, step])?;
            steps = Some(match inputs.slots {
                SlotInputs::Alone { .. } => sinusoids,
                SlotInputs::Rows { .. } => {
                    let of_row = graph.input("sample_of_row", TensorType::u32(&[shape.rows]));
                    graph.add1(gather, &[sinusoids, of_row])?
                }
            });
        }
        let condition = self.condition(&mut graph, &inputs)?;
        let predicted = self.predict(&mut graph, &inputs, &condition, noised, steps)?;

        let wanted = if config.detach_target { graph.add1(Detach, &[h0])? } else { h0 };
        let errors = graph.add1(RowMse, &[predicted, wanted])?;
        let weight = graph.add1(Scale { factor: config.mse_weight / batch as f64 }, &[weight])?;
        let error = graph.add1(WeightedSum, &[errors, weight])?;
        let (output, bias) = self.output(&mut graph);
        let even = graph.add1(Fill { value: 1.0 / batch as f32, shape: vec![batch] }, &[])?;
        let mut loss = error;
        let mut recommendation = None;
        let read: &[ValueId] = match config.rec_on {
            RecOn::Predicted => &[predicted],
            RecOn::True => &[h0],
            RecOn::Both => &[predicted, h0],
        };
        for &vector in read {
            let operands: Vec<ValueId> = [vector, output].into_iter().chain(bias).chain([target.ids]).collect();
            let rows = graph.add1(LinearCrossEntropy { items: Some(self.n_items) }, &operands)?;
            let mean = graph.add1(WeightedSum, &[rows, even])?;
            recommendation.get_or_insert(mean);
            loss = graph.add1(Add, &[mean, loss])?;
        }
        let recommendation = recommendation.expect("one vector at least");
        let metrics = [("loss", loss), ("loss_rec", recommendation), ("loss_mse", error)];
        super::minimise(&mut graph, &metrics, &config.training)?;
        if config.importance {
            graph.add1(ImportanceRecord { sampler }, &[losses, step, errors])?;
        }
        Ok(graph)
    }

    fn initial_state(&self, layout: &ParamLayout, seed: u64, _data: &Interactions) -> State {
        let mut state = layout.initial_state(seed);
        let schedule = Schedule::new(self.config.schedule, self.config.steps);
        let mix = (1..=self.config.steps as u32).flat_map(|n| schedule.q_sample(n));
        let mut fill = |name: &str, values: &mut dyn Iterator<Item = f64>| {
            let words = state.parameter_mut(layout, SCHEDULE, name).into_iter().flatten();
            words.zip(values).for_each(|(word, value)| *word = value as f32);
        };
        fill("mix", &mut [1.0, 0.0].into_iter().chain(mix));
        let dim = self.config.encoder.dim;
        let sinusoid = |(n, d): (usize, usize)| {
            let angle = n as f64 / 10_000f64.powf((d / 2 * 2) as f64 / dim as f64);
            self.config.step_scale * if d % 2 == 0 { angle.sin() } else { angle.cos() }
        };
        let places = (0..=self.config.steps).flat_map(|n| (0..dim).map(move |d| (n, d)));
        fill("step", &mut places.map(sinusoid));
        state
    }

    fn batches_of(&self) -> &'static str {
        "prefixes"
    }

    fn sampler(&self, data: Arc<Interactions>) -> Result<Arc<dyn Sampler>> {
        Ok(Arc::new(Noised { config: self.config.clone(), prefixes: Prefixes::new(data) }))
    }

    fn samples(&self) -> usize {
        self.config.samples
    }

    /// As many as keep the rows of the samples and the probabilities of all items small.
    fn requests_per_run(&self) -> usize {
        let copies = if self.prefix() { 1 } else { self.config.samples };
        (256 / copies).min((1 << 24) / self.n_items).max(1)
    }

    fn scoring_batch(&self, requests: &[Request]) -> Batch {
        let (layout, last) = (self.layout(requests), self.config.steps as u32);
        let mut feed = layout.feed(None);
        feed.set("noise", self.noise(requests, last));
        let read = if self.config.inference == Inference::Jump { last } else { 1 };
        self.feed_steps(&mut feed, "step", &layout, read);
        Batch { shape: layout.shape(), feed, tokens: layout.packed.n_real_rows() }
    }

    fn rounds(&self) -> usize {
        match self.config.inference {
            Inference::Jump => 0,
            Inference::Chain => (self.config.steps - 1).div_ceil(STEPS_PER_ROUND),
        }
    }

    /// Steps back (Algorithm 2), as many as a round has: `h^(n-1)` from `h^n`.
    fn round_graph(&self, shape: Shape, layout: ParamLayout) -> Result<Graph> {
        let mut graph = Graph::new(layout);
        let tokens = Tokens::for_scoring(&mut graph, shape.sequences, shape.rows);
        let inputs = Inputs::for_scoring(self, &mut graph, tokens);
        let size = [inputs.count(&graph), self.config.encoder.dim];
        let condition = self.condition(&mut graph, &inputs)?;
        let mut h = graph.input("noise", TensorType::f32(&size));
        for place in 0..STEPS_PER_ROUND {
            let steps = self.steps(&mut graph, &inputs, &format!("step{place}"))?;
            let predicted = self.predict(&mut graph, &inputs, &condition, h, steps)?;
            let z = graph.input(&format!("noise{place}"), TensorType::f32(&size));
            let mix = graph.input(&format!("mix{place}"), TensorType::f32(&[size[0], 3]));
            h = graph.add1(StepMix::default(), &[predicted, h, z, mix])?;
        }
        graph.output("noise", h);
        Ok(graph)
    }

    fn feed_round(&self, round: usize, requests: &[Request], feed: &mut Feed) {
        let (layout, schedule) = (self.layout(requests), Schedule::new(self.config.schedule, self.config.steps));
        for place in 0..STEPS_PER_ROUND {
            // The last round may have fewer steps: the others leave everything as it is.
            let n = (self.config.steps - round * STEPS_PER_ROUND).saturating_sub(place) as u32;
            let mix = if n > 1 { schedule.denoise_step(n) } else { [0.0, 1.0, 0.0] };
            let rows = mix.map(|x| x as f32).repeat(layout.slots.len());
            feed.set(&format!("mix{place}"), Tensor::f32(&[layout.slots.len(), 3], rows));
            self.feed_steps(feed, &format!("step{place}"), &layout, n.max(1));
            // The noise that leads to step n - 1 is drawn there; that of step N was the start.
            feed.set(&format!("noise{place}"), self.noise(requests, n.max(1) - 1));
        }
    }

    fn scorer(&self, graph: &mut Graph, tokens: &Tokens) -> Result<Scorer> {
        let inputs = Inputs::for_scoring(self, graph, *tokens);
        let size = [inputs.count(graph), self.config.encoder.dim];
        let noise = graph.input("noise", TensorType::f32(&size));
        let steps = self.steps(graph, &inputs, "step")?;
        let condition = self.condition(graph, &inputs)?;
        let query = self.predict(graph, &inputs, &condition, noise, steps)?;
        let (table, bias) = self.output(graph);
        Ok(Scorer { query, table, bias, items: self.n_items, samples: self.config.samples })
    }
}

#[cfg(test)]
#[path = "diffrec/tests.rs"]
mod tests;
