//! Leave-one-out: of a sequence `s` of n items, `s[n-1]` is the test target, `s[n-2]` the validation target, the rest
//! trains. Everything is a slice of the data; nothing is copied.
//!
//! ```text
//! train        s[.. n-2]                    (input s[.. n-3], target s[1 .. n-2], position by position)
//! validation   history s[.. n-2] -> s[n-2]
//! test         history s[.. n-1] -> s[n-1]
//! ```

use super::interactions::Interactions;

/// The leave-one-out split of a data set. The reader grants three items a user; on shorter sequences, which only
/// `Interactions::from_sequences` can make, the training slices are empty and the targets panic.
#[derive(Clone, Copy, Debug)]
pub struct LeaveOneOut<'a> {
    pub data: &'a Interactions,
}

impl<'a> LeaveOneOut<'a> {
    pub fn new(data: &'a Interactions) -> Self {
        LeaveOneOut { data }
    }

    /// All but the last `held_out` items of user `u`.
    fn without_last(&self, u: usize, held_out: usize) -> &'a [u32] {
        let sequence = self.data.sequence(u);
        &sequence[..sequence.len().saturating_sub(held_out)]
    }

    pub fn train(&self, u: usize) -> &'a [u32] {
        self.without_last(u, 2)
    }

    /// The items to predict from; `train_target` holds the item that follows each.
    pub fn train_input(&self, u: usize) -> &'a [u32] {
        self.without_last(u, 3)
    }

    pub fn train_target(&self, u: usize) -> &'a [u32] {
        self.train(u).get(1..).unwrap_or(&[])
    }

    /// History and target of validation.
    pub fn valid(&self, u: usize) -> (&'a [u32], u32) {
        let history = self.without_last(u, 2);
        (history, self.data.sequence(u)[history.len()])
    }

    /// History and target of the test; the history includes the validation target.
    pub fn test(&self, u: usize) -> (&'a [u32], u32) {
        let history = self.without_last(u, 1);
        (history, self.data.sequence(u)[history.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_of_six_is_split_three_ways() {
        let data = Interactions::from_sequences("toy", &[[1, 2, 3, 4, 5, 6]]);
        let split = LeaveOneOut::new(&data);
        assert_eq!(split.train(0), [0, 1, 2, 3]);
        assert_eq!((split.train_input(0), split.train_target(0)), (&[0, 1, 2][..], &[1, 2, 3][..]));
        assert_eq!(split.valid(0), (&[0, 1, 2, 3][..], 4));
        assert_eq!(split.test(0), (&[0, 1, 2, 3, 4][..], 5));
    }

    #[test]
    fn a_sequence_of_three_has_no_training_pair() {
        let data = Interactions::from_sequences("toy", &[[7, 8, 9]]);
        let split = LeaveOneOut::new(&data);
        assert!(split.train_input(0).is_empty() && split.train_target(0).is_empty());
        assert_eq!(split.valid(0), (&[0][..], 1));
        assert_eq!(split.test(0), (&[0, 1][..], 2));
    }

    #[test]
    fn slices_borrow_the_data_and_copy_nothing() {
        let data = Interactions::from_sequences("toy", &[[1, 2, 3, 4]]);
        assert!(std::ptr::eq(LeaveOneOut::new(&data).test(0).0.as_ptr(), data.sequence(0).as_ptr()));
    }
}
