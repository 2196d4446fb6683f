//! How DiffRec's histories and slots lie in a batch, and the noise of training samples.

use super::{DiffRecConfig, NOISE, STEP};
use crate::data::pack::INERT;
use crate::data::{Packed, Prefixes, row_bucket};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Tensor};
use crate::error::Result;
use crate::methods::batch::{feed_ids, feed_tokens};
use crate::methods::{Batch, Sampler, Shape};
use crate::nn::SlotMask;

/// Lays out histories with their slots.
pub struct Layout {
    pub max_len: usize,
    pub mask: SlotMask,
    /// Whether slots hold the last item of their history.
    pub from_last: bool,
    pub packed: Packed,
    /// That item, for slots that are no rows.
    pub last_items: Vec<u32>,
    /// What each slot's random numbers are counted by, and the last row before or of it.
    pub slots: Vec<(u32, u32)>,
}

impl Layout {
    pub fn new(config: &DiffRecConfig) -> Self {
        Layout {
            max_len: config.encoder.max_len,
            mask: config.slot_mask,
            from_last: config.slot_from_last,
            packed: Packed::new(),
            last_items: Vec::new(),
            slots: Vec::new(),
        }
    }

    /// A history with so many slots: one behind each of its copies, or all beside it.
    pub fn push(&mut self, key: u32, history: &[u32], slots: usize) {
        let kept = &history[history.len().saturating_sub(self.max_len - 1)..];
        let last = history.last().copied().filter(|_| self.from_last).unwrap_or(INERT);
        if self.mask == SlotMask::Prefix {
            self.packed.push(key, kept, self.max_len - 1);
        }
        for _ in 0..slots {
            if self.mask == SlotMask::Bidirectional {
                self.packed.push(key, &[kept, &[last]].concat(), self.max_len);
            }
            self.last_items.push(last);
            self.slots.push((key, (self.packed.n_rows() as u32).saturating_sub(1)));
        }
    }

    /// The sample that each row belongs to, `u32::MAX` for none.
    pub fn sample_of_row(&self) -> Vec<u32> {
        let mut samples = vec![INERT; self.packed.n_rows()];
        for (sample, ends) in (0..).zip(self.packed.cu_seqlens.windows(2)) {
            samples[ends[0] as usize..ends[1] as usize].fill(sample);
        }
        samples
    }

    pub fn feed(&self, training: Option<RngState>) -> Feed {
        let mut feed = Feed::default();
        feed_tokens(&mut feed, &self.packed, None, training);
        let last = self.max_len as u32 - 1;
        let keys: Vec<u32> = self.slots.iter().flat_map(|slot| [slot.0, last]).collect();
        feed.set("slot_keys", Tensor::u32(&[self.slots.len(), 2], &keys));
        if self.mask == SlotMask::Prefix {
            feed_ids(&mut feed, "slot_positions", &vec![last; self.slots.len()]);
            if self.from_last {
                feed_ids(&mut feed, "slot_items", &self.last_items);
            }
            return feed;
        }
        let rows: Vec<u32> = self.slots.iter().map(|slot| slot.1).collect();
        let mut of_row = vec![INERT; self.packed.n_rows()];
        (0..).zip(&rows).for_each(|(slot, row)| of_row[*row as usize] = slot);
        feed_ids(&mut feed, "slot_rows", &rows);
        feed_ids(&mut feed, "slot_of_row", &of_row);
        feed
    }

    pub fn shape(&self) -> Shape {
        Shape::new(self.packed.n_sequences(), self.packed.n_rows())
    }
}

/// Makes batches: a sample per prefix of a training sequence.
pub struct Noised {
    pub config: DiffRecConfig,
    pub prefixes: Prefixes,
}

impl Noised {
    /// Moves the items that are noised, with their noise, out of the rows: the slots' targets and, with `noised_items`
    /// above 1, the last items of the histories.
    pub fn noise_rows(&self, layout: &mut Layout, targets: &[u32], rng: RngState, feed: &mut Feed) {
        let (rows, dim) = (layout.packed.n_rows(), self.config.encoder.dim);
        let (mut items, mut samples, mut noise) = (vec![INERT; rows], vec![INERT; rows], vec![0.0; rows * dim]);
        for (sample, (ends, target)) in layout.packed.cu_seqlens.clone().windows(2).zip(targets).enumerate() {
            let (first, slot) = (ends[0] as usize, ends[1] as usize - 1);
            let count = match self.config.noised_items {
                0 => slot + 1 - first,
                count => count.min(slot + 1 - first),
            };
            layout.packed.items[slot] = *target;
            for row in slot + 1 - count..=slot {
                items[row] = std::mem::replace(&mut layout.packed.items[row], INERT);
                samples[row] = sample as u32;
                let position = layout.packed.positions[row];
                rng.normals(NOISE, layout.slots[sample].0, position, &mut noise[row * dim..][..dim]);
            }
        }
        feed_ids(feed, "noised_items", &items);
        feed.set("sample_of_noised", Tensor::u32(&[rows], &samples));
        feed.set("noise", Tensor::f32(&[rows, dim], noise));
    }
}

impl Sampler for Noised {
    fn samples(&self) -> Vec<u32> {
        (0..self.prefixes.count()).collect()
    }

    fn batch(&self, samples: &[u32], rng: RngState) -> Result<Batch> {
        let (mut layout, dim) = (Layout::new(&self.config), self.config.encoder.dim);
        let pairs: Vec<(&[u32], u32)> = samples.iter().map(|number| self.prefixes.of(*number)).collect();
        samples.iter().zip(&pairs).for_each(|(number, (history, _))| layout.push(*number, history, 1));
        let tokens = layout.packed.n_rows();
        layout.packed.pad_to(row_bucket(tokens), INERT);
        let targets: Vec<u32> = pairs.iter().map(|pair| pair.1).collect();
        let mut noise = Feed::default();
        if self.config.noised_items == 1 {
            let mut eps = vec![0.0; samples.len() * dim];
            let rows = samples.iter().zip(eps.chunks_exact_mut(dim));
            rows.for_each(|(number, eps)| rng.normals(NOISE, *number, self.config.encoder.max_len as u32 - 1, eps));
            noise.set("noise", Tensor::f32(&[samples.len(), dim], eps));
        } else {
            self.noise_rows(&mut layout, &targets, rng, &mut noise);
        }
        let mut feed = layout.feed(Some(rng));
        feed.extend("", noise);
        let sample_of_row = layout.sample_of_row();
        feed.set("sample_of_row", Tensor::u32(&[sample_of_row.len()], &sample_of_row));
        feed_ids(&mut feed, "target", &targets);
        let uniform = samples.iter().map(|number| rng.stream(STEP, *number).uniform()).collect();
        feed.set("uniform", Tensor::f32(&[samples.len()], uniform));
        Ok(Batch { shape: layout.shape(), feed, tokens })
    }
}
