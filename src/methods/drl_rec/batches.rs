//! Batches of lists, and what is explored of them.

use crate::data::lists::{Lists, Part};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Tensor};
use crate::error::Result;
use crate::methods::batch::feed_ids;
use crate::methods::episodes::{feed_rewards, feed_walk};
use crate::methods::{Batch, Sampler};
use std::sync::Arc;

/// Draws of explored positions and candidates.
const EXPLORATION: Site = Site(0xD21);

/// Makes batches of whole lists.
pub struct Explored {
    /// Candidates of an explored position.
    pub candidates: usize,
    pub lists: Arc<Lists>,
}

impl Sampler for Explored {
    fn samples(&self) -> Vec<u32> {
        self.lists.part(Part::Train).map(|list| list as u32).collect()
    }

    fn batch(&self, which: &[u32], rng: RngState) -> Result<Batch> {
        let mut feed = Feed::default();
        let shape = feed_walk(&mut feed, &self.lists, which, Some(rng));
        let count = feed_rewards(&mut feed, &self.lists, which);
        feed.set("ones", Tensor::f32(&[count], vec![1.0; count]));
        self.feed_explored(&mut feed, which, rng);
        Ok(Batch { shape, feed, tokens: count })
    }
}

impl Explored {
    /// A position of each list, and what could have stood there: items that the batch shows somewhere.
    fn feed_explored(&self, feed: &mut Feed, which: &[u32], rng: RngState) {
        let (candidates, length) = (self.candidates, self.lists.length as u32);
        let (mut at, mut drawn, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (place, list) in (0u32..).zip(which) {
            let mut stream = rng.stream(EXPLORATION, *list);
            let position = place * length + stream.below(length);
            for candidate in 0..candidates as u32 {
                at.push(position);
                drawn.push(stream.below(which.len() as u32 * length));
                keys.extend([*list, candidate]);
            }
        }
        feed_ids(feed, "explored", &at);
        feed_ids(feed, "candidates", &drawn);
        let each: Vec<u32> = (0..=at.len() as u32).collect();
        feed.set("each_candidate", Tensor::u32(&[each.len()], &each));
        self.feed_candidates(feed, &keys);
        let borders: Vec<u32> = (0..=which.len()).map(|list| (list * candidates) as u32).collect();
        feed.set("of_list", Tensor::u32(&[borders.len()], &borders));
        feed.set("list_share", Tensor::f32(&[which.len()], vec![1.0 / which.len() as f32; which.len()]));
    }

    /// What `Impressions` reads of candidates, which have no bags.
    fn feed_candidates(&self, feed: &mut Feed, keys: &[u32]) {
        let (fields, count) = (self.lists.fields.len(), keys.len() / 2);
        let of_impression: Vec<u32> = (0..=count).map(|n| (n * fields) as u32).collect();
        feed.set("candidate_of_impression", Tensor::u32(&[count + 1], &of_impression));
        feed.set("candidate_impression_keys", Tensor::u32(&[count, 2], keys));
        let of_fields = keys.chunks_exact(2).flat_map(|key| {
            let place = key[0] * self.candidates as u32 + key[1];
            (0..fields as u32).flat_map(move |field| [!place, field])
        });
        feed.set("candidate_field_keys", Tensor::u32(&[count * fields, 2], &of_fields.collect::<Vec<u32>>()));
    }
}
