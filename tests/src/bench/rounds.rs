//! Samples of several variants, taken in turns.

use anyhow::Result;

use super::statistics::Summary;

/// Samples by variant, in the order of the variants; those at the same place are of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    /// The samples of a variant.
    #[must_use]
    pub fn of(&self, variant: usize) -> &[f64] {
        &self.0[variant]
    }

    /// What to tell of a variant.
    #[must_use]
    pub fn summary(&self, variant: usize) -> Option<Summary> {
        Summary::of(self.of(variant))
    }

    /// What to tell of a variant in proportion to another one.
    #[must_use]
    pub fn ratio(&self, variant: usize, to: usize) -> Option<Summary> {
        Summary::of_ratios(self.of(variant), self.of(to))
    }
}

/// Takes `rounds` samples of each of `variants` variants. Every round begins with another variant:
/// none always comes after the same one, and what the first of a round pays, each pays in turn.
///
/// # Errors
/// Those of `sample`, which takes one of the variant with this number.
pub fn take<S>(
    variants: usize,
    rounds: usize,
    mut sample: impl FnMut(usize) -> Result<S>,
) -> Result<Vec<Vec<S>>> {
    let mut samples: Vec<Vec<S>> = (0..variants).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        for variant in order(variants, round) {
            samples[variant].push(sample(variant)?);
        }
    }
    Ok(samples)
}

/// One figure out of each sample.
pub fn of<S>(samples: &[Vec<S>], figure: impl Fn(&S) -> f64) -> Rounds {
    let of_variant = |samples: &Vec<S>| samples.iter().map(&figure).collect();
    Rounds(samples.iter().map(of_variant).collect())
}

/// Who comes when: another one first each time, then up or down in turns, so that everybody's
/// neighbours change.
fn order(variants: usize, round: usize) -> Vec<usize> {
    (0..variants)
        .map(|place| match round % 2 {
            0 => (round + place) % variants,
            _ => (round + variants - place) % variants,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_one_sample_in_each_round() {
        let mut taken = Vec::new();
        let samples = take(3, 4, |variant| {
            taken.push(variant);
            Ok(taken.len())
        })
        .unwrap();
        for round in taken.chunks(3) {
            let mut all = round.to_vec();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
        // What was taken in one round is at one place.
        for (round, numbers) in taken.chunks(3).enumerate() {
            for (place, variant) in numbers.iter().enumerate() {
                assert_eq!(samples[*variant][round], 3 * round + place + 1);
            }
        }
    }

    #[test]
    fn everybody_begins_a_round_and_directions_change() {
        let orders: Vec<Vec<usize>> = (0..4).map(|round| order(4, round)).collect();
        assert_eq!(
            orders,
            [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
        );
        assert_eq!(order(0, 3), Vec::<usize>::new());
    }

    #[test]
    fn a_failed_sample_ends_the_measurement() {
        let result = take(2, 2, |_| -> Result<()> { anyhow::bail!("no answer") });
        assert!(result.is_err());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let rounds = of(&[vec![100.0, 10.0], vec![50.0, 5.0]], |value: &f64| *value);
        assert_eq!(rounds.ratio(1, 0).unwrap().median, 0.5);
        assert_eq!(rounds.summary(0).unwrap().median, 55.0);
    }
}
