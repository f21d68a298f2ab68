//! The card's console, where a person reads the pairing code. The journal does not get it.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use dpu_trust::Code;
use dpu_trust::window::LIFE;
use rustix::fs::OFlags;

/// The console.
pub struct Console(PathBuf);

impl Console {
    /// The console at a device.
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Shows a code.
    pub fn show(&self, code: &Code) {
        let minutes = LIFE.as_secs() / 60;
        let text = format!(
            "\r\ndpukit: to pair a host with this card, run `dpu-host pair` there, with the code {code}\r\n\
             dpukit: it is good once, and for {minutes} minutes\r\n"
        );
        match self.write(&text) {
            Ok(()) => tracing::info!("a host can pair for {minutes} minutes: the code is on the console"),
            Err(error) => tracing::warn!(
                "a host can pair, but the code can't be shown on `{}`: {error}; `dpu-agent pairing open` shows another",
                self.0.display()
            ),
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // A console that nobody reads is not to hold up the agent, nor to become its terminal.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
        let flags = i32::try_from(flags).map_err(io::Error::other)?;
        OpenOptions::new().write(true).custom_flags(flags).open(&self.0)?.write_all(text.as_bytes())
    }
}
