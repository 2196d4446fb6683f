//! N-grams of a sequence, exchanged, replaced and cut out: what the consistency tasks of SSI (Yuan et al., IJCAI 2021) are made
//! of.

use crate::engine::rng::Stream;
use std::ops::Range;

/// Longest n-grams that are exchanged.
const EXCHANGED: usize = 3;

/// How often something unfit is drawn again.
const ATTEMPTS: usize = 8;

/// The sequence with two of its n-grams, of one to three items, having changed places; `None` where that cannot change it.
pub fn exchange(sequence: &[u32], stream: &mut Stream) -> Option<Vec<u32>> {
    let len = sequence.len();
    sequence.iter().find(|item| **item != sequence[0])?;
    loop {
        let n = 1 + stream.below(EXCHANGED.min(len / 2) as u32) as usize;
        // Two places of `len - 2 n + 2`: n-grams that begin there do not overlap when the second moves n - 1 further.
        let places = len as u32 - 2 * n as u32 + 2;
        let (a, b) = (stream.below(places), stream.below(places - 1));
        let b = if b < a { b } else { b + 1 };
        let (first, second) = (a.min(b) as usize, a.max(b) as usize + n - 1);
        let mut exchanged = sequence.to_vec();
        (0..n).for_each(|i| exchanged.swap(first + i, second + i));
        if exchanged != sequence {
            return Some(exchanged);
        }
    }
}

/// An n-gram of at most half of a sequence of so many items, 1 at least.
pub fn cut(len: usize, stream: &mut Stream) -> Range<usize> {
    let n = 1 + stream.below((len / 2).max(1) as u32) as usize;
    let first = stream.below((len - n + 1) as u32) as usize;
    first..first + n
}

/// The sequence with an n-gram of at most half of it taken from somebody else, none of whose items this user (`own`,
/// ascending) ever had. `other` draws a sequence; `None` where eight draws found nothing that fits.
pub fn replace<'a>(
    sequence: &[u32],
    own: &[u32],
    mut other: impl FnMut(&mut Stream) -> &'a [u32],
    stream: &mut Stream,
) -> Option<Vec<u32>> {
    let place = cut(sequence.len(), stream);
    for _ in 0..ATTEMPTS {
        let theirs = other(stream);
        if theirs.len() < place.len() {
            continue;
        }
        let first = stream.below((theirs.len() - place.len() + 1) as u32) as usize;
        let theirs = &theirs[first..first + place.len()];
        if theirs.iter().all(|item| own.binary_search(item).is_err()) {
            return Some([&sequence[..place.start], theirs, &sequence[place.end..]].concat());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rng::{RngState, Site};
    use std::collections::BTreeMap;

    fn stream() -> Stream {
        RngState { seed: 3, step: 0 }.stream(Site(1), 0)
    }

    #[test]
    fn an_exchange_keeps_the_items_and_changes_their_order() {
        let mut stream = stream();
        for len in 2..12u32 {
            let sequence: Vec<u32> = (0..len).collect();
            for _ in 0..50 {
                let mut exchanged = exchange(&sequence, &mut stream).unwrap();
                assert_ne!(exchanged, sequence);
                exchanged.sort_unstable();
                assert_eq!(exchanged, sequence);
            }
        }
        assert_eq!(exchange(&[4, 4, 4, 9], &mut stream).map(|s| s.len()), Some(4));
        assert!([&[][..], &[4], &[4, 4, 4, 4]].iter().all(|same| exchange(same, &mut stream).is_none()));
    }

    #[test]
    fn pairs_of_n_grams_are_exchanged_equally_often() {
        let (mut stream, mut counts) = (stream(), BTreeMap::<Vec<u32>, u32>::new());
        (0..12_000).for_each(|_| *counts.entry(exchange(&[0, 1, 2, 3], &mut stream).unwrap()).or_default() += 1);
        // Six pairs of single items and one of two, each length half of the time.
        assert_eq!(counts.len(), 7);
        assert!((5700..6300).contains(&counts[&vec![2, 3, 0, 1]]), "{counts:?}");
        assert!((880..1120).contains(&counts[&vec![1, 0, 2, 3]]), "{counts:?}");
    }

    #[test]
    fn a_cut_is_at_most_half_and_may_begin_anywhere() {
        let mut stream = stream();
        let cuts: Vec<Range<usize>> = (0..500).map(|_| cut(5, &mut stream)).collect();
        assert!(cuts.iter().all(|cut| (1..=2).contains(&cut.len()) && cut.end <= 5));
        assert!((0..5).all(|first| cuts.contains(&(first..first + 1))) && (0..4).all(|i| cuts.contains(&(i..i + 2))));
        assert_eq!(cut(1, &mut stream), 0..1);
    }

    #[test]
    fn a_replacement_is_somebody_elses_and_new_to_the_user() {
        let mut stream = stream();
        let (sequence, own) = ([5, 1, 7, 3], [1, 3, 5, 7]);
        for _ in 0..100 {
            let replaced = replace(&sequence, &own, |_| &[8, 9, 10], &mut stream).unwrap();
            let new = replaced.iter().filter(|item| !own.contains(item)).count();
            assert!(replaced.len() == 4 && (1..=2).contains(&new), "{replaced:?}");
        }
        assert_eq!(replace(&sequence, &own, |_| &[7, 1, 3], &mut stream), None);
        assert_eq!(replace(&sequence, &own, |_| &[], &mut stream), None);
    }
}
