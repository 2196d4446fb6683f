//! The five augmentation operators of contrastive sequential recommenders (CoSeRec, section 3; LMA4Rec, section 3).
//!
//! For a training input of n items, all choices uniform, f(r) = floor(r n):
//!
//! ```text
//! Crop         f(crop) items in a row, start in 0 .. n - f;  one item if f = 0
//! Mask         f(mask) distinct places become `mask_item`
//! Reorder      f(reorder) items in a row, start in 0 .. n - f, are shuffled
//! Insert       max(f(insert), 1) distinct places: the most similar item goes before the item there
//! Substitute   max(f(substitute), 1) distinct places: the most similar item goes there instead
//! ```
//!
//! A sequence longer than `short_threshold` gets an operator of `long_set`, a shorter one an operator of `short_set`. A start
//! never reaches n - f itself, so the last item is in no crop and in no reordered part.

use serde::{Deserialize, Serialize};

use super::similarity::Similarity;
use crate::engine::rng::Stream;
use crate::error::{Error, Result};
use crate::settings;

/// The five operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Similar items in place of some.
    Substitute,
    /// Similar items before some.
    Insert,
    /// The masked item in place of some.
    Mask,
    /// A part in another order.
    Reorder,
    /// A part alone.
    Crop,
}

impl Operator {
    /// With the letters that name them in `short_set` and `long_set`.
    pub const ALL: [(char, Operator); 5] = [
        ('S', Operator::Substitute),
        ('I', Operator::Insert),
        ('M', Operator::Mask),
        ('R', Operator::Reorder),
        ('C', Operator::Crop),
    ];

    fn letter(self) -> char {
        Self::ALL[self as usize].0
    }

    fn from_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|&(l, _)| l == letter).map(|(_, operator)| operator)
    }
}

/// Operators by their letters, such as "SIM". Never empty; a letter written twice is drawn twice as often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperatorSet(Vec<Operator>);

impl TryFrom<String> for OperatorSet {
    type Error = Error;

    fn try_from(letters: String) -> Result<Self> {
        match letters.chars().map(Operator::from_letter).collect::<Option<Vec<_>>>() {
            Some(operators) if !operators.is_empty() => Ok(OperatorSet(operators)),
            _ => Err(Error::usage(
                format!("`{letters}` is not a set of operators, such as \"SIM\""),
                "letters: S substitute, I insert, M mask, R reorder, C crop",
            )),
        }
    }
}

impl From<OperatorSet> for String {
    fn from(set: OperatorSet) -> String {
        set.0.into_iter().map(Operator::letter).collect()
    }
}

/// What makes two items similar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityKind {
    /// Users in common (ItemCF-IUF), known before training.
    Offline,
    /// After `warm_up` epochs, users in common or the items' embeddings, whichever says it more strongly.
    Hybrid,
}

/// Ratios are shares of the sequence, 0 to 1. The defaults are those CoSeRec publishes for Amazon Sports, but for the
/// similarity, which is hybrid there, and for Reorder, which its code hands the ratio of Mask wherever sequences are told by
/// length (`coserec.toml`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// The share that is kept.
    pub crop_ratio: f64,
    /// The share that is masked.
    pub mask_ratio: f64,
    /// The share that is shuffled.
    pub reorder_ratio: f64,
    /// The share of items that get one before them.
    pub insert_ratio: f64,
    /// The share that is replaced.
    pub substitute_ratio: f64,
    /// Up to this length a sequence is short.
    pub short_threshold: usize,
    /// What short sequences go through: one of these, uniformly.
    pub short_set: OperatorSet,
    /// What others go through.
    pub long_set: OperatorSet,
    /// What makes items similar.
    pub similarity: SimilarityKind,
    /// Epochs before a hybrid similarity looks at the embeddings.
    pub warm_up: usize,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        AugmentConfig {
            crop_ratio: 0.2,
            mask_ratio: 0.7,
            reorder_ratio: 0.2,
            insert_ratio: 0.4,
            substitute_ratio: 0.1,
            short_threshold: 4,
            short_set: OperatorSet(vec![Operator::Substitute, Operator::Insert, Operator::Mask]),
            long_set: OperatorSet(Operator::ALL.map(|(_, operator)| operator).into()),
            similarity: SimilarityKind::Offline,
            warm_up: 160,
        }
    }
}

