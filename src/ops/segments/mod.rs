//! Gradients of gathered rows without atomics: the host groups the places of equal ids (a stable sort), so that every row
//! of the table has one owner who sums `dtable_v = sum_{n: ids_n = v} weight_n x_n` in a fixed order.
//!
//! A popular item would keep its owner busy long after all others. Its places are therefore cut into *segments* of up to
//! `LONGEST`; on a GPU all but the last of an item are summed first, all at the same time, and then added in order.

use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, GpuLimits, Region};
use crate::engine::tensor::{NONE, Tensor};
use crate::shader;
use std::ops::Range;

/// Most places of a segment.
const LONGEST: usize = 64;

/// Words of the segments of `n` ids.
pub fn segments_len(n: usize) -> usize {
    3 * n + 2
}

/// Groups the places `0..N` of `ids` by id, without `padding_idx` and `NONE`:
/// `[count S, places in order of (id, place) (N), starts (N + 1; S + 1 in use), ids (N; S in use, ascending)]`.
/// Of several segments with one id all but the last have `LONGEST` places.
pub fn segments(ids: &[u32], padding_idx: Option<u32>) -> Tensor {
    let n = ids.len();
    let mut words = vec![0; segments_len(n)];
    let (count, lists) = words.split_at_mut(1);
    let (places, lists) = lists.split_at_mut(n);
    let (starts, segment_ids) = lists.split_at_mut(n + 1);
    let mut order: Vec<u64> = (ids.iter().zip(0u64..))
        .filter(|&(&id, _)| id != NONE && Some(id) != padding_idx)
        .map(|(&id, place)| u64::from(id) << 32 | place)
        .collect();
    order.sort_unstable();
    let mut segment = 0;
    for of_one_id in order.chunk_by(|a, b| a >> 32 == b >> 32) {
        for keys in of_one_id.chunks(LONGEST) {
            let start = starts[segment] as usize;
            places[start..start + keys.len()].iter_mut().zip(keys).for_each(|(place, key)| *place = *key as u32);
            segment_ids[segment] = (keys[0] >> 32) as u32;
            segment += 1;
            starts[segment] = (start + keys.len()) as u32;
        }
    }
    count[0] = segment as u32;
    Tensor::u32(&[segments_len(n)], &words)
}

/// Segments as they are read back.
#[derive(Clone, Copy)]
pub struct Segments<'a> {
    places: &'a [u32],
    starts: &'a [u32],
    ids: &'a [u32],
}

impl<'a> Segments<'a> {
    /// Reads what `segments` has made.
    pub fn new(words: &'a [u32]) -> Self {
        let (n, count) = ((words.len() - 2) / 3, words[0] as usize);
        Segments { places: &words[1..=n], starts: &words[n + 1..][..count + 1], ids: &words[2 * n + 2..][..count] }
    }

    /// The segments of the table rows `rows`: each id with its places.
    pub fn of_rows(self, rows: Range<usize>) -> impl Iterator<Item = (usize, &'a [u32])> {
        let first = self.ids.partition_point(|&id| (id as usize) < rows.start);
        let last = self.ids.partition_point(|&id| (id as usize) < rows.end);
        let places = move |s: usize| &self.places[self.starts[s] as usize..self.starts[s + 1] as usize];
        (first..last).map(move |s| (self.ids[s] as usize, places(s)))
    }
}

/// Row ranges of a table of `rows` rows whose words fit one binding and whose borders are 256-byte aligned.
pub fn table_chunks(rows: usize, width: usize, limits: GpuLimits) -> impl Iterator<Item = Range<usize>> {
    let fitting = limits.binding_words / width.max(1);
    let chunk = if fitting >= rows { rows } else { (fitting / 64 * 64).max(64) };
    (0..rows).step_by(chunk.max(1)).map(move |first| first..(first + chunk).min(rows))
}

