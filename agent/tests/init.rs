//! The first process' preparation with real mounts: a disk image, a root of its own, and namespaces
//! around them. Only the way to the data partition is made up, as it leads through the disk that the
//! root is on.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chroot};
use std::path::{Path, PathBuf};

use anyhow::Result;
use common::{inside, run};
use dpu_agent::init::{self, Left, Level, Mount, Real, System};
use dpu_agent::storage::Partition;

const OPTIONS: [&str; 2] = ["--mount", "--fork"];

/// The real system, with a loop device for the data partition.
struct Looped {
    real: Real,
    device: String,
}

impl System for Looped {
    fn is_mounted(&self, target: &str) -> bool {
        self.real.is_mounted(target)
    }

    fn mount(&self, mount: &Mount) -> Result<()> {
        self.real.mount(mount)
    }

    fn make_folder(&self, path: &str, mode: u32) -> Result<()> {
        self.real.make_folder(path, mode)
    }

    fn data_partition(&self) -> Result<Partition> {
        Ok(Partition { disk: self.device.clone(), name: self.device.clone(), number: 5 })
    }

    fn begin(&self) -> Result<bool> {
        self.real.begin()
    }

    fn left(&self, node: &str) -> Left {
        self.real.left(node)
    }

    fn repair(&self, node: &str, level: Level) -> Result<()> {
        self.real.repair(node, level)
    }

    fn say(&self, _: Level, text: &str) {
        println!("said: {text}");
    }

    fn leave(&self, path: &str, text: &str) -> Result<()> {
        self.real.leave(path, text)
    }
}

/// A loop device over a file of 32 MiB, freed at the end.
struct Loop(String);

