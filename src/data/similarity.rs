//! The most similar item of every item, by ItemCF-IUF (CoSeRec; LMA4Rec, section 3).
//!
//! ```text
//! C_ij  = sum over users that have both i and j of 1 / ln(1 + |items of the user|)
//! sim   = C_ij / sqrt(N_i N_j),   N_i = users that have i,   i != j
//! ```
//!
//! over the set of items that each user's training part predicts from: `train_input`, the part without its last event,
//! under any split. Equal similarities: the pair that was met first, users in file order and a user's items in time order,
//! wins. One item's row C_i is accumulated at a time in a dense vector of V numbers, so that nothing of the size of all
//! pairs is stored, and rows are independent: the result does not depend on the number of threads.

use rayon::prelude::*;

use super::interactions::Interactions;
use crate::engine::rng::Stream;

const NONE: u32 = u32::MAX;

/// The top-1 neighbour of each item.
#[derive(Clone, Debug, PartialEq)]
pub struct Similarity {
    /// [V]; `NONE` for an item that shares no user with any other.
    neighbour: Vec<u32>,
    /// The similarity to that neighbour, [V].
    value: Vec<f64>,
    /// Items that have a neighbour, ascending.
    known: Vec<u32>,
    summary: Summary,
}

/// What can be said of all directed pairs (i, j) of items that share a user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many there are.
    pub pairs: usize,
    /// The largest similarity.
    pub max: f64,
    /// The least.
    pub min: f64,
}

impl Similarity {
    /// From the training inputs of the data's split.
    pub fn item_cf(data: &Interactions) -> Self {
        let sets = training_sets(data);
        let users_of = users_of_items(&sets, data.n_items());
        let row = |scratch: &mut Scratch, item: usize| scratch.row(item, &sets, &users_of);
        let rows: Vec<Row> =
            (0..data.n_items()).into_par_iter().map_init(|| Scratch::new(data.n_items()), row).collect();
        let mut summary = Summary { pairs: 0, max: 0.0, min: f64::INFINITY };
        for row in &rows {
            summary.pairs += row.pairs;
            summary.max = summary.max.max(row.value);
            summary.min = summary.min.min(row.min);
        }
        Self::from_rows(rows.into_iter().map(|row| (row.neighbour, row.value)), summary)
    }

    /// From neighbours computed elsewhere, such as dot products of item embeddings: `(neighbour, value)` for each item.
    pub fn from_neighbours(neighbours: &[Option<(u32, f64)>], summary: Summary) -> Self {
        Self::from_rows(neighbours.iter().map(|n| n.unwrap_or((NONE, 0.0))), summary)
    }

    /// No item is similar to any other.
    pub fn none(n_items: usize) -> Self {
        let summary = Summary { pairs: 0, max: f64::NEG_INFINITY, min: f64::INFINITY };
        Self::from_rows(std::iter::repeat_n((NONE, 0.0), n_items), summary)
    }

    fn from_rows(rows: impl Iterator<Item = (u32, f64)>, summary: Summary) -> Self {
        let (neighbour, value): (Vec<u32>, Vec<f64>) = rows.unzip();
        let known = (0..neighbour.len() as u32).filter(|&item| neighbour[item as usize] != NONE).collect();
        Similarity { neighbour, value, known, summary }
    }

    /// The most similar item and its similarity, if the item has one.
    pub fn top1(&self, item: u32) -> Option<(u32, f64)> {
        let neighbour = *self.neighbour.get(item as usize)?;
        (neighbour != NONE).then(|| (neighbour, self.value[item as usize]))
    }

    /// Item by item the neighbour that is closer by its own measure, on a scale where the least similar pair of the
    /// measure is 0 and the most similar is 1. Equally close: that of `self`.
    pub fn or_closer(&self, other: &Similarity) -> Similarity {
        let closer = |item: u32| match (self.top1_of_scale(item), other.top1_of_scale(item)) {
            (Some(own), Some(other)) if other.1 > own.1 => Some(other),
            (own, other) => own.or(other),
        };
        let neighbours: Vec<Option<(u32, f64)>> = (0..self.neighbour.len() as u32).map(closer).collect();
        Self::from_neighbours(&neighbours, Summary { pairs: self.summary.pairs, max: 1.0, min: 0.0 })
    }

