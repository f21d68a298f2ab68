//! From bytes of a console to text: no control characters, no terminal's escape sequences.

/// Whether a byte can't be part of what a console says.
pub fn is_noise(byte: u8) -> bool {
    match byte {
        b'\t' | b'\n' | b'\r' | 0x07 | 0x08 | 0x1b => false,
        0..0x20 | 0x7f => true,
        _ => byte >= 0x80,
    }
}

/// Cleans bytes in whatever parts they come.
#[derive(Debug, Default)]
pub struct Cleaner {
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After `ESC [`: up to a letter (ECMA-48, 5.4).
    Sequence(u8),
}

/// A sequence longer than this is none.
const LONGEST: u8 = 32;

impl Cleaner {
    /// The text of these bytes; ends of lines are `\n` alone, and what is no text is `?`.
    pub fn clean(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Sequence(0),
                (State::Sequence(length), 0x20..0x40) if length < LONGEST => State::Sequence(length + 1),
                // The end of a sequence; and U-Boot counts down with backspaces, which only a terminal needs.
                (State::Escape, _) | (State::Sequence(_), 0x40..=0x7e) | (_, 0x07 | 0x08 | b'\r' | 0) => {
                    State::Text
                }
                (State::Text | State::Sequence(_), b'\n' | b'\t' | 0x20..0x7f) => {
                    text.push(byte.into());
                    State::Text
                }
                (State::Text | State::Sequence(_), _) => {
                    text.push('?');
                    State::Text
                }
            };
        }
        text
    }
}
