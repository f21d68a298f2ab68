//! `store`: lists, frees, verifies and explains what is kept.

use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::hint::WithHint as _;
use dpukit_image::{recipes, step, store as image_store};

use crate::flags::{Common, Image, Store};
use crate::ui::{Ui, bytes};

pub fn run(common: &Common, flags: &Store) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let store = image_store::Store::open(&image_store::cache_folder()?)?;
    match flags {
        Store::Ls => {
            for (name, meta, _) in store.entries()? {
                println!("{name}  {}  made in {:.1} s", bytes(meta.bytes), meta.seconds);
            }
        }
        Store::Gc { dry_run } => {
            let (removed, freed) = store.gc(*dry_run)?;
            for name in &removed {
                println!("{name}");
            }
            let what = if *dry_run { "would be freed" } else { "freed" };
            ui.notice(&format!("{} entries, {} {what}", removed.len(), bytes(freed)));
        }
        Store::Verify => {
            let wrong = store.verify(|name| ui.notice(&format!("hashing {name}")))?;
            for name in &wrong {
                store.remove(name)?;
                eprintln!("error: `{name}` was altered; it is removed, the next build makes it anew");
            }
            return Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Store::Why { step } => {
            let project = common.open(&ui, &Image::default())?;
            let graph = recipes::graph(&project.sources)?;
            let now = graph.recipes();
            if !now.contains_key(step) {
                let names: Vec<_> = now.keys().map(String::as_str).collect();
                return Err(anyhow::anyhow!("board `{}` has no step `{step}`", common.board))
                    .hint(|| format!("its steps are: {}", names.join(", ")));
            }
            let last = store.last(&common.board)?;
            if last.is_empty() {
                println!("there was no whole build of board `{}` yet", common.board);
                return Ok(ExitCode::SUCCESS);
            }
            let reasons = step::why(&now, &last, step);
            if reasons.is_empty() {
                println!("nothing that enters `{step}` changed since the last whole build");
            }
            for reason in reasons {
                println!("{reason}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
