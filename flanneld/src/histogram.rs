//! Histograms of durations, as Prometheus has them.

use std::time::Duration;

/// A histogram whose classes have fixed upper bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    /// The number of durations in each class; those above the last bound are in none.
    pub classes: [u64; N],
    /// The number of all durations.
    pub count: u64,
    /// Their sum.
    pub total: Duration,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { classes: [0; N], count: 0, total: Duration::ZERO }
    }
}

impl<const N: usize> Histogram<N> {
    /// Adds a duration. `bounds` are the upper bounds of the classes.
    pub(crate) fn note(&mut self, bounds: &[Duration; N], elapsed: Duration) {
        if let Some(class) = bounds.iter().position(|bound| elapsed <= *bound) {
            self.classes[class] += 1;
        }
        self.count += 1;
        self.total += elapsed;
    }
}
