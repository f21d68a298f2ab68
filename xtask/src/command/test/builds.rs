//! Whole builds under bad conditions: killed, two at once, without root, on a full and on a read-only disk,
//! of a root that is too large; and every step a second time, which must make the same bytes.
//!
//! Each runs the real program on a copy of the checkout, with a cache of its own that borrows the
//! downloads and what is not to be built anew of the user's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::hash::Hash;
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, IMAGE, KERNEL, ROOT, SYSTEM};
use dpukit_image::source::folder::copy_checkout;
use dpukit_image::store::{LastBuild, Store};

use crate::ui::Ui;

/// The steps that are built anew under bad conditions; `boot` has no name of its own elsewhere.
const ANEW: [&str; 4] = [ROOT, SYSTEM, "boot", IMAGE];
/// Ends the names of steps whose result is cargo's folder for the next step: it lists files there in an order that no two
/// builds agree on. What the next step makes of it is compared.
const OF_CARGO: &str = "-libraries";
/// How many builds are killed one after the other.
const KILLS: u32 = 5;
/// Within so much time of its start a build is killed; a whole one takes about twice as long.
const KILL_WITHIN: Duration = Duration::from_secs(5);

pub fn run(ui: &Ui, project: &Project) -> Result<()> {
    let folder = tempfile::tempdir().context("making a folder for builds")?;
    let place = Place::new(project, folder.path(), |step| ANEW.contains(&step))?;
    ui.notice("a build on a full disk, and on a read-only one");
    place.disk_is_full()?;
    place.cache_is_read_only()?;
    ui.notice("builds that are killed");
    place.killed(ui)?;
    place.out_is_full()?;
    ui.notice("a build without root");
    place.forget()?;
    succeed(place.unshared(&["--map-user=1000", "--map-group=1000"], "exec \"$@\""))?;
    place.is_the_same().context("built without root")?;
    ui.notice("two builds at once");
    place.two_at_once()?;
    ui.notice("why a step would be built anew, and a root that does not fit");
    place.change_is_named()?;
    place.root_is_too_large()?;
    ui.notice("the other commands");
    super::commands::run(&place)
}

/// Builds every step a second time, in another place, and compares; the kernel only if asked for.
pub fn repeat(ui: &Ui, project: &Project, with_kernel: bool) -> Result<()> {
    let kernel = if with_kernel { "" } else { " but the kernel" };
    ui.notice(&format!("every step{kernel} a second time, in another place"));
    let folder = tempfile::tempdir().context("making a folder for builds")?;
    let behind = recipes::graph(&project.sources)?.behind(IMAGE);
    let is_anew = |step: &str| behind.contains(step) && (with_kernel || step != KERNEL);
    let mut place = Place::new(project, folder.path(), is_anew)?;
    succeed(place.image())?;
    // What only a borrowed step is made of was not needed.
    let store = place.store()?;
    place.anew.retain(|step| store.has(&place.recipes[step].entry()));
    place.is_the_same().context("built a second time")?;
    let steps: Vec<_> = place.anew.iter().filter(|step| !step.ends_with(OF_CARGO)).cloned().collect();
    ui.notice(&format!("the same bytes again: {}", steps.join(", ")));
    Ok(())
}

/// A copy of the checkout, and a cache of its own.
pub struct Place<'a> {
    project: &'a Project,
    recipes: LastBuild,
    /// The steps that are built here.
    anew: Vec<String>,
    root: PathBuf,
    cache: PathBuf,
}

impl<'a> Place<'a> {
    fn new(project: &'a Project, folder: &Path, is_anew: impl Fn(&str) -> bool) -> Result<Self> {
        let recipes = recipes::graph(&project.sources)?.recipes();
        let place = Self {
            project,
            anew: recipes.keys().filter(|step| is_anew(step)).cloned().collect(),
            recipes,
            root: folder.join("checkout"),
            cache: folder.join("cache"),
        };
        fs::create_dir_all(&place.root)?;
        copy_checkout(&project.sources.config.root, &place.root)?;
        let store = Store::open(&place.cache)?;
        let theirs = project.store.cache();
        symlink(theirs.join("downloads"), place.cache.join("downloads"))?;
        for (step, recipe) in &place.recipes {
            let entry = theirs.join("store").join(recipe.entry());
            if !place.anew.contains(step) && entry.exists() {
                symlink(entry, store.cache().join("store").join(recipe.entry()))?;
            }
        }
        Ok(place)
    }

