//! `lock`: writes the hashes of everything that enters a build.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use dpukit_image::hint::WithHint as _;
use dpukit_image::project::{self, Terms, lock_path};
use dpukit_image::{lock as image_lock, store};

use crate::flags::{Common, Lock};
use crate::ui::Ui;

pub fn run(common: &Common, flags: &Lock) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let config = common.config()?;
    let path = lock_path(&config.root, &common.board);
    let mut lock = image_lock::Lock::read(&path)?;
    let missing = lock.missing(&config);
    if flags.check {
        for name in &missing {
            ui.problem(&format!("`{name}` is not in the lock as the component asks for it"));
        }
        if missing.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        ui.problem("hint: run `cargo xtask lock`, and commit what it writes");
        return Ok(ExitCode::FAILURE);
    }
    let all = image_lock::component_names(&config);
    let wanted: Vec<String> = match flags.update.as_deref() {
        None => missing,
        Some("all") => all.iter().map(ToString::to_string).collect(),
        Some(name) if all.contains(&name) => vec![name.to_owned()],
        Some(name) => {
            return Err(anyhow::anyhow!("board `{}` has no component `{name}` in its lock", common.board))
                .hint(|| format!("its components are: {}", all.join(", ")));
        }
    };
    if wanted.is_empty() {
        ui.notice("the lock is whole");
        return Ok(ExitCode::SUCCESS);
    }
    let terms = Terms { locked: common.locked, offline: common.offline };
    if terms.locked {
        return Err(anyhow::anyhow!("`--locked` forbids to resolve anew: {}", wanted.join(", ")))
            .hint(|| "run the same command without `--locked`, and commit what it writes".into());
    }
    let cache = store::cache_folder()?;
    let fetcher = project::fetcher(&config, &cache, terms)?;
    let origins = project::origins(&config, &cache, terms);
    let start = SystemTime::now();
    for difference in project::resolve(&config, &fetcher, &origins, &mut lock, &wanted)? {
        ui.notice(&super::told(&difference));
    }
    let seconds = start.elapsed().unwrap_or_default().as_secs_f64();
    ui.notice(&format!("resolved {} in {seconds:.1} s: `{}`", wanted.join(", "), path.display()));
    Ok(ExitCode::SUCCESS)
}