    /// `top1`, its value brought to 0 .. 1. Pairs that are all the same are not similar.
    fn top1_of_scale(&self, item: u32) -> Option<(u32, f64)> {
        let Summary { max, min, .. } = self.summary;
        let scaled = |value: f64| if max > min { (value - min) / (max - min) } else { 0.0 };
        self.top1(item).map(|(neighbour, value)| (neighbour, scaled(value)))
    }

    /// The most similar item; for an item without one, a random item that has one; the item itself if none has.
    pub fn similar(&self, item: u32, stream: &mut Stream) -> u32 {
        match self.top1(item) {
            Some((neighbour, _)) => neighbour,
            None if self.known.is_empty() => item,
            None => self.known[stream.below(self.known.len() as u32) as usize],
        }
    }

    /// Items that have a neighbour, ascending.
    pub fn known(&self) -> &[u32] {
        &self.known
    }

    /// Over all pairs.
    pub fn summary(&self) -> Summary {
        self.summary
    }
}

/// Each user's training input with repeats removed, in time order.
fn training_sets(data: &Interactions) -> Vec<Vec<u32>> {
    let mut last_user = vec![NONE; data.n_items()];
    let mut set = |u: usize| {
        let first_time = |&&item: &&u32| std::mem::replace(&mut last_user[item as usize], u as u32) != u as u32;
        data.train_input(u).iter().filter(first_time).copied().collect()
    };
    (0..data.n_users()).map(&mut set).collect()
}

/// The users of each item, in file order.
fn users_of_items(sets: &[Vec<u32>], n_items: usize) -> Vec<Vec<u32>> {
    let mut users_of = vec![Vec::new(); n_items];
    for (user, set) in sets.iter().enumerate() {
        for &item in set {
            users_of[item as usize].push(user as u32);
        }
    }
    users_of
}

/// What one item's row of similarities comes to.
struct Row {
    neighbour: u32,
    value: f64,
    min: f64,
    pairs: usize,
}

/// One row C_i, dense, and the items it has met, in the order of meeting. A thread keeps it from row to row.
struct Scratch {
    c: Vec<f64>,
    met: Vec<u32>,
}

impl Scratch {
    fn new(n_items: usize) -> Self {
        Scratch { c: vec![0.0; n_items], met: Vec::new() }
    }