impl AugmentConfig {
    /// Whether an operator puts similar items in.
    pub fn reads_similarity(&self) -> bool {
        let reads = |operator: &Operator| matches!(operator, Operator::Substitute | Operator::Insert);
        self.short_set.0.iter().chain(&self.long_set.0).any(reads)
    }

    /// Refuses a ratio outside 0 to 1.
    pub fn validate(&self) -> Result<()> {
        settings::shares(&[
            ("crop_ratio", self.crop_ratio),
            ("mask_ratio", self.mask_ratio),
            ("reorder_ratio", self.reorder_ratio),
            ("insert_ratio", self.insert_ratio),
            ("substitute_ratio", self.substitute_ratio),
        ])
    }
}

/// One randomly augmented view of `seq`, not padded and not cut. Views that differ need streams that differ.
pub fn augment(
    cfg: &AugmentConfig,
    similar: &Similarity,
    stream: &mut Stream,
    seq: &[u32],
    mask_item: u32,
) -> Vec<u32> {
    let short = seq.len() <= cfg.short_threshold;
    let OperatorSet(operators) = if short { &cfg.short_set } else { &cfg.long_set };
    let operator = operators[stream.below(operators.len() as u32) as usize];
    match operator {
        Operator::Crop => crop(seq, cfg.crop_ratio, stream),
        Operator::Mask => mask(seq, cfg.mask_ratio, mask_item, stream),
        Operator::Reorder => reorder(seq, cfg.reorder_ratio, stream),
        Operator::Insert => insert(seq, cfg.insert_ratio, similar, stream),
        Operator::Substitute => substitute(seq, cfg.substitute_ratio, similar, stream),
    }
}

/// floor(ratio n), at most n.
fn share(n: usize, ratio: f64) -> usize {
    ((ratio * n as f64) as usize).min(n)
}

/// A start of a part of `length` items out of n: uniform in `0 .. n - length`.
fn part_start(n: usize, length: usize, stream: &mut Stream) -> usize {
    stream.below((n - length).max(1) as u32) as usize
}

/// For each of n places, whether it is one of `count` chosen without replacement (selection sampling).
fn choose(n: usize, count: usize, stream: &mut Stream) -> Vec<bool> {
    let mut wanted = count.min(n) as u32;
    let choose_place = |place: usize| {
        let chosen = stream.below((n - place) as u32) < wanted;
        wanted -= u32::from(chosen);
        chosen
    };
    (0..n).map(choose_place).collect()
}

/// A contiguous part of this share, at least one item.
pub fn crop(seq: &[u32], ratio: f64, stream: &mut Stream) -> Vec<u32> {
    let length = share(seq.len(), ratio);
    let start = part_start(seq.len(), length, stream);
    seq.iter().skip(start).take(length.max(1)).copied().collect()
}

/// `mask_item` in place of this share of the items.
pub fn mask(seq: &[u32], ratio: f64, mask_item: u32, stream: &mut Stream) -> Vec<u32> {
    let chosen = choose(seq.len(), share(seq.len(), ratio), stream);
    seq.iter().zip(chosen).map(|(&item, chosen)| if chosen { mask_item } else { item }).collect()
}

/// A contiguous part of this share in a uniformly random order.
pub fn reorder(seq: &[u32], ratio: f64, stream: &mut Stream) -> Vec<u32> {
    let mut out = seq.to_vec();
    let length = share(seq.len(), ratio);
    let start = part_start(seq.len(), length, stream);
    stream.shuffle(&mut out[start..start + length]);
    out
}

/// An item similar to the one behind it, at this share of places and at least one.
pub fn insert(seq: &[u32], ratio: f64, similar: &Similarity, stream: &mut Stream) -> Vec<u32> {
    let chosen = choose(seq.len(), share(seq.len(), ratio).max(1), stream);
    let mut out = Vec::with_capacity(2 * seq.len());
    for (&item, chosen) in seq.iter().zip(chosen) {
        if chosen {
            out.push(similar.similar(item, stream));
        }
        out.push(item);
    }
    out
}

/// A similar item in place of this share of items, at least one.
pub fn substitute(seq: &[u32], ratio: f64, similar: &Similarity, stream: &mut Stream) -> Vec<u32> {
    let chosen = choose(seq.len(), share(seq.len(), ratio).max(1), stream);
    seq.iter().zip(chosen).map(|(&item, chosen)| if chosen { similar.similar(item, stream) } else { item }).collect()
}

#[cfg(test)]
#[path = "augment_tests.rs"]
mod tests;
