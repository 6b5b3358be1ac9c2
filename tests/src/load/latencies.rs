//! Many durations, and what can be said of them in two numbers.

use std::time::Duration;

/// Durations of the same kind.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    all: Vec<Duration>,
}

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, one: Duration) {
        self.all.push(one);
    }

    /// Adds those of another measure of the same kind.
    pub fn append(&mut self, mut other: Latencies) {
        self.all.append(&mut other.all);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The percentile by nearest rank, in µs; 0 when there is none.
    #[must_use]
    pub fn percentile_us(&self, percent: usize) -> f64 {
        let mut sorted = self.all.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted
            .get(rank - 1)
            .map_or(0.0, |one| one.as_secs_f64() * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition of the nearest rank: the smallest value that at least `percent` % do not exceed.
    #[test]
    fn percentiles_are_nearest_ranks() {
        let check = |values: &[u64], percent, expected: f64| {
            let mut latencies = Latencies::default();
            for value in values {
                latencies.add(Duration::from_micros(*value));
            }
            let found = latencies.percentile_us(percent);
            assert!(
                (found - expected).abs() < 1e-6,
                "p{percent} of {values:?}: {found}"
            );
        };
        check(&[], 50, 0.0);
        check(&[7], 50, 7.0);
        check(&[7], 99, 7.0);
        check(&[30, 10, 20], 50, 20.0);
        check(&[40, 30, 10, 20], 50, 20.0);
        check(&[5, 1, 4, 2, 3], 99, 5.0);
        check(&[5, 1, 4, 2, 3], 20, 1.0);
        check(&[5, 1, 4, 2, 3], 21, 2.0);
    }
}