    fn row(&mut self, item: usize, sets: &[Vec<u32>], users_of: &[Vec<u32>]) -> Row {
        for &user in &users_of[item] {
            let set = &sets[user as usize];
            let weight = 1.0 / (1.0 + set.len() as f64).ln();
            for &other in set.iter().filter(|&&other| other as usize != item) {
                let c = &mut self.c[other as usize];
                if *c == 0.0 {
                    self.met.push(other);
                }
                *c += weight;
            }
        }
        let mut row = Row { neighbour: NONE, value: 0.0, min: f64::INFINITY, pairs: self.met.len() };
        for other in self.met.drain(..) {
            let product = users_of[item].len() * users_of[other as usize].len();
            let value = std::mem::take(&mut self.c[other as usize]) / (product as f64).sqrt();
            row.min = row.min.min(value);
            if value > row.value {
                (row.neighbour, row.value) = (other, value);
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::public_dataset;
    use crate::engine::rng::{RngState, Site};

    /// Sequences whose training inputs are the given ones: three further items are held out.
    fn similarity_of(inputs: &[&[u32]]) -> Similarity {
        let whole: Vec<Vec<u32>> = inputs.iter().map(|input| [input, &[1, 2, 3][..]].concat()).collect();
        Similarity::item_cf(&Interactions::from_sequences("toy", &whole))
    }

    #[test]
    fn two_users_worked_out_by_hand() {
        // Items 1, 2, 3 are indices 0, 1, 2. User A has {1, 2}, user B has {1, 2, 3}.
        let similarity = similarity_of(&[&[1, 2], &[1, 2, 3]]);
        let (a, b) = (1.0 / 3f64.ln(), 1.0 / 4f64.ln());
        assert_eq!(similarity.top1(0), Some((1, (a + b) / 2.0)));
        assert_eq!(similarity.top1(1), Some((0, (a + b) / 2.0)));
        assert_eq!(similarity.top1(2), Some((0, b / 2f64.sqrt())), "3 is as near to 1 as to 2; 1 was met first");
        assert_eq!(similarity.summary(), Summary { pairs: 6, max: (a + b) / 2.0, min: b / 2f64.sqrt() });
    }

    #[test]
    fn an_item_met_twice_by_a_user_counts_once() {
        assert_eq!(similarity_of(&[&[1, 2, 1, 1]]), similarity_of(&[&[1, 2]]));
    }

    #[test]
    fn an_item_without_a_neighbour_is_answered_with_a_random_known_one() {
        let similarity = similarity_of(&[&[1, 2], &[3]]);
        let mut stream = RngState { seed: 1, step: 0 }.stream(Site(4), 0);
        assert_eq!(similarity.known(), [0, 1]);
        assert_eq!(similarity.top1(2), None);
        let answers: Vec<u32> = (0..100).map(|_| similarity.similar(2, &mut stream)).collect();
        assert!(answers.contains(&0) && answers.contains(&1) && answers.iter().all(|&item| item < 2));
        assert_eq!(similarity_of(&[&[3]]).similar(2, &mut stream), 2, "nothing is known: the item stays");
    }

    #[test]
    fn the_closer_neighbour_wins_on_the_scale_of_its_own_measure() {
        // Offline similarities lie in 0.25 .. 0.75, dot products in -10 .. 30.
        let offline = [Some((1, 0.75)), Some((0, 0.375)), Some((3, 0.5)), None, None];
        let online = [Some((2, 29.0)), Some((3, 1.0)), Some((4, 10.0)), Some((2, -9.0)), None];
        let offline = Similarity::from_neighbours(&offline, Summary { pairs: 8, max: 0.75, min: 0.25 });
        let online = Similarity::from_neighbours(&online, Summary { pairs: 25, max: 30.0, min: -10.0 });
        let hybrid = offline.or_closer(&online);
        assert_eq!(hybrid.top1(0), Some((1, 1.0)), "1 against 0.975");
        assert_eq!(hybrid.top1(1), Some((3, 0.275)), "0.25 against 0.275");
        assert_eq!(hybrid.top1(2).unwrap().0, 3, "0.5 against 0.5: offline");
        assert_eq!(hybrid.top1(3), Some((2, 0.025)), "no user links item 3 with another");
        assert_eq!(hybrid.top1(4), None);
        assert_eq!(hybrid.known(), [0, 1, 2, 3]);
    }

    /// Name, items with a neighbour, directed pairs, max, min, top-1 of items 1 to 4 by id.
    type Golden = (&'static str, usize, usize, &'static str, &'static str, [(&'static str, &'static str); 4]);

    #[rustfmt::skip]
    const GOLDEN: [Golden; 3] = [
        ("amazon_beauty", 11_998, 1_476_882, "0.650502", "0.000902",
         [("2", "0.177656"), ("1", "0.177656"), ("2702", "0.189675"), ("16", "0.132688")]),
        ("amazon_sports_and_outdoors", 18_132, 1_944_302, "0.643636", "0.000592",
         [("53", "0.132688"), ("86", "0.050802"), ("8591", "0.103556"), ("12307", "0.095079")]),
        ("amazon_toys_and_games", 11_766, 1_705_464, "0.721348", "0.001323",
         [("11283", "0.161298"), ("6351", "0.172682"), ("7838", "0.074204"), ("68", "0.098691")]),
    ];

    #[test]
    fn the_amazon_sets_have_the_similarities_measured_on_them() {
        for (name, known, pairs, max, min, top1) in GOLDEN {
            let Some(data) = public_dataset(name) else { continue };
            let similarity = Similarity::item_cf(&data);
            let summary = similarity.summary();
            assert_eq!((similarity.known().len(), summary.pairs), (known, pairs), "{name}");
            assert_eq!((format!("{:.6}", summary.max), format!("{:.6}", summary.min)), (max.into(), min.into()));
            for (id, (neighbour, value)) in ["1", "2", "3", "4"].into_iter().zip(top1) {
                let (found, similar) =
                    similarity.top1(data.items.iter().position(|item| item == id).unwrap() as u32).unwrap();
                assert_eq!((data.items[found as usize].as_str(), format!("{similar:.6}").as_str()), (neighbour, value));
            }
        }
    }
}
