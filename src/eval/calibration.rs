//! Values against returns: what a network says that will follow in a list, and what did follow.

use serde::{Deserialize, Serialize};

/// How values of impressions agree with the discounted clicks from them on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// What a click one position further down counts.
    pub discount: f64,
    /// Share of the returns' variance that the values explain: `1 - sum (G - Q)^2 / sum (G - mean G)^2`, below 0 where their
    /// mean would have said more.
    pub r2: f64,
    /// Tenths of the impressions, lowest values first.
    pub deciles: Vec<Decile>,
}

/// A tenth of the impressions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decile {
    /// How many.
    pub count: usize,
    /// Mean of what was said.
    pub value: f64,
    /// Mean of what followed.
    #[serde(rename = "return")]
    pub followed: f64,
}

/// Of the values of impressions, list after list; `clicks` are in the same order, some of them clicks and some not.
pub fn calibration(values: &[f32], clicks: &[f32], length: usize, discount: f64) -> Calibration {
    let returns = returns(clicks, length, discount);
    let mut pairs: Vec<(f64, f64)> = values.iter().map(|value| f64::from(*value)).zip(returns).collect();
    // Ties by what followed, so that the order of the lists does not matter.
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mean = pairs.iter().map(|(_, followed)| followed).sum::<f64>() / pairs.len() as f64;
    let squares = |error: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(|pair| error(pair).powi(2)).sum::<f64>();
    let r2 = 1.0 - squares(&|(value, followed)| followed - value) / squares(&|(_, followed)| followed - mean);
    let border = |tenth: usize| tenth * pairs.len() / 10;
    let tenths = (0..10).map(|tenth| &pairs[border(tenth)..border(tenth + 1)]).filter(|pairs| !pairs.is_empty());
    let deciles = tenths.map(|pairs| {
        let mean = |of: fn(&(f64, f64)) -> f64| pairs.iter().map(of).sum::<f64>() / pairs.len() as f64;
        Decile { count: pairs.len(), value: mean(|pair| pair.0), followed: mean(|pair| pair.1) }
    });
    Calibration { discount, r2, deciles: deciles.collect() }
}

/// `G_t = r_t + discount G_(t+1)` within lists of a length.
fn returns(clicks: &[f32], length: usize, discount: f64) -> Vec<f64> {
    let mut returns: Vec<f64> = clicks.iter().map(|click| f64::from(*click)).collect();
    for list in returns.chunks_mut(length) {
        for place in (1..list.len()).rev() {
            list[place - 1] += discount * list[place];
        }
    }
    returns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_is_what_follows_in_the_same_list() {
        assert_eq!(returns(&[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], 3, 0.5), [1.25, 0.5, 1.0, 0.25, 0.5, 1.0]);
        assert_eq!(returns(&[1.0, 0.0, 1.0], 3, 0.0), [1.0, 0.0, 1.0]);
    }

    #[test]
    fn values_that_are_the_returns_explain_all_of_them() {
        let clicks = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let exact = [1.25, 0.5, 1.0, 0.25, 0.5, 1.0];
        let of = |values: &[f32]| calibration(values, &clicks, 3, 0.5);
        assert_eq!(of(&exact).r2, 1.0);
        assert_eq!(of(&[0.75; 6]).r2, 0.0, "their mean explains nothing");
        assert!(of(&exact.map(|value| 3.0 * value)).r2 < 0.0, "the scale counts");
        let deciles = of(&exact).deciles;
        assert_eq!(deciles.iter().map(|decile| decile.count).sum::<usize>(), 6);
        assert!(deciles.iter().all(|decile| decile.value == decile.followed), "{deciles:?}");
    }

    #[test]
    fn deciles_are_tenths_by_value() {
        // Lists of one: the return is the click. Every second impression of the upper half was clicked.
        let values: Vec<f32> = (0..40).map(|n| ((n * 7) % 40) as f32).collect();
        let clicks: Vec<f32> = values.iter().map(|v| f32::from(u8::from(*v >= 20.0 && *v % 2.0 == 0.0))).collect();
        let deciles = calibration(&values, &clicks, 1, 0.4).deciles;
        assert_eq!(deciles.len(), 10);
        for (tenth, decile) in deciles.iter().enumerate() {
            let expected =
                Decile { count: 4, value: 4.0 * tenth as f64 + 1.5, followed: if tenth < 5 { 0.0 } else { 0.5 } };
            assert_eq!(*decile, expected);
        }
    }
}
