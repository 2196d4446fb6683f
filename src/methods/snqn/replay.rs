//! Batches of events for SNQN, drawn as from a replay buffer that holds all of them.

use super::{NEXT, STATE, SnqnConfig, Turn};
use crate::data::pack::INERT;
use crate::data::{Events, Interactions, Packed, row_bucket};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Tensor};
use crate::error::Result;
use crate::methods::batch::{feed_ids, feed_tokens};
use crate::methods::{Batch, Sampler, Shape};
use crate::nn::{Base, StateEncoder};
use std::sync::Arc;

/// Appends a session's last items as the encoder wants them, the oldest at position 0.
pub fn lay_out(encoder: &StateEncoder, padding: u32, packed: &mut Packed, key: u32, history: &[u32]) {
    let kept = &history[history.len().saturating_sub(encoder.max_len)..];
    let missing = encoder.rows(kept.len()) - kept.len();
    let filler = if encoder.base == Base::Gru { padding } else { INERT };
    packed.push_from(key, &[kept, &vec![filler; missing]].concat(), 0);
}

/// Draws of a step: which network learns, which events, and their negatives.
const COIN: Site = Site(0xC01);
const EVENTS: Site = Site(0xC02);
const NEGATIVES: Site = Site(0xC03);

/// Makes batches of events, drawn from all training events.
pub struct Replay {
    pub config: SnqnConfig,
    pub data: Arc<Interactions>,
    pub events: Events,
    /// By kind.
    pub rewards: Vec<f32>,
    /// By item: its share of all events.
    pub beta: Vec<f32>,
}

impl Replay {
    /// Distinct events, fewer where there are not as many.
    pub fn draw(&self, rng: RngState) -> Vec<u32> {
        let (all, wanted) = (self.events.count(), self.config.training.batch_size);
        if all as usize <= wanted {
            return (0..all).collect();
        }
        let (mut stream, mut drawn) = (rng.stream(EVENTS, 0), Vec::with_capacity(wanted));
        let mut known = std::collections::HashSet::with_capacity(wanted);
        while drawn.len() < wanted {
            let event = stream.below(all);
            if known.insert(event) {
                drawn.push(event);
            }
        }
        drawn
    }

    /// Sessions up to some places, under a prefix; `rows` at least.
    pub fn feed(&self, feed: &mut Feed, prefix: &str, sessions: &Packed, rng: RngState) {
        let mut own = Feed::default();
        feed_tokens(&mut own, sessions, None, Some(rng));
        feed_ids(&mut own, "last_rows", &sessions.last_rows());
        let starts = sessions.cu_seqlens.windows(2);
        let key = |(place, ends): (usize, &[u32])| match ends[0] < ends[1] {
            true => [sessions.sequence[ends[0] as usize], 0],
            false => [INERT - place as u32, 0],
        };
        let keys: Vec<u32> = starts.enumerate().flat_map(key).collect();
        own.set("state_keys", Tensor::u32(&[sessions.n_sequences(), 2], &keys));
        feed.extend(prefix, own);
    }
}

impl Sampler for Replay {
    /// So many that an epoch has the steps that are wanted; which events they are is drawn step by step.
    fn samples(&self) -> Vec<u32> {
        let steps = if self.events.count() == 0 { 0 } else { self.config.steps_per_epoch };
        vec![0; steps * self.config.training.batch_size]
    }

    fn batch(&self, _samples: &[u32], rng: RngState) -> Result<Batch> {
        let (config, items) = (&self.config, self.data.n_items() as u32);
        let values = config.learning.has_values();
        let turn = Turn {
            main: if values { rng.stream(COIN, 0).below(2) as usize } else { 0 },
            after: config.learning.has_warm_up() && rng.step as usize > config.warm_up,
        };
        let events = self.draw(rng);
        let [mut state, mut next] = [Packed::new(), Packed::new()];
        let (mut action, mut negatives) = (Vec::new(), Vec::new());
        let [mut reward, mut done, mut beta] = [const { Vec::new() }; 3];
        for &event in &events {
            let (user, place) = self.events.of(event);
            let train = self.data.train(user);
            lay_out(&config.encoder, items, &mut state, event, &train[..place]);
            lay_out(&config.encoder, items, &mut next, event, &train[..=place]);
            let own = train[place];
            let mut stream = rng.stream(NEGATIVES, event);
            negatives.extend((0..config.negatives).map(|_| {
                // Uniform over all others.
                let drawn = stream.below(items.max(2) - 1);
                if drawn >= own { (drawn + 1).min(items - 1) } else { drawn }
            }));
            action.push(own);
            let kind = self.data.kinds(user).get(place);
            reward.push(kind.map_or(config.reward as f32, |kind| self.rewards[*kind as usize]));
            done.push(f32::from(u8::from(place + 1 == train.len())));
            beta.push(self.beta[own as usize]);
        }
        let tokens = state.n_rows() + next.n_rows();
        let rows = row_bucket(state.n_rows().max(next.n_rows()));
        [&mut state, &mut next].into_iter().for_each(|sessions| sessions.pad_to(rows, INERT));
        let mut feed = Feed::default();
        self.feed(&mut feed, STATE, &state, rng);
        self.feed(&mut feed, NEXT, &next, rng);
        feed.set("rng", Tensor::u32(&[4], &rng.words()));
        feed_ids(&mut feed, "action", &action);
        feed_ids(&mut feed, "negatives", &negatives);
        feed.set("negatives", Tensor::u32(&[events.len(), config.negatives], &negatives));
        for (name, column) in [("reward", reward), ("done", done), ("beta", beta)] {
            feed.set(name, Tensor::f32(&[column.len()], column));
        }
        Ok(Batch { shape: Shape { graph: turn.graph(), sequences: events.len(), rows }, feed, tokens })
    }
}
