use super::*;
use crate::data::similarity::Summary;
use crate::engine::rng::{RngState, Site};

const MASK: u32 = 1000;

/// The most similar item of item i is 100 + i.
fn plus_hundred() -> Similarity {
    let neighbours: Vec<Option<(u32, f64)>> = (0..60).map(|item| Some((100 + item, 0.5))).collect();
    Similarity::from_neighbours(&neighbours, Summary { pairs: 60, max: 0.5, min: 0.5 })
}

/// Every length up to 40, each with 30 streams of its own. Items are 0..n, so an item is its place.
fn for_each_draw(lengths: std::ops::Range<u32>, check: impl Fn(&[u32], &mut Stream)) {
    for n in lengths {
        let seq: Vec<u32> = (0..n).collect();
        for draw in 0..30 {
            check(&seq, &mut RngState { seed: 11, step: draw }.stream(Site(3), n));
        }
    }
}

#[test]
fn a_crop_is_a_run_of_a_fifth_of_the_items_or_one_item() {
    for_each_draw(1..41, |seq, stream| {
        let out = crop(seq, 0.2, stream);
        assert_eq!(out.len(), (seq.len() / 5).max(1));
        assert!(out.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert!(seq.len() < 5 || out.last() != seq.last(), "the last item is in no crop of f items");
    });
}

#[test]
fn a_crop_of_length_zero_can_be_any_single_item() {
    for n in 2..5u32 {
        let seq: Vec<u32> = (0..n).collect();
        let mut seen: Vec<u32> =
            (0..200).flat_map(|step| crop(&seq, 0.2, &mut RngState { seed: 0, step }.stream(Site(3), 0))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, seq);
    }
}

#[test]
fn mask_hides_seven_tenths_and_leaves_the_rest_in_place() {
    for_each_draw(1..41, |seq, stream| {
        let out = mask(seq, 0.7, MASK, stream);
        assert_eq!(out.iter().filter(|&&item| item == MASK).count(), (0.7 * seq.len() as f64) as usize);
        assert!(seq.iter().zip(&out).all(|(&before, &after)| after == before || after == MASK));
    });
}

#[test]
fn reorder_keeps_the_multiset_and_moves_one_run_only() {
    for_each_draw(1..41, |seq, stream| {
        let out = reorder(seq, 0.2, stream);
        let mut sorted = out.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, seq);
        let moved: Vec<usize> = (0..seq.len()).filter(|&i| out[i] != seq[i]).collect();
        let span = moved.last().map_or(0, |last| last - moved[0] + 1);
        assert!(span <= seq.len() / 5);
        assert!(seq.len() >= 10 || out == seq, "a fifth of fewer than ten items is at most one: nothing moves");
    });
}

#[test]
fn insert_puts_the_similar_item_before_the_chosen_one() {
    for_each_draw(1..41, |seq, stream| {
        let out = insert(seq, 0.4, &plus_hundred(), stream);
        let count = ((0.4 * seq.len() as f64) as usize).max(1);
        assert_eq!(out.len(), seq.len() + count);
        assert!(out.iter().enumerate().all(|(i, &item)| item < 100 || out[i + 1] == item - 100));
        assert!(out.into_iter().filter(|&item| item < 100).eq(seq.iter().copied()));
    });
}

#[test]
fn substitute_changes_exactly_the_chosen_count() {
    for_each_draw(1..41, |seq, stream| {
        let out = substitute(seq, 0.1, &plus_hundred(), stream);
        let changed: Vec<usize> = (0..seq.len()).filter(|&i| out[i] != seq[i]).collect();
        assert_eq!((out.len(), changed.len()), (seq.len(), (seq.len() / 10).max(1)));
        assert!(changed.into_iter().all(|i| out[i] == seq[i] + 100));
    });
}

#[test]
fn extreme_ratios_and_an_empty_sequence_are_harmless() {
    for_each_draw(0..6, |seq, stream| {
        for ratio in [0.0, 1.0, 7.5, -1.0, f64::NAN] {
            assert!(crop(seq, ratio, stream).len() <= seq.len());
            assert_eq!(mask(seq, ratio, MASK, stream).len(), seq.len());
            assert_eq!(reorder(seq, ratio, stream).len(), seq.len());
            assert!(insert(seq, ratio, &plus_hundred(), stream).len() <= 2 * seq.len());
            assert_eq!(substitute(seq, ratio, &plus_hundred(), stream).len(), seq.len());
        }
    });
}