impl Loop {
    fn over(file: &Path) -> Self {
        Self(run("losetup", &["--find", "--show", file.to_str().unwrap()]).trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn disk(folder: &Path) -> PathBuf {
    let disk = folder.join("disk.img");
    fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    run("mke2fs", &["-q", "-t", "ext4", disk.to_str().unwrap()]);
    disk
}

/// Makes a root as an image has it, and prepares it in a process that is thrown away: a card that is
/// started once. `then` runs in the prepared root.
fn start(folder: &Path, disk: &Path, then: &str) -> String {
    let device = Loop::over(disk);
    let root = folder.join("root");
    for path in ["data", "dev", "etc", "proc", "root", "run", "sys", "var", "tmp"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join("etc/hostname"), "virt\n").unwrap();
    for program in ["/usr/sbin/e2fsck", "/bin/sh", "/bin/cat", "/bin/rm"] {
        copy_program(Path::new(program), &root);
    }
    let program = std::env::current_exe().unwrap();
    run(
        "unshare",
        &[
            "--mount",
            "sh",
            "-euc",
            // The root is a mount of its own, and read-only, as on a card.
            "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"; shift; exec \"$@\"",
            "sh",
            root.to_str().unwrap(),
            "env",
            &format!("PREPARE_ROOT={}", root.display()),
            &format!("PREPARE_DEVICE={}", device.0.trim_start_matches("/dev/")),
            &format!("PREPARE_THEN={then}"),
            program.to_str().unwrap(),
            "--exact",
            "prepare_here",
            "--include-ignored",
            "--nocapture",
        ],
    )
}

fn copy_program(program: &Path, root: &Path) {
    let libraries = run("ldd", &[program.to_str().unwrap()]);
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for file in libraries.chain([program]) {
        let to = root.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
}

/// Not a test by itself: what [`start`] runs in the namespace that it makes.
#[test]
#[ignore = "is run by the other tests"]
fn prepare_here() {
    let Ok(root) = std::env::var("PREPARE_ROOT") else { return };
    chroot(&root).unwrap();
    std::env::set_current_dir("/").unwrap();
    let device = std::env::var("PREPARE_DEVICE").unwrap();
    init::prepare(&Looped { real: Real::new(), device });
    println!("mode of /root: {:o}", fs::metadata("/root").unwrap().mode() & 0o7777);
    print!("{}", run("/bin/sh", &["-euc", &std::env::var("PREPARE_THEN").unwrap()]));
}

const MOUNTS: &str = "cat /proc/self/mountinfo; ";

#[test]
#[ignore = "needs root, for mounts"]
fn what_is_written_is_there_at_the_next_start() {
    if !inside("what_is_written_is_there_at_the_next_start", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let write = "echo node1-dpu >/etc/hostname; echo a >/etc/new; echo b >/var/new; echo c >/root/new; rm /data/fresh";
    let first = start(folder.path(), &disk, &format!("{MOUNTS}{write}"));
    assert!(first.contains(" / /data rw,noatime"), "{first}");
    assert!(first.contains(" /var /var rw,noatime"), "{first}");
    assert!(first.contains(" /root /root rw,noatime"), "{first}");
    assert!(first.contains(" /etc rw,noatime") && first.contains("upperdir=/data/etc/upper"), "{first}");
    assert!(first.contains("mode of /root: 700"), "{first}");
    assert!(!first.contains("said:"), "{first}");

    let second =
        start(folder.path(), &disk, "cat /etc/hostname /etc/new /var/new /root/new; test ! -e /run/dpukit");
    assert!(second.contains("node1-dpu\na\nb\nc\n"), "{second}");
    // The image's own file is as it was.
    assert_eq!(fs::read_to_string(folder.path().join("root/etc/hostname")).unwrap(), "virt\n");
}

#[test]
#[ignore = "needs root, for mounts"]
fn a_first_start_that_does_not_settle_is_made_again() {
    if !inside("a_first_start_that_does_not_settle_is_made_again", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    let write = "echo a >/etc/new; echo b >/var/new; echo c >/root/new; test -e /data/fresh";
    start(folder.path(), &disk, write);
    let look = format!("{MOUNTS} for new in /etc /var /root; do echo $new/*; done; rm /data/fresh");
    let again = start(folder.path(), &disk, &look);
    assert!(again.contains("said: a fresh start"), "{again}");
    assert!(again.contains(" /var /var rw,noatime"), "{again}");
    assert!(!again.contains("/new"), "{again}");
    let settled = start(folder.path(), &disk, "test ! -e /data/fresh");
    assert!(!settled.contains("said:"), "{settled}");
}

#[test]
#[ignore = "needs root, for mounts"]
fn a_damaged_file_system_is_repaired() {
    if !inside("a_damaged_file_system_is_repaired", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    start(folder.path(), &disk, "echo kept >/var/kept; rm /data/fresh");
    // A wrong check sum of the first group's descriptor: the kernel does not mount it, e2fsck -p mends it.
    run("debugfs", &["-w", "-R", "set_bg 0 checksum 1", disk.to_str().unwrap()]);
    let output = start(folder.path(), &disk, "cat /var/kept; test ! -e /run/dpukit");
    assert!(output.contains("repairing `/dev/loop"), "{output}");
    assert!(output.contains("is mounted after a repair"), "{output}");
    assert!(output.contains("kept\n"), "{output}");
}

#[test]
#[ignore = "needs root, for mounts"]
fn a_file_system_that_the_kernel_met_errors_in_is_repaired() {
    if !inside("a_file_system_that_the_kernel_met_errors_in_is_repaired", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    start(folder.path(), &disk, "echo kept >/var/kept; rm /data/fresh");
    run("debugfs", &["-w", "-R", "set_super_value state 2", disk.to_str().unwrap()]);
    let output = start(folder.path(), &disk, "cat /var/kept; test ! -e /run/dpukit");
    assert!(output.contains("the kernel met errors in its file system; repairing"), "{output}");
    assert!(output.contains("kept\n"), "{output}");
    let output = start(folder.path(), &disk, "cat /var/kept");
    assert!(!output.contains("said:"), "{output}");
}

#[test]
#[ignore = "needs root, for mounts"]
fn a_file_system_whose_power_went_is_repaired_before_the_kernel_sees_it() {
    if !inside("a_file_system_whose_power_went_is_repaired_before_the_kernel_sees_it", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path());
    start(folder.path(), &disk, "echo kept >/var/kept; rm /data/fresh");
    run("debugfs", &["-w", "-R", "feature needs_recovery", disk.to_str().unwrap()]);
    let output = start(folder.path(), &disk, "cat /var/kept; test ! -e /run/dpukit");
    assert!(output.contains("its file system was in use at the end; repairing"), "{output}");
    assert!(output.contains("is mounted after a repair"), "{output}");
    assert!(output.contains("kept\n"), "{output}");
}

#[test]
#[ignore = "needs root, for mounts"]
fn a_disk_without_a_file_system_is_replaced_by_memory_and_left_alone() {
    if !inside("a_disk_without_a_file_system_is_replaced_by_memory_and_left_alone", &OPTIONS) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    let noise: Vec<u8> = (0..1_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(&disk, &noise).unwrap();
    let then = format!(
        "{MOUNTS} echo a >/etc/new; echo b >/var/new; echo c >/root/new; cat /run/dpukit/data-fallback"
    );
    let output = start(folder.path(), &disk, &then);
    assert!(output.contains("LOST AT THE NEXT START"), "{output}");
    assert!(output.contains(" / /data rw,nosuid,nodev") && output.contains("- tmpfs tmpfs"), "{output}");
    assert!(output.contains("\nmounting `/dev/loop"), "{output}");
    assert_eq!(fs::read(&disk).unwrap(), noise);
}
