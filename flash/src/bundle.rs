//! What `cargo xtask image` leaves in `out/<board>`: the image, `firmware/`, and the board's `flash.toml`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::board::Board;
use crate::hint::WithHint as _;

/// The board's file in a bundle.
pub const BOARD: &str = "flash.toml";
/// The folder of the makers' firmware.
pub const FIRMWARE: &str = "firmware";

/// A bundle for one board.
#[derive(Debug, Clone)]
pub struct Bundle {
    folder: PathBuf,
    board: String,
}

impl Bundle {
    /// The bundle in a folder, which has to be of `board`.
    pub fn open(folder: &Path, board: &str) -> Result<Self> {
        if !folder.is_dir() {
            return Err(anyhow!("there is no bundle in `{}`", folder.display())).hint(|| {
                format!("build it with `cargo xtask image --board {board}`, or name it with `--bundle`")
            });
        }
        Ok(Self { folder: folder.to_owned(), board: board.to_owned() })
    }

    /// How the board is flashed: as its bundle says, else as the program knows.
    pub fn board(&self) -> Result<Board> {
        let path = self.folder.join(BOARD);
        if path.is_file() { Board::read(&path) } else { Board::known(&self.board) }
    }

    /// The disk's image.
    pub fn image(&self) -> Result<PathBuf> {
        let start = format!("dpukit-{}-", self.board);
        let files =
            fs::read_dir(&self.folder).with_context(|| format!("reading `{}`", self.folder.display()))?;
        let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
        let is_image = |name: &String| {
            name.starts_with(&start) && Path::new(name).extension().is_some_and(|end| end == "img")
        };
        let mut images: Vec<_> = names.filter(is_image).collect();
        images.sort();
        match images.as_slice() {
            [image] => Ok(self.folder.join(image)),
            [] => Err(anyhow!("`{}` has no `{start}*.img`", self.folder.display()))
                .hint(|| format!("build it with `cargo xtask image --board {}`", self.board)),
            more => bail!("`{}` has several images: {}", self.folder.display(), more.join(", ")),
        }
    }

    /// The folder of the makers' firmware.
    pub fn firmware(&self) -> PathBuf {
        self.folder.join(FIRMWARE)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
