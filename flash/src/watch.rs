//! Who is told what happens: a person at a terminal, a log, a test.

/// Told what happens while a card is flashed.
pub trait Watch {
    /// A step begins.
    fn step(&self, text: &str);
    /// Something a person should know.
    fn notice(&self, text: &str);
    /// What the card's console said, cleaned of control characters; any part of a line.
    fn console(&self, text: &str);
    /// How many bytes of how many are dealt with.
    fn progress(&self, done: u64, total: u64);
}

/// Nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn step(&self, _: &str) {}
    fn notice(&self, _: &str) {}
    fn console(&self, _: &str) {}
    fn progress(&self, _: u64, _: u64) {}
}
