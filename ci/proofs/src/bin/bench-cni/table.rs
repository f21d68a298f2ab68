//! Figures of ours and of the reference side by side, in milliseconds.

use std::fmt::Write as _;
use std::time::Duration;

/// Durations of one thing, of both sides.
#[derive(Default)]
pub struct Row {
    /// Ours.
    pub ours: Vec<f64>,
    /// The reference's; empty where it has nothing like it.
    pub reference: Vec<f64>,
}

impl Row {
    /// Takes a duration of ours.
    pub fn ours(&mut self, took: Duration) {
        self.ours.push(took.as_secs_f64() * 1e3);
    }

    /// Takes a duration of the reference's.
    pub fn reference(&mut self, took: Duration) {
        self.reference.push(took.as_secs_f64() * 1e3);
    }
}

/// The value below which so many hundredths of the figures are.
pub fn percentile(figures: &[f64], hundredths: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * hundredths).div_ceil(100).clamp(1, sorted.len());
    sorted[at - 1]
}

/// The rows as text.
pub fn text(rows: &[(&str, Row)]) -> String {
    let mut text = format!(
        "{:<36} {:>8} {:>8} {:>10} {:>8} {:>8}",
        "milliseconds", "median", "p99", "ptp median", "ptp p99", "ratio"
    );
    for (name, Row { ours, reference }) in rows {
        let (median, p99) = (percentile(ours, 50), percentile(ours, 99));
        let _ = write!(text, "\n{name:<36} {median:>8.2} {p99:>8.2}");
        if !reference.is_empty() {
            let (theirs, theirs99) = (percentile(reference, 50), percentile(reference, 99));
            let _ = write!(text, " {theirs:>10.2} {theirs99:>8.2} {:>8.2}", median / theirs);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let figures: Vec<_> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&figures, 50) - 100.0).abs() < 1e-9);
        assert!((percentile(&figures, 99) - 198.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 99) - 7.0).abs() < 1e-9);
    }
}
