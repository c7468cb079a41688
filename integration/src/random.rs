//! Random choices that can be repeated.

use anyhow::{Context, Result};

/// The variable that repeats the choices of a test.
const VARIABLE: &str = "FLANNEL_E2E_SEED";

/// A generator seeded from `FLANNEL_E2E_SEED`, or at random. Prints the seed to stderr.
pub fn from_environment() -> Result<fastrand::Rng> {
    let seed = match std::env::var(VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{VARIABLE}={text} is not a number"))?,
        Err(_) => fastrand::u64(..),
    };
    eprintln!("seed {seed}: {VARIABLE}={seed} makes the same choices");
    Ok(fastrand::Rng::with_seed(seed))
}
