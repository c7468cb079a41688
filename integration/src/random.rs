//! Random choices that can be made again.

use anyhow::{Context, Result};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Names the variable that repeats the choices of a test.
const VARIABLE: &str = "FLANNEL_E2E_SEED";

/// A source of choices.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `FLANNEL_E2E_SEED`, or another seed every time. Says on stderr which one it is.
    pub fn from_environment() -> Result<Self> {
        let seed = match std::env::var(VARIABLE) {
            Ok(text) => text.parse().with_context(|| format!("{VARIABLE}={text}: not a number"))?,
            Err(_) => RandomState::new().hash_one("seed"),
        };
        eprintln!("seed {seed}: {VARIABLE}={seed} makes the same choices");
        Ok(Self(seed))
    }

    /// Another source, which depends on this one's seed and a number.
    #[must_use]
    pub fn fork(&self, number: u64) -> Self {
        let mut fork = Self(self.0 ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // Neighbouring numbers give neighbouring states at first.
        fork.next();
        fork.next();
        fork
    }

    /// A number below `limit`, or 0 where that is 0. The generator is that of Knuth's MMIX.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33).checked_rem(limit).unwrap_or_default()
    }

    /// Puts values in a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let chosen = self.below(last as u64 + 1);
            values.swap(last, usize::try_from(chosen).unwrap_or_default());
        }
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }
}
