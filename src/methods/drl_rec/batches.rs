//! Batches of lists, and what is explored of them.

use crate::data::lists::Lists;
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
    /// Candidates of an explored position; 0 explores nothing.
    pub candidates: usize,
    /// Whether what comes next is chosen, and not what was shown.
    pub chooses_next: bool,
    pub lists: Arc<Lists>,
}

/// How many items could come next at all positions of a list: those that it shows from each on, and what is explored at one.
pub fn next_of_list(length: usize, candidates: usize) -> usize {
    length * (length - 1) / 2 + candidates
}

/// The position of a list that is explored, and what could have stood there: impressions of the batch.
struct Drawn {
    position: u32,
    candidates: Vec<u32>,
}

impl Sampler for Explored {
    fn samples(&self) -> Vec<u32> {
        self.lists.training()
    }

    fn batch(&self, which: &[u32], rng: RngState) -> Result<Batch> {
        let mut feed = Feed::default();
        let shape = feed_walk(&mut feed, &self.lists, which, Some(rng));
        let count = feed_rewards(&mut feed, &self.lists, which);
        feed.set("ones", Tensor::f32(&[count], vec![1.0; count]));
        let drawn = self.draw(which, rng);
        if self.candidates > 0 {
            self.feed_explored(&mut feed, which, &drawn);
        }
        if self.chooses_next {
            self.feed_next(&mut feed, which, &drawn);
        }
        Ok(Batch { shape, feed, tokens: count })
    }
}

impl Explored {
    fn length(&self) -> u32 {
        self.lists.length as u32
    }

    /// Candidates are items that the batch shows somewhere.
    fn draw(&self, which: &[u32], rng: RngState) -> Vec<Drawn> {
        let of_list = |(place, list): (u32, &u32)| {
            let mut stream = rng.stream(EXPLORATION, *list);
            let position = place * self.length() + stream.below(self.length());
            let all = which.len() as u32 * self.length();
            Drawn { position, candidates: (0..self.candidates).map(|_| stream.below(all)).collect() }
        };
        (0u32..).zip(which).map(of_list).collect()
    }

    fn feed_explored(&self, feed: &mut Feed, which: &[u32], drawn: &[Drawn]) {
        let candidates = self.candidates;
        let at: Vec<u32> = drawn.iter().flat_map(|drawn| vec![drawn.position; candidates]).collect();
        let of: Vec<u32> = drawn.iter().flat_map(|drawn| drawn.candidates.iter().copied()).collect();
        feed_ids(feed, "explored", &at);
        feed_ids(feed, "candidates", &of);
        let each: Vec<u32> = (0..=at.len() as u32).collect();
        feed.set("each_candidate", Tensor::u32(&[each.len()], &each));
        self.feed_keys(feed, "candidate_", which, candidates);
        let borders: Vec<u32> = (0..=which.len()).map(|list| (list * candidates) as u32).collect();
        feed.set("of_list", Tensor::u32(&[borders.len()], &borders));
        feed.set("list_share", Tensor::f32(&[which.len()], vec![1.0 / which.len() as f32; which.len()]));
    }

    /// Nothing comes to the top of a list next, so that its position has explored candidates at most.
    fn feed_next(&self, feed: &mut Feed, which: &[u32], drawn: &[Drawn]) {
        let (mut at, mut of, mut groups) = (Vec::new(), Vec::new(), vec![0]);
        for (list, drawn) in (0u32..).zip(drawn) {
            let end = (list + 1) * self.length();
            for position in list * self.length()..end {
                if position > list * self.length() {
                    of.extend(position..end);
                }
                if position == drawn.position {
                    of.extend_from_slice(&drawn.candidates);
                }
                at.resize(of.len(), position);
                groups.push(of.len() as u32);
            }
        }
        let each: Vec<u32> = (0..=of.len() as u32).collect();
        feed_ids(feed, "next_at", &at);
        feed_ids(feed, "next_of", &of);
        feed.set("next_each", Tensor::u32(&[each.len()], &each));
        feed.set("next_groups", Tensor::u32(&[groups.len()], &groups));
        self.feed_keys(feed, "next_", which, next_of_list(self.lists.length, self.candidates));
    }

    /// What `Impressions` reads of so many candidates of each list, which have no bags.
    fn feed_keys(&self, feed: &mut Feed, prefix: &str, which: &[u32], of_list: usize) {
        let (fields, count) = (self.lists.fields.len(), which.len() * of_list);
        let keys = || which.iter().flat_map(|list| (0..of_list as u32).map(move |candidate| [*list, candidate]));
        let borders: Vec<u32> = (0..=count).map(|n| (n * fields) as u32).collect();
        let mut set = |name: &str, shape: &[usize], words: &[u32]| {
            feed.set(&format!("{prefix}{name}"), Tensor::u32(shape, words));
        };
        set("of_impression", &[count + 1], &borders);
        set("impression_keys", &[count, 2], &keys().flatten().collect::<Vec<u32>>());
        let of_fields = keys().flat_map(|[list, candidate]| {
            let place = list * of_list as u32 + candidate;
            (0..fields as u32).flat_map(move |field| [!place, field])
        });
        set("field_keys", &[count * fields, 2], &of_fields.collect::<Vec<u32>>());
    }
}
