//! What configurations check of their settings, with one message for each kind of mistake.

use crate::error::{Error, Result};
use std::fmt::Display;

/// Sizes and counts: 1 or more.
pub fn at_least_one(settings: &[(&str, usize)]) -> Result<()> {
    all(settings, "at least 1", |count| count >= 1)
}

/// Numbers above 0.
pub fn positive(settings: &[(&str, f64)]) -> Result<()> {
    all(settings, "a positive number", |x| x.is_finite() && x > 0.0)
}

/// Weights and bounds: 0 or above.
pub fn not_negative(settings: &[(&str, f64)]) -> Result<()> {
    all(settings, "0 or a positive number", |x| x.is_finite() && x >= 0.0)
}

/// Dropout rates and decays: from 0 up to, not including, 1.
pub fn rates(settings: &[(&str, f64)]) -> Result<()> {
    all(settings, "a number from 0 up to, not including, 1", |x| (0.0..1.0).contains(&x))
}

/// Shares of something: from 0 to 1.
pub fn shares(settings: &[(&str, f64)]) -> Result<()> {
    all(settings, "a number from 0 to 1", |x| (0.0..=1.0).contains(&x))
}

fn all<T: Copy + Display>(settings: &[(&str, T)], wanted: &str, fits: impl Fn(T) -> bool) -> Result<()> {
    match settings.iter().find(|(_, value)| !fits(*value)) {
        Some((name, value)) => {
            Err(Error::usage(format!("{name} = {value} cannot be used"), format!("set {name} to {wanted}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_setting_that_does_not_fit_is_named_with_what_would() {
        let error = rates(&[("a", 0.0), ("b", 1.0), ("c", 2.0)]).unwrap_err();
        assert_eq!(error.to_string(), "b = 1 cannot be used");
        assert_eq!(error.help().unwrap(), "set b to a number from 0 up to, not including, 1");
    }

    #[test]
    fn bounds_are_as_told_and_nothing_but_numbers_fits() {
        assert!(at_least_one(&[("n", 1)]).is_ok() && at_least_one(&[("n", 0)]).is_err());
        assert!(positive(&[("x", 1e-9)]).is_ok() && positive(&[("x", 0.0)]).is_err());
        assert!(not_negative(&[("x", 0.0)]).is_ok() && not_negative(&[("x", -1e-9)]).is_err());
        assert!(shares(&[("x", 1.0)]).is_ok() && shares(&[("x", 1.1)]).is_err());
        for check in [positive, not_negative, rates, shares] {
            assert!([f64::NAN, f64::INFINITY].iter().all(|x| check(&[("x", *x)]).is_err()));
        }
    }
}