#[test]
fn chosen_places_are_uniform() {
    let mut counts = [0u32; 5];
    for step in 0..10_000 {
        for (count, chosen) in counts.iter_mut().zip(choose(5, 2, &mut RngState { seed: 2, step }.stream(Site(3), 0))) {
            *count += u32::from(chosen);
        }
    }
    assert!(counts.into_iter().all(|count| count.abs_diff(4_000) < 250), "{counts:?}");
}

#[test]
fn short_and_long_sequences_are_reordered_at_the_same_ratio() {
    let only_reorder = || OperatorSet::try_from("R".to_owned()).unwrap();
    let cfg =
        AugmentConfig { reorder_ratio: 0.7, short_set: only_reorder(), long_set: only_reorder(), ..Default::default() };
    for n in [4, 5] {
        let seq: Vec<u32> = (0..n).collect();
        let mut moved = 0;
        for step in 0..50 {
            let mut stream = RngState { seed: 1, step }.stream(Site(3), 0);
            let out = augment(&cfg, &plus_hundred(), &mut stream, &seq, MASK);
            assert_eq!(out[n as usize - 1], n - 1, "no part reaches the last item");
            moved += u32::from(out != seq);
        }
        assert!(moved > 10, "floor(.7 * {n}) items, two or three, are shuffled; at .2 nothing would ever move");
    }
}

#[test]
fn a_sequence_just_above_the_threshold_draws_from_all_five() {
    let cfg = AugmentConfig::default();
    let lengths = |n: u32| -> std::collections::BTreeSet<usize> {
        let seq: Vec<u32> = (0..n).collect();
        let view =
            |step| augment(&cfg, &plus_hundred(), &mut RngState { seed: 1, step }.stream(Site(3), 0), &seq, MASK);
        (0..200).map(|step| view(step).len()).collect()
    };
    assert!(lengths(4).into_iter().eq([4, 5]), "substitute and mask keep four items, insert makes five");
    assert!(lengths(5).into_iter().eq([1, 5, 7]), "crop leaves one item, insert makes seven");
}

#[test]
fn operators_outside_the_sets_are_never_drawn() {
    let only = |letters: &str| OperatorSet::try_from(letters.to_owned()).unwrap();
    let cl4srec = AugmentConfig { short_threshold: 0, long_set: only("CMR"), ..AugmentConfig::default() };
    let mut seen = std::collections::BTreeSet::new();
    for_each_draw(1..41, |seq, stream| {
        let view = augment(&cl4srec, &plus_hundred(), stream, seq, MASK);
        assert!(view.len() <= seq.len() && view.iter().all(|item| seq.contains(item) || *item == MASK));
    });
    let seq: Vec<u32> = (0..20).collect();
    for step in 0..50 {
        let view = augment(&cl4srec, &plus_hundred(), &mut RngState { seed: 1, step }.stream(Site(3), 0), &seq, MASK);
        seen.insert((view.len(), view.contains(&MASK)));
    }
    assert!(
        seen.into_iter().eq([(4, false), (20, false), (20, true)]),
        "crop, reorder and mask, each at its own ratio"
    );
}

#[test]
fn the_same_stream_gives_the_same_view() {
    for_each_draw(1..20, |seq, stream| {
        let mut again = stream.clone();
        let cfg = AugmentConfig::default();
        let view = augment(&cfg, &plus_hundred(), stream, seq, MASK);
        assert_eq!(view, augment(&cfg, &plus_hundred(), &mut again, seq, MASK));
    });
}

#[test]
fn a_config_is_read_from_toml_and_mistakes_are_named() {
    let cfg: AugmentConfig = toml::from_str("insert_ratio = 0.5\nshort_set = \"SIMRC\"\nshort_threshold = 12").unwrap();
    assert_eq!((cfg.insert_ratio, cfg.short_threshold, cfg.crop_ratio), (0.5, 12, 0.2));
    assert_eq!(String::from(cfg.short_set), "SIMRC");
    assert!(toml::from_str::<AugmentConfig>("croop_ratio = 0.5").is_err());
    assert!(
        toml::from_str::<AugmentConfig>("short_set = \"SIX\"")
            .unwrap_err()
            .to_string()
            .contains("`SIX` is not a set of operators")
    );
    assert!(toml::from_str::<AugmentConfig>("short_set = \"\"").is_err());
    let wrong = AugmentConfig { mask_ratio: f64::NAN, ..AugmentConfig::default() };
    assert!(wrong.validate().unwrap_err().to_string().starts_with("mask_ratio"));
    assert!(AugmentConfig::default().validate().is_ok());
}