    /// `image` on the copy, told in JSON.
    fn image(&self) -> Result<Command> {
        self.program(&["image"])
    }

    /// The program with these words, on the copy.
    pub fn program(&self, words: &[&str]) -> Result<Command> {
        Ok(self.with_arguments(Command::new(std::env::current_exe()?), words))
    }

    fn with_arguments(&self, command: Command, words: &[&str]) -> Command {
        let mut command = self.on_copy(command, words);
        command.args(["--offline", "--message-format", "json"]);
        command
    }

    /// The program as people start it, on the copy: with a network, and told in lines.
    pub fn program_for_people(&self, words: &[&str]) -> Result<Command> {
        Ok(self.on_copy(Command::new(std::env::current_exe()?), words))
    }

    fn on_copy(&self, mut command: Command, words: &[&str]) -> Command {
        command.args(words).args(["--board", self.board()]).arg("--root").arg(&self.root);
        command.env("DPUKIT_CACHE", &self.cache).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `image` in a user namespace of its own, behind a line of shell that gets it as `$@`.
    fn unshared(&self, arguments: &[&str], script: &str) -> Result<Command> {
        let mut command = Command::new("unshare");
        command.arg("--user").args(arguments).args(["sh", "-ec", script, "sh"]);
        command.arg(std::env::current_exe()?);
        Ok(self.with_arguments(command, &["image"]))
    }

    /// The copy of the checkout.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The name of the board that is built.
    pub fn board(&self) -> &str {
        &self.project.sources.config.board.name
    }

    /// The copy's own store.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.cache)
    }

    /// The name of a step's entry.
    pub fn entry(&self, step: &str) -> String {
        self.recipes[step].entry()
    }

    /// Forgets what was built anew.
    fn forget(&self) -> Result<()> {
        let store = self.store()?;
        self.anew.iter().try_for_each(|step| store.remove(&self.recipes[step].entry()))
    }

    /// What was built must be, to the byte, what the user's own checkout and cache made.
    pub fn is_the_same(&self) -> Result<()> {
        let store = self.store()?;
        let mut others = Vec::new();
        for step in self.anew.iter().filter(|step| !step.ends_with(OF_CARGO)) {
            let entry = self.recipes[step].entry();
            if store.meta(&entry)?.content != self.project.store.meta(&entry)?.content {
                others.push(step.as_str());
            }
        }
        ensure!(others.is_empty(), "other contents in another place, of: {}", others.join(", "));
        Ok(())
    }

    fn disk_is_full(&self) -> Result<()> {
        let work = self.cache.join("work");
        let script = format!("mount -t tmpfs -o size=64m tmpfs '{}'; exec \"$@\"", work.display());
        let command = self.unshared(&["--map-root-user", "--mount"], &script);
        fail(command, &["No space left on device", "hint:", "DPUKIT_CACHE"])
    }

    /// No room for the results: nothing of them is left, and what was built is kept.
    fn out_is_full(&self) -> Result<()> {
        let out = self.root.join("out");
        let script = format!(
            "mount -t tmpfs -o size=64m tmpfs '{out}'; \"$@\" || {{ code=$?; \
             test -z \"$(find '{out}' -name '*.part')\" || code=9; exit $code; }}",
            out = out.display()
        );
        let command = self.unshared(&["--map-root-user", "--mount"], &script);
        fail(command, &["No space left on device", "hint: free some space there"])?;
        self.is_the_same().context("built without room for the results")
    }

    fn cache_is_read_only(&self) -> Result<()> {
        let cache = self.cache.display();
        let script =
            format!("mount --bind '{cache}' '{cache}'; mount -o remount,bind,ro '{cache}'; exec \"$@\"");
        let command = self.unshared(&["--map-root-user", "--mount"], &script);
        fail(command, &["Read-only file system", &self.cache.to_string_lossy(), "hint:", "DPUKIT_CACHE"])
    }

