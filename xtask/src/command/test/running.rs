//! A program for as long as a test wants it.

use std::process::Child;

/// A running program; dropped, it is killed.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
