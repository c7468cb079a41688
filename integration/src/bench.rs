//! Measurements: of the daemon in a large cluster, and of the CNI plugin against others.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) mod cni;
pub(crate) mod control;

/// The value below which a share of the values lies; 0 where there are none.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(at).copied().unwrap_or_default()
}

/// Writes the figures to a file, or after the report where none is named.
fn write_figures(figures: &Value, file: Option<&Path>) -> Result<()> {
    match file {
        Some(file) => fs::write(file, format!("{figures:#}\n"))
            .with_context(|| format!("could not write {}", file.display())),
        None => {
            println!("\n{figures:#}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(percentile(&[], 50).to_bits(), 0.0_f64.to_bits());
        let values: Vec<f64> = (1..=100_u8).rev().map(f64::from).collect();
        for (percent, expected) in [(0, 1.0), (50, 50.0), (99, 99.0), (100, 100.0)] {
            assert!((percentile(&values, percent) - expected).abs() < f64::EPSILON, "{percent}");
        }
    }
}