    /// Kills builds at moments that the last commit's hash chooses, then builds to the end.
    fn killed(&self, ui: &Ui) -> Result<()> {
        let mut inside = 0;
        for kill in 0..KILLS {
            let mut child = self.image()?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
            let seed = Hash::of(format!("{} {kill}", self.recipes[IMAGE].entry()));
            std::thread::sleep(KILL_WITHIN.mul_f64(fraction(&seed)));
            inside += u32::from(child.try_wait()?.is_none());
            // Only the builder itself: what it started must not outlive it.
            child.kill()?;
            child.wait()?;
        }
        ensure!(inside > 0, "no build was still running when it was killed");
        succeed(self.image())?;
        self.is_the_same().context("built after kills")?;
        let left: Vec<_> = fs::read_dir(self.cache.join("work"))?.filter_map(Result::ok).collect();
        ensure!(left.is_empty(), "killed builds left {left:?}, and the next did not take it away");
        ui.notice(&format!("{inside} of {KILLS} were killed at work; the next build did the rest"));
        Ok(())
    }

    fn two_at_once(&self) -> Result<()> {
        self.forget()?;
        // Both write their results into the checkout too.
        fs::remove_dir_all(self.root.join("out")).context("removing the results")?;
        let start = Instant::now();
        let children = [self.image()?.spawn()?, self.image()?.spawn()?];
        let mut built = BTreeMap::<String, u32>::new();
        for output in children.map(Child::wait_with_output) {
            let output = output?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let event: serde_json::Value = serde_json::from_str(line)?;
                if event["event"] == "finished" && event["built"] == true {
                    *built.entry(event["step"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
                }
            }
        }
        for step in &self.anew {
            let times = built.get(step).copied().unwrap_or_default();
            if times != 1 {
                bail!("step `{step}` was built {times} times by two builds, after {:?}", start.elapsed());
            }
        }
        self.is_the_same().context("built by two at once")
    }

    /// `store why` must name what changed since the last build, and nothing else.
    fn change_is_named(&self) -> Result<()> {
        let why = |step| -> Result<String> {
            let output = succeed(self.program(&["store", "why", step]))?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let nothing = why(KERNEL)?;
        ensure!(nothing.starts_with("nothing that enters `kernel` changed"), "{nothing}");
        let file = self.root.join("kernel-config/storage.config");
        let before = fs::read_to_string(&file)?;
        fs::write(&file, format!("{before}\n# A better reason.\n"))?;
        let commented = why(KERNEL)?;
        fs::write(&file, format!("{before}\n# A wish more.\nCONFIG_NTFS3_FS=m\n"))?;
        let reason = why(KERNEL)?;
        fs::write(&file, before)?;
        ensure!(commented == nothing, "a comment enters the kernel: {commented}");
        ensure!(
            reason == "kernel-config: `file kernel-config/storage.config` changed",
            "`store why kernel` says, after a change of `storage.config`: {reason}"
        );
        let error = fail(self.program(&["store", "why", "kernle"]), &["has no step `kernle`", "kernel"]);
        error.context("asking for a step that there is not")
    }

    /// A root larger than its slot must fail, with what is largest in it.
    fn root_is_too_large(&self) -> Result<()> {
        let file = self.root.join(format!("image/boards/{}.toml", self.project.sources.config.board.name));
        let before = fs::read_to_string(&file)?;
        let small = format!("root = \"{}MiB\"", self.project.sources.config.board.disk.root >> 20);
        ensure!(before.contains(&small), "`{}` does not say `{small}`", file.display());
        fs::write(&file, before.replace(&small, "root = \"32MiB\""))?;
        let largest = ["its slot has 33554432", "the largest in it", "containerd", "hint:", "disk.root"];
        let failed = fail(self.image(), &largest);
        fs::write(&file, before)?;
        failed
    }
}

/// A program must end well.
pub fn succeed(command: Result<Command>) -> Result<Output> {
    let output = command?.output().context("starting a build")?;
    ensure!(output.status.success(), "a build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// The build must fail, and its error must hold `words`.
pub fn fail(command: Result<Command>, words: &[&str]) -> Result<()> {
    let output = command?.output().context("starting a build")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "a build that must fail ended with {}:\n{errors}",
        output.status
    );
    let missing: Vec<_> = words.iter().filter(|word| !errors.contains(**word)).collect();
    ensure!(missing.is_empty(), "the error does not hold {missing:?}:\n{errors}");
    Ok(())
}

/// A number from 0 to 1 out of a hash's first digits.
fn fraction(seed: &Hash) -> f64 {
    u16::from_str_radix(&seed.to_string()[..4], 16)
        .map_or(0.5, |number| f64::from(number) / f64::from(u16::MAX))
}
