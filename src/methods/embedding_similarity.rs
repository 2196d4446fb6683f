//! The most similar item of every item by the dot product of their embeddings: CoSeRec's online similarity.
//!
//! All V x V scores are computed tile by tile and looked at once. Tiles have fixed sizes, so the result does not depend on
//! the number of threads.

use crate::data::Similarity;
use crate::data::similarity::Summary;
use crate::engine::exec::simd;
use crate::ops::matmul::{Matrix, gemm};
use crate::ops::tiles::LOWEST;
use rayon::prelude::*;
use std::ops::Range;

/// Rows and columns of a tile of scores: 256 KiB, within the cache of a core.
const ROWS: usize = 128;
const COLUMNS: usize = 512;

/// From the item table `[rows, width]`, whose first `n_items` rows are the items. The range of similarities is that of all
/// pairs of rows: of items with themselves too, and with rows that stand for no item. Equal scores: the lower index.
pub fn by_embeddings(table: &[f32], width: usize, n_items: usize) -> Similarity {
    let rows = table.len() / width;
    let blocks: Vec<Range<usize>> = (0..rows).step_by(ROWS).map(|first| first..rows.min(first + ROWS)).collect();
    let scan = |tile: &mut Vec<f32>, block: Range<usize>| scan(table, width, n_items, block, tile);
    let blocks: Vec<Block> = blocks.into_par_iter().map_init(|| vec![0.0; ROWS * COLUMNS], scan).collect();
    let min = blocks.iter().fold(f32::INFINITY, |min, block| min.min(block.min));
    let max = blocks.iter().fold(f32::NEG_INFINITY, |max, block| max.max(block.max));
    let neighbours = blocks.iter().flat_map(|block| &block.best).take(n_items);
    let neighbours: Vec<Option<(u32, f64)>> =
        neighbours.map(|best| best.map(|(item, score)| (item, f64::from(score)))).collect();
    Similarity::from_neighbours(&neighbours, Summary { pairs: rows * rows, max: max.into(), min: min.into() })
}

/// What the rows of a block have come to.
struct Block {
    /// The most similar other item of each row, if there is one.
    best: Vec<Option<(u32, f32)>>,
    min: f32,
    max: f32,
}

fn scan(table: &[f32], width: usize, n_items: usize, rows: Range<usize>, tile: &mut [f32]) -> Block {
    let mut found = Block { best: vec![None; rows.len()], min: f32::INFINITY, max: f32::NEG_INFINITY };
    let queries = Matrix::new(&table[rows.start * width..rows.end * width], width);
    for first in (0..table.len() / width).step_by(COLUMNS) {
        let keys = &table[first * width..table.len().min((first + COLUMNS) * width)];
        let columns = keys.len() / width;
        gemm((rows.len(), columns, width), queries, Matrix::transposed(keys, width), tile, COLUMNS, false);
        for ((row, best), scores) in rows.clone().zip(&mut found.best).zip(tile.chunks_exact_mut(COLUMNS)) {
            let scores = &mut scores[..columns];
            found.min = found.min.min(simd::min(scores));
            found.max = found.max.max(simd::max(scores));
            if let Some(own) = row.checked_sub(first).and_then(|place| scores.get_mut(place)) {
                *own = LOWEST;
            }
            let items = &scores[..columns.min(n_items.saturating_sub(first))];
            let top = simd::max(items);
            if top > best.map_or(LOWEST, |(_, score)| score) {
                *best = items.iter().position(|score| *score == top).map(|place| ((first + place) as u32, top));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::{RngState, Site};

    #[test]
    fn four_items_worked_out_by_hand() {
        // Items 0 to 3, and a fifth row that is no item.
        let table = [[1.0, 0.0], [3.0, 1.0], [0.0, -2.0], [-1.0, -1.0], [9.0, 9.0]].concat();
        let similarity = by_embeddings(&table, 2, 4);
        assert_eq!(similarity.top1(0), Some((1, 3.0)));
        assert_eq!(similarity.top1(1), Some((0, 3.0)), "itself (10) and what is no item (36) are no neighbours");
        assert_eq!(similarity.top1(2), Some((3, 2.0)));
        assert_eq!(similarity.top1(3), Some((2, 2.0)));
        assert_eq!(similarity.summary(), Summary { pairs: 25, max: 162.0, min: -18.0 }, "over all pairs of rows");
    }

    #[test]
    fn the_only_item_has_no_neighbour_and_equal_scores_go_to_the_lower_index() {
        assert_eq!(by_embeddings(&[2.0, 7.0], 1, 1).top1(0), None);
        let equal = by_embeddings(&[0.0; 5 * 3], 3, 5);
        assert_eq!((equal.top1(0), equal.top1(1), equal.top1(4)), (Some((1, 0.0)), Some((0, 0.0)), Some((0, 0.0))));
    }

    #[test]
    fn tiles_and_threads_change_nothing() {
        let (items, width) = (COLUMNS + 2 * ROWS + 3, 5);
        let mut stream = RngState { seed: 3, step: 0 }.stream(Site(1), 0);
        // Small whole numbers: sums are exact in any order.
        let table: Vec<f32> = (0..(items + 1) * width).map(|_| stream.below(9) as f32 - 4.0).collect();
        let found = by_embeddings(&table, width, items);
        let row = |i: usize| &table[i * width..][..width];
        let dot = |i: usize, j: usize| row(i).iter().zip(row(j)).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for i in 0..items {
            let others = (0..items).filter(|&j| j != i);
            let best =
                others.fold((0, f64::MIN), |best, j| if dot(i, j) > best.1 { (j as u32, dot(i, j)) } else { best });
            assert_eq!(found.top1(i as u32), Some(best), "item {i}");
        }
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(one.install(|| by_embeddings(&table, width, items)), found);
    }
}
