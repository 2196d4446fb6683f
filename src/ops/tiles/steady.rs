//! Scores that are the same in every batch: what ranks and lists are made of.

use super::{NONE, Scorer, TILE_ITEMS, TILE_STRIDE};
use std::ops::Range;

/// Scores whose bits depend on the query and the item alone, not on the batch or the place in it, so that ranks and
/// lists do not either: products always span whole tiles of items and 32 rows or more, the rest being zeros.
#[derive(Clone, Copy)]
pub struct SteadyScorer<'a> {
    scorer: Scorer<'a>,
    /// The last, incomplete chunk of items, padded.
    tail: Scorer<'a>,
}

impl<'a> SteadyScorer<'a> {
    /// Words of scratch for `new`.
    pub fn scratch(width: usize) -> usize {
        TILE_ITEMS * (width + 1)
    }

    pub fn new(scorer: Scorer<'a>, items: usize, scratch: &'a mut [f32]) -> Self {
        let last = items / TILE_ITEMS * TILE_ITEMS..items;
        let tail = scorer.gather_items(last.map(|item| item as u32), scratch);
        SteadyScorer { scorer, tail }
    }

    /// Queries `rows` with zeros behind them, as `tile` and `pairs` want them; `space` holds a block of rows.
    pub fn queries<'s>(&self, rows: Range<usize>, space: &'s mut [f32]) -> &'s [f32] {
        let words = rows.len() * self.scorer.width;
        let space = &mut space[..rows.len().next_multiple_of(32) * self.scorer.width];
        space[..words].copy_from_slice(&self.scorer.hidden[rows.start * self.scorer.width..][..words]);
        space[words..].fill(0.0);
        space
    }

    /// Scores of queries for one of the `chunks` of all items.
    pub fn tile(&self, queries: &[f32], chunk: &Range<usize>, tile: &mut [f32]) {
        match chunk.len() {
            TILE_ITEMS => self.scorer.tile(queries, chunk.clone(), tile),
            _ => self.tail.tile(queries, 0..TILE_ITEMS, tile),
        }
    }

    /// The score of each query for the item of its own, `NONE` giving anything: the diagonal of a whole tile.
    pub fn pairs(&self, queries: &[f32], items: &[u32], tile: &mut [f32], space: &mut [f32]) {
        self.scorer.gather_items(items.iter().copied(), space).tile(queries, 0..TILE_ITEMS, tile);
        for i in 0..items.len() {
            tile[i] = tile[i * TILE_STRIDE + i];
        }
    }
}

impl<'a> Scorer<'a> {
    /// A catalogue of one whole tile: the given items, then zeros.
    fn gather_items<'s>(&self, items: impl Iterator<Item = u32>, space: &'s mut [f32]) -> Scorer<'s>
    where
        'a: 's,
    {
        let (weight, bias) = space[..TILE_ITEMS * (self.width + 1)].split_at_mut(TILE_ITEMS * self.width);
        weight.fill(0.0);
        bias.fill(0.0);
        for (i, item) in items.enumerate().filter(|(_, item)| *item != NONE) {
            let item = item as usize;
            weight[i * self.width..][..self.width].copy_from_slice(&self.weight[item * self.width..][..self.width]);
            bias[i] = self.bias.map_or(0.0, |bias| bias[item]);
        }
        Scorer { hidden: self.hidden, weight, bias: self.bias.map(|_| &*bias), width: self.width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tiles::{TILE, TILE_ROWS, chunks};

    #[test]
    fn scores_do_not_depend_on_the_batch() {
        for width in [1, 2, 63, 64, 300] {
            let (rows, items) = (120, 300);
            let data = |len: usize| (0..len).map(|i| ((i * 7919) % 10_007) as f32 / 5000.0 - 1.0).collect::<Vec<f32>>();
            let (hidden, weight) = (data(rows * width), data(items * width));
            let scorer = Scorer { hidden: &hidden, weight: &weight, bias: None, width };
            let mut tail = vec![0.0; SteadyScorer::scratch(width)];
            let steady = SteadyScorer::new(scorer, items, &mut tail);
            let (mut space, mut all, mut one) = (vec![0.0; TILE_ROWS * width], vec![0.0; TILE], vec![0.0; TILE]);
            for chunk in chunks(0..items) {
                steady.tile(steady.queries(0..rows, &mut space), &chunk, &mut all);
                for row in [0, 1, 100, 119] {
                    steady.tile(steady.queries(row..row + 1, &mut space), &chunk, &mut one);
                    let alone = &one[..chunk.len()];
                    assert_eq!(alone, &all[row * TILE_STRIDE..][..chunk.len()], "width {width}, row {row}, {chunk:?}");
                    let (item, mut pair, mut table) =
                        (chunk.end - 1, vec![0.0; TILE], vec![0.0; SteadyScorer::scratch(width)]);
                    let query = steady.queries(row..row + 1, &mut space);
                    steady.pairs(query, &[item as u32], &mut pair, &mut table);
                    assert_eq!(pair[0], alone[chunk.len() - 1], "width {width}, the pair ({row}, {item})");
                }
            }
        }
    }
}