/// The sums of a table's gradient on a GPU.
pub struct SegmentSum {
    /// What `segments` has made.
    pub segments: Region,
    /// One row per `places_per_row` places.
    pub x: Region,
    /// Ids per row of the cotangent.
    pub places_per_row: usize,
    /// One factor per place, or 1.
    pub weights: Option<Region>,
    /// All ids.
    pub places: usize,
    /// Columns of the table.
    pub width: usize,
    /// Add to what the table holds, else to zeros.
    pub accumulate: bool,
}

impl SegmentSum {
    /// Adds the sums to `table`, an output of the op.
    pub fn dispatch(&self, b: &mut GpuBuilder, table: Region) {
        let (width, slots) = (self.width, self.places.div_ceil(LONGEST));
        // Nothing is cut where all places make one segment. A binding must be something all the same.
        let cut = self.places > LONGEST;
        let parts = if cut { b.scratch(slots * width) } else { self.x };
        let consts = [("LONGEST", LONGEST as u32), ("WEIGHTED", u32::from(self.weights.is_some()))];
        for chunk in table_chunks(table.len / width.max(1), width, b.limits) {
            let table = table.slice(chunk.start * width, chunk.len() * width);
            if !self.accumulate {
                let params = [table.len.into(), 0.0.into()];
                b.dispatch(shader!("fill"), &[], &[(table, Write)], &params, table.len.div_ceil(64));
            }
            let sizes = [self.places, self.places_per_row, width, chunk.start, chunk.len()].map(Into::into);
            let read = [self.segments, self.x, self.weights.unwrap_or(self.x)].map(|region| (region, Read));
            let [segments, x, weights] = read;
            if cut {
                let bindings = [segments, x, weights, (parts, Update)];
                b.dispatch(shader!("segment_parts"), &consts, &bindings, &sizes, (slots * width).div_ceil(64));
            }
            let bindings = [segments, x, weights, (parts, Read), (table, Update)];
            b.dispatch(shader!("segment_sum"), &consts, &bindings, &sizes, (self.places * width).div_ceil(64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exec::gpu::kernel::AdapterClass;

    #[test]
    fn segments_list_each_id_once_with_its_places_in_order() {
        let tensor = segments(&[5, 1, u32::MAX, 5, 0, 1, 5], Some(0));
        let segments = Segments::new(tensor.as_u32());
        let all: Vec<(usize, Vec<u32>)> = segments.of_rows(0..9).map(|(id, places)| (id, places.to_vec())).collect();
        assert_eq!(all, [(1, vec![1, 5]), (5, vec![0, 3, 6])]);
        assert_eq!(segments.of_rows(2..5).count(), 0);
    }

    #[test]
    fn a_popular_id_has_several_segments_of_which_the_last_may_be_short() {
        let ids: Vec<u32> = (0..225).map(|i| if i < 129 { 7 } else { [0, 2, 4][i % 3] }).collect();
        let tensor = segments(&ids, None);
        let all = Segments::new(tensor.as_u32()).of_rows(0..9).map(|(id, places)| (id, places.len()));
        assert_eq!(all.collect::<Vec<_>>(), [(0, 32), (2, 32), (4, 32), (7, 64), (7, 64), (7, 1)]);
    }

    #[test]
    fn chunks_cover_the_table_at_aligned_borders() {
        for (rows, width, binding_words) in [(1000, 3, 900), (1000, 64, 64 * 70), (5, 3, 1 << 20), (64, 1, 64)] {
            let limits = GpuLimits {
                binding_words,
                scratch_words: 0,
                adapter: AdapterClass::Hardware,
                subgroup: None,
                matrix_subgroup: None,
            };
            let chunks: Vec<Range<usize>> = table_chunks(rows, width, limits).collect();
            assert_eq!(chunks.iter().map(|c| c.len()).sum::<usize>(), rows);
            assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(chunks.iter().all(|c| (c.start * width).is_multiple_of(64) && c.len() * width <= binding_words));
        }
    }
}
