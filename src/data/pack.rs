//! A batch of B sequences laid end to end in N rows: no row is spent on padding between them.
//!
//! `cu_seqlens` [B+1] are prefix sums of the lengths, so sequence b owns the rows `cu_seqlens[b] .. cu_seqlens[b+1]`.
//! Position ids are those of a window of `max_len` columns filled from the right: item i of n has position
//! `max_len - n + i`, the last one always `max_len - 1`. Rows behind the last sequence are inert: they only round N up
//! to a bucket, so that a few plans serve all batches.

/// Packed rows, ready for upload. Push sequences first, then pad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Prefix sums of the sequence lengths, [B+1].
    pub cu_seqlens: Vec<u32>,
    /// Item index of each row, `[N]`.
    pub items: Vec<u32>,
    /// Column in the window of `max_len`, `[N]`.
    pub positions: Vec<u32>,
    /// Logical sequence id, which random numbers are counted by, `[N]`. `INERT` on padding rows.
    pub sequence: Vec<u32>,
}

/// The sequence id of rows that belong to no sequence, and the last row of an empty sequence.
pub const INERT: u32 = crate::engine::tensor::NONE;

impl Default for Packed {
    fn default() -> Self {
        Packed { cu_seqlens: vec![0], items: Vec::new(), positions: Vec::new(), sequence: Vec::new() }
    }
}

impl Packed {
    /// A batch without sequences.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one sequence, of which the last `max_len` items are kept.
    pub fn push(&mut self, sequence_id: u32, items: &[u32], max_len: usize) {
        let kept = &items[items.len().saturating_sub(max_len)..];
        self.push_from(sequence_id, kept, max_len - kept.len());
    }

    /// Appends one sequence whose first item has this position.
    pub fn push_from(&mut self, sequence_id: u32, items: &[u32], first: usize) {
        assert_eq!(self.n_rows(), self.n_real_rows(), "sequences are pushed before the batch is padded");
        self.items.extend_from_slice(items);
        self.positions.extend((first..first + items.len()).map(|position| position as u32));
        self.sequence.resize(self.items.len(), sequence_id);
        self.cu_seqlens.push(self.items.len() as u32);
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.cu_seqlens.truncate(1);
        self.items.clear();
        self.positions.clear();
        self.sequence.clear();
    }

    /// N, inert rows included.
    pub fn n_rows(&self) -> usize {
        self.items.len()
    }

    /// Rows that belong to a sequence.
    pub fn n_real_rows(&self) -> usize {
        self.cu_seqlens[self.n_sequences()] as usize
    }

    /// B, empty sequences included.
    pub fn n_sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Adds inert rows up to `rows`: item `pad_item`, position 0, no sequence. Never removes any.
    pub fn pad_to(&mut self, rows: usize, pad_item: u32) {
        let rows = rows.max(self.n_rows());
        self.items.resize(rows, pad_item);
        self.positions.resize(rows, 0);
        self.sequence.resize(rows, INERT);
    }

    /// The row of each sequence's last item, `[B]`; `INERT` for an empty sequence.
    pub fn last_rows(&self) -> Vec<u32> {
        self.cu_seqlens.windows(2).map(|ends| if ends[0] < ends[1] { ends[1] - 1 } else { INERT }).collect()
    }
}

/// The number of rows to pad a batch of `n` to: a multiple of 64 up to 1024, from there of an eighth of the power of
/// two below. Above 640 rows at most 11 % of them are inert, and there are only 8 buckets in each doubling.
pub fn row_bucket(n: usize) -> usize {
    let power_of_two_below = 1 << n.max(1).ilog2();
    let step = (power_of_two_below / 8).max(64);
    n.max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_item_of_every_window_has_the_last_position() {
        let mut batch = Packed::new();
        batch.push(7, &[1, 2], 4);
        batch.push(3, &[], 4);
        batch.push(9, &[1, 2, 3, 4, 5, 6], 4);
        assert_eq!(batch.cu_seqlens, [0, 2, 2, 6]);
        assert_eq!(batch.items, [1, 2, 3, 4, 5, 6]);
        assert_eq!(batch.positions, [2, 3, 0, 1, 2, 3]);
        assert_eq!(batch.sequence, [7, 7, 9, 9, 9, 9]);
        assert_eq!(batch.last_rows(), [1, INERT, 5]);
    }

    #[test]
    fn padding_adds_rows_and_no_sequence() {
        let mut batch = Packed::new();
        batch.push(0, &[4, 4, 4], 50);
        batch.pad_to(5, 99);
        assert_eq!((batch.n_rows(), batch.n_real_rows(), batch.n_sequences()), (5, 3, 1));
        assert_eq!((batch.items[4], batch.positions[4], batch.sequence[4]), (99, 0, INERT));
        assert_eq!(batch.last_rows(), [2]);
        batch.pad_to(2, 99);
        assert_eq!(batch.n_rows(), 5);
    }

    #[test]
    fn a_cleared_batch_is_as_new() {
        let mut batch = Packed::new();
        batch.push(0, &[1, 2, 3], 2);
        batch.pad_to(8, 0);
        batch.clear();
        assert_eq!(batch, Packed::new());
        assert!(batch.last_rows().is_empty());
    }

    #[test]
    fn buckets_are_few_and_waste_little() {
        assert_eq!([0, 1, 64, 65, 1024, 1025, 1900, 4097].map(row_bucket), [64, 64, 64, 128, 1024, 1152, 1920, 4608]);
        for n in 1..20_000 {
            let rows = row_bucket(n);
            let share_inert = (rows - n) as f64 / rows as f64;
            assert!(rows >= n && row_bucket(rows) == rows);
            assert!(rows - n < 64 || share_inert < 0.112, "{n} rows in a bucket of {rows}");
        }
    }
}
