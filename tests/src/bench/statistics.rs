//! Medians and quartiles of samples, and of ratios of samples that belong together.

use serde::{Deserialize, Serialize};

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Half of the values are below, half above.
    pub median: f64,
    /// A quarter of the values is below.
    pub lower: f64,
    /// A quarter of the values is above.
    pub upper: f64,
    /// How many values there were.
    pub count: usize,
}

impl Summary {
    /// Of these values; `None` where there are none, or one is not a number.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.iter().any(|value| !value.is_finite()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            lower: quantile(&sorted, 0.25)?,
            upper: quantile(&sorted, 0.75)?,
            count: sorted.len(),
        })
    }

    /// Of the ratios of each value to its partner, the one at the same place.
    ///
    /// A ratio is taken before anything is summarised: what slowed both down falls out of it.
    #[must_use]
    pub fn of_ratios(values: &[f64], partners: &[f64]) -> Option<Self> {
        if values.len() != partners.len() {
            return None;
        }
        let pairs = values.iter().zip(partners);
        Self::of(
            &pairs
                .map(|(value, partner)| value / partner)
                .collect::<Vec<_>>(),
        )
    }
}

/// The value below which this share of sorted values lies, between two of them in proportion.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "places in a list of samples are small and not negative"
)]
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place.floor();
    let (low, high) = (sorted[below as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * (place - below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(
            summary,
            Summary {
                median: 2.5,
                lower: 1.75,
                upper: 3.25,
                count: 4,
            }
        );
    }

    #[test]
    fn one_value_is_its_own_summary() {
        let summary = Summary::of(&[7.0]).unwrap();
        assert_eq!(
            (summary.lower, summary.median, summary.upper),
            (7.0, 7.0, 7.0)
        );
    }

    #[test]
    fn no_values_and_what_is_no_number_have_none() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of_ratios(&[1.0], &[0.0]), None);
        assert_eq!(Summary::of_ratios(&[1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn what_slows_both_down_falls_out_of_their_ratio() {
        let (direct, proxied) = ([100.0, 50.0, 10.0], [90.0, 45.0, 9.0]);
        let ratio = Summary::of_ratios(&proxied, &direct).unwrap();
        assert!((ratio.median - 0.9).abs() < 1e-9);
        assert!((ratio.upper - ratio.lower).abs() < 1e-9);
    }

    #[test]
    fn a_quantile_lies_between_two_values_in_proportion() {
        let sorted = [0.0, 10.0, 20.0, 30.0, 40.0];
        assert_eq!(quantile(&sorted, 0.99), Some(39.6));
        assert_eq!(quantile(&sorted, 0.0), Some(0.0));
        assert_eq!(quantile(&sorted, 2.0), Some(40.0));
    }
}
