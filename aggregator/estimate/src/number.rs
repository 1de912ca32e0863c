//! The one door from floats back to whole numbers. Decides nothing about migrations.

/// Rounds to the nearest whole number; what is negative or not a number becomes 0, what is too large the largest.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates and turns NaN into 0, which is what this function promises"
)]
pub fn round_u64(value: f64) -> u64 {
    value.round() as u64
}

/// Turns seconds into whole milliseconds.
pub(crate) fn millis(seconds: f64) -> u64 {
    round_u64(seconds * 1e3)
}

/// Turns milliseconds into seconds.
pub(crate) fn seconds(millis: u64) -> f64 {
    millis as f64 / 1e3
}
