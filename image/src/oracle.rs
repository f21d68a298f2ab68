//! Compares the composed root with what mmdebstrap makes of the same packages, scripts and all.
//!
//! mmdebstrap (the machine's own) installs the locked packages into a folder of its own, their
//! maintainer scripts run by `qemu-user`. Whatever differs afterwards is a fault of the composition, or is
//! declared with its reason in `image/root-differences.toml`.

mod compare;
mod declared;
mod listing;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::deb;
use crate::hint::WithHint as _;
use crate::project::Project;
use crate::recipes::{self, ROOT};
use compare::Difference;
use declared::Declarations;
use listing::Listing;

/// Where declared differences are, in the checkout.
pub const DECLARED: &str = "image/root-differences.toml";

/// Left out of the root like much else; this one dpkg is told of, since `udev` compiles it, which takes minutes here.
const HARDWARE: &str = "/usr/lib/udev/hwdb.d/*";

/// What `qemu-user` is. Its usual processor authenticates pointers (`paciasp` at the head of Debian's functions), and
/// `qemu-user` of Debian 12 computes each code bit by bit: Perl takes four times as long.
const PROCESSOR: &str = "cortex-a72";

/// What the comparison came to.
#[derive(Debug)]
pub struct Comparison {
    /// Paths looked at, on either side.
    pub paths: usize,
    /// How many differences are declared.
    pub declared: usize,
    /// What is wrong, a line each: differences that are not declared, declarations that nothing meets.
    pub wrong: Vec<String>,
    /// How long mmdebstrap took.
    pub took: Duration,
}

/// Why mmdebstrap can't install packages of `architecture` here; none where it can.
pub fn hindrance(architecture: &str) -> Option<String> {
    let qemu = match architecture {
        "arm64" => "qemu-aarch64",
        other => return Some(format!("programs of {other} are not known here")),
    };
    if Command::new("mmdebstrap").arg("--version").output().is_err() {
        return Some("there is no `mmdebstrap`".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("it has to be run by root".into());
    }
    let entry = Path::new("/proc/sys/fs/binfmt_misc").join(qemu);
    match fs::read_to_string(&entry) {
        // Without F the interpreter would have to be in the new root.
        Ok(text) if text.starts_with("enabled") && text.lines().any(is_fixed) => None,
        Ok(_) => Some(format!("`{}` is not enabled with the flag F", entry.display())),
        Err(_) => Some(format!("the machine can't run programs of {architecture}: no `{}`", entry.display())),
    }
}

fn is_fixed(line: &str) -> bool {
    line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F'))
}

/// Installs the packages of the project's root with mmdebstrap and compares the two; the root must have
/// been built.
pub fn run(project: &Project) -> Result<Comparison> {
    let ours = our_root(project)?;
    let folder = tempfile::tempdir().context("making a folder for mmdebstrap")?;
    let repository = folder.path().join("repository");
    let names = lay_out(project, &repository)?;
    let tar = folder.path().join("oracle.tar");
    let start = Instant::now();
    mmdebstrap(&repository, &names, &tar, &folder.path().join("log"))?;
    let took = start.elapsed();
    let sources = &project.sources;
    let path = sources.config.root.join(DECLARED);
    let declarations = Declarations::read(&path)?;
    let component = sources.deb(&sources.config.board.root.packages)?;
    let mut theirs = Listing::read(&tar)?;
    theirs.leave_out(component, &only_theirs(project)?)?;
    let differences = compare::differences(&ours, &theirs);
    Ok(judge(&differences, &declarations, ours.len().max(theirs.len()), took))
}

fn our_root(project: &Project) -> Result<Listing> {
    let graph = recipes::graph(&project.sources)?;
    Listing::read(&project.store.out(&graph.recipe(ROOT).entry()).join("root.tar"))
        .hint(|| "build the image first: `cargo xtask image`".into())
}

fn judge(
    differences: &[Difference],
    declarations: &Declarations,
    paths: usize,
    took: Duration,
) -> Comparison {
    let (declared, open): (Vec<_>, Vec<_>) =
        differences.iter().partition(|difference| declarations.covers(difference));
    let unused = declarations.unused(differences);
    let wrong = open.iter().map(ToString::to_string).chain(unused).collect();
    Comparison { paths, declared: declared.len(), wrong, took }
}

/// Makes a flat repository of the root's packages and of what is needed to install them; returns their
/// names.
fn lay_out(project: &Project, repository: &Path) -> Result<Vec<String>> {
    let sources = &project.sources;
    let root = &sources.config.board.root;
    fs::create_dir_all(repository).with_context(|| format!("making `{}`", repository.display()))?;
    let mut packages = BTreeMap::new();
    // Where both have a package, the root's version counts.
    for component in [&root.oracle, &root.packages] {
        let locked = sources.packages(component)?;
        let wanted: Vec<_> = locked.iter().map(recipes::wanted).collect();
        sources.fetcher.fetch_all(&wanted, &|_| {})?;
        packages.extend(locked.iter().map(|package| (package.name.clone(), package)));
    }
    let mut index = File::create(repository.join("Packages"))?;
    for (name, package) in &packages {
        let from = sources.fetcher.path(&package.sha256);
        let file = format!("{name}.deb");
        std::os::unix::fs::symlink(&from, repository.join(&file))
            .with_context(|| format!("linking `{file}`"))?;
        let control = deb::control(&from)?.remove("control").context("a package without `control`")?;
        let control = String::from_utf8(control).with_context(|| format!("reading `{}`", from.display()))?;
        let (control, size, sha256) = (control.trim_end(), package.size, package.sha256);
        write!(index, "{control}\nFilename: ./{file}\nSize: {size}\nSHA256: {sha256}\n\n")?;
    }
    Ok(packages.into_keys().collect())
}

fn mmdebstrap(repository: &Path, names: &[String], tar: &Path, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("writing `{}`", log.display()))?;
    // It ends with this program, however that ends, and with it all that it started.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"])
        .args(["--mode=root", "--variant=custom", "--architectures=arm64", "--format=tar"])
        .arg(format!("--include={}", names.join(",")))
        .arg(format!("--dpkgopt=path-exclude={HARDWARE}"))
        .arg("")
        .arg(tar)
        .arg(format!("deb [trusted=yes arch=arm64] copy:{} ./", repository.display()))
        .env("QEMU_CPU", PROCESSOR)
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .context("starting `mmdebstrap`")
        .hint(|| "run `ci/install`".into())?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        bail!(
            "`mmdebstrap` ended with {status}; it said at last:\n{}",
            lines[lines.len().saturating_sub(30)..].join("\n")
        );
    }
    Ok(())
}

/// Packages that only mmdebstrap needs: their paths are not compared.
fn only_theirs(project: &Project) -> Result<Vec<std::path::PathBuf>> {
    let sources = &project.sources;
    let root = &sources.config.board.root;
    let ours = sources.packages(&root.packages)?;
    let theirs = sources.packages(&root.oracle)?.iter();
    let only = theirs.filter(|package| ours.iter().all(|other| other.name != package.name));
    Ok(only.map(|package| sources.fetcher.path(&package.sha256)).collect())
}
