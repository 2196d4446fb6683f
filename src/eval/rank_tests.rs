use std::path::PathBuf;

use rayon::prelude::*;

use super::*;
use crate::data::{HeldOut, UserItems, public_dataset};
use crate::eval::Metrics;

fn place(scores: &[f32], target: u32, excluded: &[u32]) -> u32 {
    rank_of(scores, target, excluded, 0).unwrap().rank
}

#[test]
fn equal_scores_rank_the_lower_index_first() {
    let scores = [0.5, 2.0, 0.5, -1.0, 0.5];
    assert_eq!([0, 1, 2, 3, 4].map(|target| place(&scores, target, &[])), [2, 1, 3, 5, 4]);
    assert_eq!(rank_of(&scores, 2, &[], 0).unwrap().ties, 2);
    assert_eq!(rank_of(&[7.0f64; 9], 8, &[], 0).unwrap(), Rank { rank: 9, ties: 8 });
}

#[test]
fn excluded_items_do_not_count_and_an_excluded_target_is_unreachable() {
    let scores = [3.0, 2.0, 1.0, 1.0];
    assert_eq!(place(&scores, 3, &[]), 4);
    assert_eq!(place(&scores, 3, &[0, 2]), 2);
    assert_eq!(rank_of(&scores, 3, &[0, 2], 0).unwrap().ties, 0);
    assert_eq!(place(&scores, 3, &[3]), UNREACHABLE);
    assert_eq!(place(&scores, 9, &[]), UNREACHABLE, "an item without a score is in no list");
    assert_eq!(place(&scores, 1, &[0, 17]), 1);
}

#[test]
fn scores_that_are_not_finite_are_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = rank_of(&[1.0, bad], 0, &[], 8).unwrap_err();
        assert_eq!(error.to_string(), "the score of item index 1 is not finite at step 8");
        assert!(auc(&[1.0, bad], &[true, false], 0).is_err());
    }
}

#[test]
fn a_warning_is_given_when_ties_are_common() {
    assert!(tie_warning(0.25).unwrap().starts_with("for 25.0 % of the events"));
    assert_eq!(tie_warning(0.0), None);
}

#[test]
fn auc_is_the_share_of_pairs_in_order_with_ties_one_half() {
    let of = |scores: &[f32], labels: &[u8]| {
        let labels: Vec<bool> = labels.iter().map(|&label| label == 1).collect();
        auc(scores, &labels, 0).unwrap()
    };
    assert_eq!(of(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1]), Some(0.75));
    assert_eq!(of(&[1.0, 1.0, 1.0], &[1, 0, 0]), Some(0.5));
    assert_eq!(of(&[-0.0, 0.0], &[1, 0]), Some(0.5));
    assert_eq!(of(&[1.0, 2.0], &[1, 1]), None);
    assert!(auc(&[1.0f32], &[], 0).is_err());
}

/// The named tensors of one golden file, floats and whole numbers alike as f64; `None` where there is no such file.
fn golden(file: &str) -> Option<impl Fn(&str) -> Vec<f64>> {
    let own = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels-test/golden");
    let path = std::env::var_os("GPUREC_GOLDEN_DIR").map_or_else(own, PathBuf::from).join(file);
    let Ok(bytes) = std::fs::read(&path) else {
        println!("skipped: no {}", path.display());
        return None;
    };
    Some(move |name: &str| -> Vec<f64> {
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let words = tensor.data().chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).unwrap());
        match tensor.dtype() {
            safetensors::Dtype::F32 => words.map(|word| f64::from(f32::from_le_bytes(word))).collect(),
            _ => words.map(|word| f64::from(i32::from_le_bytes(word))).collect(),
        }
    })
}

#[test]
fn ranks_and_metrics_match_the_golden_file() {
    let Some(tensor) = golden("ranking_metrics.0.safetensors") else { return };
    let (scores, targets) = (tensor("in.scores"), tensor("in.target"));
    let rows = scores.chunks_exact(scores.len() / targets.len());
    let ranks: Vec<u32> = rows.zip(&targets).map(|(row, &t)| rank_of(row, t as u32, &[], 0).unwrap().rank).collect();
    assert!(ranks.iter().map(|&rank| f64::from(rank)).eq(tensor("out.rank")));
    for (key, value) in Metrics::from_ranks(&ranks).iter() {
        let expected = tensor(&format!("out.{key}"))[0];
        assert!((value - expected).abs() < 1e-6, "{key}: {value} against {expected}");
    }
}

#[test]
fn auc_matches_the_golden_file() {
    let Some(tensor) = golden("auc.0.safetensors") else { return };
    let labels: Vec<bool> = tensor("in.labels").into_iter().map(|label| label == 1.0).collect();
    let value = auc(&tensor("in.scores"), &labels, 0).unwrap().unwrap();
    assert!((value - tensor("out.auc")[0]).abs() < 1e-6);
}

/// Counts over all but the test item, history excluded, ties by ascending id: the whole stack without a model.
/// The figures of Sports and Toys are those of the POP rows of LMA4Rec, Table 2.
#[test]
fn popularity_reproduces_the_published_figures_digit_for_digit() {
    let figures = [
        ("amazon_beauty", [".0077", ".0135", ".0217", ".0042", ".0061", ".0081"]),
        ("amazon_sports_and_outdoors", [".0057", ".0091", ".0175", ".0041", ".0052", ".0073"]),
        ("amazon_toys_and_games", [".0065", ".0090", ".0143", ".0044", ".0052", ".0065"]),
    ];
    for (name, expected) in figures {
        let Some(data) = public_dataset(name) else { continue };
        let test: Vec<HeldOut> = data.test().collect();
        let mut counts = vec![0f32; data.n_items()];
        let histories = || test.iter().map(|event| event.history);
        histories().flatten().for_each(|&item| counts[item as usize] += 1.0);
        let excluded = UserItems::from_slices(histories());
        let rank = |u: usize| rank_of(&counts, test[u].target, excluded.of(u), 0).unwrap().rank;
        let ranks: Vec<u32> = (0..data.n_users()).into_par_iter().map(rank).collect();
        let found = Metrics::from_ranks(&ranks).figures().map(|figure| format!("{figure:.4}")[1..].to_owned());
        assert_eq!(found, expected, "{name}");
    }
}
