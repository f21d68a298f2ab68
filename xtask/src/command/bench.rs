//! `bench`: measures what the project promises, in a copy of the checkout.
//!
//! Each figure is a whole process, as a user starts it; the median of several runs is shown beside the
//! fastest and the slowest.

mod cni;
mod flash;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use dpukit_image::bundle;
use dpukit_image::source::folder::copy_checkout;

use crate::command::boot::{check_image, emulator};
use crate::flags::{Bench, Common, Image};
use crate::ui::{Ui, bytes};

pub fn run(common: &Common, flags: &Bench) -> Result<ExitCode> {
    match flags {
        Bench::Image { runs, cold } => image(common, *runs, *cold),
        Bench::Flash => flash::run(common),
        Bench::Cni { runs } => cni::run(common, *runs),
    }
}

/// What one build told of itself.
struct Build {
    seconds: f64,
    steps: BTreeMap<String, f64>,
    peak_memory: u64,
}

fn image(common: &Common, runs: u16, cold: bool) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let copy = tempfile::tempdir().context("making a folder for a copy of the checkout")?;
    copy_checkout(&common.root(), copy.path())?;
    let mut bench = Bencher { root: copy.path().to_owned(), board: common.board.clone(), cache: None };
    let mut table = Table::default();
    let mut peak_memory = 0;
    if cold {
        ui.notice("a build from nothing");
        let cache = tempfile::tempdir().context("making an empty cache")?;
        bench.cache = Some(cache.path().to_owned());
        let build = bench.build(&[])?;
        table.add("from nothing, with downloads and kernel", build.seconds);
        peak_memory = build.peak_memory;
        bench.cache = None;
        // What is in a store is read-only, folders too.
        dpukit_image::store::remove_tree(cache.path())?;
    }
    ui.notice("a first build in the copy, not counted");
    bench.build(&[])?;

    for run in 0..runs {
        ui.notice(&format!("run {} of {runs}", run + 1));
        table.add("nothing changed, unplugged", bench.build(&["--offline"])?.seconds);
        let file = bench.root.join("rootfs-overlay/usr/share/dpukit-bench");
        fs::create_dir_all(file.parent().unwrap_or(&file))?;
        fs::write(&file, format!("{run} {:?}", Instant::now()))?;
        let build = bench.build(&["--offline"])?;
        table.add("one file of the overlay changed", build.seconds);
        table.add("  of it: composing the root", build.steps.get("root").copied().unwrap_or_default());
        table.add("  of it: squashfs and verity", build.steps.get("system").copied().unwrap_or_default());
        let source = bench.root.join("agent/src/lib.rs");
        let text = fs::read_to_string(&source)?;
        fs::write(
            &source,
            text + &format!("\n/// {:?}\npub const BENCH_{run}: u16 = {run};\n", Instant::now()),
        )?;
        let build = bench.build(&["--offline"])?;
        table.add("one line of the agent changed", build.seconds);
        peak_memory = peak_memory.max(build.peak_memory);
    }
    let project = common.open(&ui, &Image::default())?;
    crate::command::image::run(common, &Image::default())?;
    let composed = table.median("  of it: composing the root");
    let against = if let Some(reason) = dpukit_image::oracle::hindrance("arm64") {
        format!("not measured against mmdebstrap: {reason}")
    } else {
        ui.notice("mmdebstrap on the same packages");
        let took = dpukit_image::oracle::run(&project)?.took.as_secs_f64();
        format!("mmdebstrap on the same packages: {took:.0} s, {:.0} times as long", took / composed)
    };
    for _ in 0..runs {
        let report = check_image(common, &ui, &project, emulator(&project)?)?;
        let after = report.healthy_after.context("the image does not boot")?;
        table.add("emulated boot, U-Boot to agent healthy", after.as_secs_f64());
    }
    println!("{}", table.text());
    println!("{against}");
    println!("peak memory of the builder: {}", bytes(peak_memory));
    let folder = bundle::folder(&common.root(), &common.board);
    println!("kernel Image: {}", bytes(folder.join("Image").metadata()?.len()));
    println!("root, compressed, with its verity tree: {}", bytes(root_bytes(&folder)?));
    println!("machine: {}", machine());
    Ok(ExitCode::SUCCESS)
}

/// The slot's used bytes, from the root's verity: file system and tree.
fn root_bytes(folder: &Path) -> Result<u64> {
    let verity: serde_json::Value = serde_json::from_str(&fs::read_to_string(folder.join("verity.json"))?)?;
    let blocks = verity["data_blocks"].as_u64().context("`verity.json` has no `data_blocks`")?;
    // Each block of the tree holds 128 hashes of 32 bytes.
    let tree: u64 =
        std::iter::successors(Some(blocks.div_ceil(128)), |level| (*level > 1).then(|| level.div_ceil(128)))
            .sum();
    Ok((blocks + tree + 1) * 4096)
}

struct Bencher {
    root: PathBuf,
    board: String,
    /// Where to build, if not in the user's cache.
    cache: Option<PathBuf>,
}

impl Bencher {
    /// Runs `image` on the copy as a process of its own.
    fn build(&self, arguments: &[&str]) -> Result<Build> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("image").arg("--root").arg(&self.root).args(["--board", &self.board]);
        command.args(["--message-format", "json"]).args(arguments);
        if let Some(cache) = &self.cache {
            command.env("DPUKIT_CACHE", cache);
        }
        let start = Instant::now();
        let output = command.output().context("starting a build")?;
        let seconds = start.elapsed().as_secs_f64();
        if !output.status.success() {
            bail!("the build failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut build = Build { seconds, steps: BTreeMap::new(), peak_memory: 0 };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            match event["event"].as_str() {
                Some("finished") if event["built"] == true => {
                    let step = event["step"].as_str().unwrap_or_default().to_owned();
                    build.steps.insert(step, event["seconds"].as_f64().unwrap_or_default());
                }
                Some("peak-memory") => build.peak_memory = event["bytes"].as_u64().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(build)
    }
}

/// Figures by name, in the order of their first.
#[derive(Default)]
struct Table {
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    fn add(&mut self, name: &str, seconds: f64) {
        match self.rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, figures)) => figures.push(seconds),
            None => self.rows.push((name.to_owned(), vec![seconds])),
        }
    }

    fn median(&self, name: &str) -> f64 {
        let row = self.rows.iter().find(|(row, _)| row == name);
        row.map_or(0.0, |(_, figures)| {
            let mut sorted = figures.clone();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2]
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{:<42} {:>8} {:>8} {:>8}", "seconds", "median", "min", "max");
        for (name, figures) in &self.rows {
            let mut sorted = figures.clone();
            sorted.sort_by(f64::total_cmp);
            let (median, min, max) = (sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]);
            text += &format!("\n{name:<42} {median:>8.2} {min:>8.2} {max:>8.2}");
        }
        text
    }
}

/// What the figures were taken on.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} processors,{}",
        model.trim_start_matches(['\t', ' ', ':']).to_owned().replacen("", " ", 1)
    )
}
