//! The first process, `/usr/lib/dpukit/init`: makes `/etc`, `/var` and `/root` writable, then
//! becomes systemd.
//!
//! The root is read-only and there is no initramfs, so this has to happen before systemd reads
//! `/etc`. Nothing here may keep the card from starting: each failure is told on the kernel's log
//! (which the console shows), something that works takes the place of what does not, and why is left
//! in [`FALLBACK`], which `dpu-agent doctor` reports.
//!
//! | what | from |
//! | --- | --- |
//! | `/data` | the partition `data` of the root's disk; else memory |
//! | `/etc` | an overlay over the image's own, changes in `/data/etc/upper`; else in memory |
//! | `/var` | `/data/var`; else memory |
//! | `/root` | `/data/root`; else memory |

mod system;

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::mount::MountFlags;

use crate::storage::{FALLBACK, MOUNT, Partition};

pub use system::Real;

/// What becomes of this process.
pub const SYSTEMD: &str = "/usr/lib/systemd/systemd";

/// How loud a message is: the kernel's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something is lost, or will be.
    Critical = 2,
    /// Something did not work, and something else takes its place.
    Warning = 4,
    /// What was done.
    Info = 6,
}

/// What is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// A device node, a folder to bind, or a name for the mount table.
    pub source: String,
    /// Where to mount it.
    pub target: &'static str,
    /// The file system's type; none to bind `source`.
    pub kind: Option<&'static str>,
    /// The mount's flags.
    pub flags: MountFlags,
    /// The file system's own options.
    pub options: String,
}

/// How a file system was left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Left {
    /// As it should be, or there is none.
    #[default]
    Clean,
    /// In use: its journal is still to be written to its place.
    InUse,
    /// The kernel met errors in it.
    Damaged,
}

/// All that the first process does to the system.
pub trait System {
    /// Whether something is mounted at a path of its own.
    fn is_mounted(&self, target: &str) -> bool;
    /// Mounts.
    fn mount(&self, mount: &Mount) -> Result<()>;
    /// Makes a folder of this mode, where there is none.
    fn make_folder(&self, path: &str, mode: u32) -> Result<()>;
    /// Finds the data partition; waits for a disk that the kernel is still reading.
    fn data_partition(&self) -> Result<Partition>;
    /// Begins with an empty data partition, mounted at its place, where it has to be; whether something was removed.
    fn begin(&self) -> Result<bool>;
    /// How an ext4 file system was left.
    fn left(&self, node: &str) -> Left;
    /// Repairs an ext4 file system as far as it can be done without asking; what that says is as loud as `level`.
    fn repair(&self, node: &str, level: Level) -> Result<()>;
    /// Writes to the kernel's log.
    fn say(&self, level: Level, text: &str);
    /// Leaves the reason of a fall-back for `dpu-agent doctor`.
    fn leave(&self, path: &str, text: &str) -> Result<()>;
}

/// How long to wait for the disk's partitions: `rootwait` waits only for the root's.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the system ready for systemd. Never fails: what cannot be had is replaced.
pub fn prepare(system: &dyn System) {
    mount_kernel_file_systems(system);
    let mut lost = Vec::new();
    match mount_data(system) {
        Ok(()) => begin(system),
        Err(error) => fall_back(system, &mut lost, &error),
    }
    if let Err(error) = lay_out(system) {
        fall_back(system, &mut lost, &error);
        attempt(system, "laying out memory in place of the data partition", lay_out(system));
    }
    mount_etc(system, &mut lost);
    for (source, target, mode) in [("/data/var", "/var", 0o755), ("/data/root", "/root", 0o700)] {
        mount_folder(system, source, target, mode, &mut lost);
    }
    if !lost.is_empty() {
        attempt(
            system,
            "leaving word of what is in memory",
            system.leave(FALLBACK, &(lost.join("\n") + "\n")),
        );
    }
}

fn mount_kernel_file_systems(system: &dyn System) {
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let wanted = [
        ("proc", "/proc", safe | MountFlags::NOEXEC, ""),
        ("sysfs", "/sys", safe | MountFlags::NOEXEC, ""),
        ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
        // As systemd would mount it; it keeps what it finds.
        ("tmpfs", "/run", safe | MountFlags::STRICTATIME, "mode=0755,size=20%,nr_inodes=800k"),
    ];
    for (kind, target, flags, options) in wanted {
        if !system.is_mounted(target) {
            let mount =
                Mount { source: kind.into(), target, kind: Some(kind), flags, options: options.into() };
            attempt(system, "", system.mount(&mount));
        }
    }
}

fn mount_data(system: &dyn System) -> Result<()> {
    let partition = system.data_partition().context("looking for the data partition")?;
    let node = partition.node();
    let mount = Mount {
        source: node.clone(),
        target: MOUNT,
        kind: Some("ext4"),
        flags: MountFlags::NOATIME,
        // What is written after an error may make it worse; the doctor reports a read-only `/data`.
        options: "errors=remount-ro".into(),
    };
    let (level, found) = match system.left(&node) {
        Left::Clean => {
            let Err(error) = system.mount(&mount) else { return Ok(()) };
            (Level::Warning, format!("{error:#}"))
        }
        // The kernel could write the journal to its place, too. But it counts the groups of blocks before that, and one
        // that was cut short while the file system grew would then have new blocks in no group: no file can be written
        // until the next start (`ext4_fill_super` of 6.1's fs/ext4/super.c).
        Left::InUse => (Level::Info, "its file system was in use at the end".to_owned()),
        // It would mount, and be read-only at the first error again.
        Left::Damaged => (Level::Warning, "the kernel met errors in its file system".to_owned()),
    };
    system.say(level, &format!("{found}; repairing `{node}`"));
    attempt(system, "", system.repair(&node, level));
    system.mount(&mount)?;
    system.say(level, &format!("`{node}` is mounted after a repair"));
    Ok(())
}

/// What could not be removed is tried at the next start again.
fn begin(system: &dyn System) {
    match system.begin() {
        Ok(false) => {}
        Ok(true) => system.say(Level::Warning, "a fresh start: what the card kept was removed"),
        Err(error) => system.say(Level::Critical, &format!("the fresh start is not whole: {error:#}")),
    }
}

/// Puts memory in place of the data partition.
fn fall_back(system: &dyn System, lost: &mut Vec<String>, error: &anyhow::Error) {
    let reason = format!("{error:#}");
    system.say(
        Level::Critical,
        &format!("{reason}; ALL CHANGES ARE KEPT IN MEMORY AND LOST AT THE NEXT START"),
    );
    lost.push(reason);
    attempt(system, "", system.mount(&memory(MOUNT, "mode=0755")));
}

fn memory(target: &'static str, options: &str) -> Mount {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Mount { source: "tmpfs".into(), target, kind: Some("tmpfs"), flags, options: options.into() }
}

/// Makes the folders that `/etc`, `/var` and `/root` are made of.
fn lay_out(system: &dyn System) -> Result<()> {
    for (path, mode) in [
        ("/data/var", 0o755),
        ("/data/etc", 0o755),
        ("/data/etc/upper", 0o755),
        ("/data/etc/work", 0o755),
        ("/data/root", 0o700),
    ] {
        system.make_folder(path, mode)?;
    }
    Ok(())
}

fn mount_etc(system: &dyn System, lost: &mut Vec<String>) {
    let Err(error) = system.mount(&etc("/data/etc")) else { return };
    let reason = format!("{error:#}");
    system.say(Level::Critical, &format!("{reason}; CHANGES OF /etc ARE LOST AT THE NEXT START"));
    lost.push(reason);
    let in_memory = || {
        for path in ["/run/dpukit", "/run/dpukit/etc", "/run/dpukit/etc/upper", "/run/dpukit/etc/work"] {
            system.make_folder(path, 0o755)?;
        }
        system.mount(&etc("/run/dpukit/etc"))
    };
    attempt(system, "leaving /etc as it is in the image", in_memory());
}

/// The overlay on `/etc`. Its extras are off, as they tie the changes to one image, and an update
/// puts another image below them (Documentation/filesystems/overlayfs.rst of the kernel, "Changes to
/// underlying filesystems").
fn etc(changes: &str) -> Mount {
    Mount {
        source: "overlay".into(),
        target: "/etc",
        kind: Some("overlay"),
        flags: MountFlags::NOATIME,
        options: format!(
            "lowerdir=/etc,upperdir={changes}/upper,workdir={changes}/work,index=off,metacopy=off,redirect_dir=off"
        ),
    }
}

fn mount_folder(system: &dyn System, source: &str, target: &'static str, mode: u32, lost: &mut Vec<String>) {
    let bind =
        Mount { source: source.into(), target, kind: None, flags: MountFlags::BIND, options: String::new() };
    let Err(error) = system.mount(&bind) else { return };
    let reason = format!("{error:#}");
    system.say(Level::Critical, &format!("{reason}; CHANGES OF {target} ARE LOST AT THE NEXT START"));
    lost.push(reason);
    attempt(system, "", system.mount(&memory(target, &format!("mode={mode:04o}"))));
}

/// Tells of a failure that nothing more can be done about.
fn attempt(system: &dyn System, doing: &str, result: Result<()>) {
    if let Err(error) = result {
        let doing = if doing.is_empty() { String::new() } else { format!("{doing}: ") };
        system.say(Level::Warning, &format!("{doing}{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use anyhow::bail;
    use proptest::prelude::*;

    use super::*;

    /// A system that keeps a list of what was done to it, and in which the operations of the given
    /// numbers fail.
    #[derive(Default)]
    struct Made {
        failing: Vec<usize>,
        mounted: Vec<&'static str>,
        asked_to_forget: bool,
        left: Left,
        done: RefCell<Vec<String>>,
        said: RefCell<Vec<(Level, String)>>,
        count: RefCell<usize>,
    }

    impl Made {
        fn failing(failing: &[usize]) -> Self {
            Self { failing: failing.into(), mounted: vec!["/dev"], ..Self::default() }
        }

        fn run(failing: &[usize]) -> Vec<String> {
            let made = Self::failing(failing);
            prepare(&made);
            made.done.into_inner()
        }

        fn act(&self, what: String) -> Result<()> {
            let mut count = self.count.borrow_mut();
            *count += 1;
            if self.failing.contains(&(*count - 1)) {
                self.done.borrow_mut().push(format!("({what})"));
                bail!("{what} fails");
            }
            self.done.borrow_mut().push(what);
            Ok(())
        }
    }

    impl System for Made {
        fn is_mounted(&self, target: &str) -> bool {
            self.mounted.contains(&target)
        }

        fn mount(&self, mount: &Mount) -> Result<()> {
            let kind = mount.kind.unwrap_or("bind");
            self.act(format!("{kind} {} {}", mount.source, mount.target))
        }

        fn make_folder(&self, path: &str, mode: u32) -> Result<()> {
            self.act(format!("mkdir {path} {mode:o}"))
        }

        fn data_partition(&self) -> Result<Partition> {
            self.act("find".into())?;
            Ok(Partition { disk: "vda".into(), name: "vda5".into(), number: 5 })
        }

        fn begin(&self) -> Result<bool> {
            if self.asked_to_forget {
                self.act("begin".into())?;
            }
            Ok(self.asked_to_forget)
        }

        fn left(&self, _: &str) -> Left {
            self.left
        }

        fn repair(&self, node: &str, _: Level) -> Result<()> {
            self.act(format!("repair {node}"))
        }

        fn say(&self, level: Level, text: &str) {
            self.said.borrow_mut().push((level, text.to_owned()));
        }

        fn leave(&self, path: &str, text: &str) -> Result<()> {
            self.act(format!("leave {path}: {}", text.trim_end().replace('\n', "; ")))
        }
    }

    #[test]
    fn a_good_disk_is_mounted_and_laid_out() {
        insta::assert_debug_snapshot!(Made::run(&[]), @r#"
        [
            "proc proc /proc",
            "sysfs sysfs /sys",
            "tmpfs tmpfs /run",
            "find",
            "ext4 /dev/vda5 /data",
            "mkdir /data/var 755",
            "mkdir /data/etc 755",
            "mkdir /data/etc/upper 755",
            "mkdir /data/etc/work 755",
            "mkdir /data/root 700",
            "overlay overlay /etc",
            "bind /data/var /var",
            "bind /data/root /root",
        ]
        "#);
    }

    #[test]
    fn a_disk_that_does_not_mount_is_repaired_once_and_tried_again() {
        let done = Made::run(&[4]);
        assert_eq!(done[4..7], ["(ext4 /dev/vda5 /data)", "repair /dev/vda5", "ext4 /dev/vda5 /data"]);
        assert!(!done.iter().any(|line| line.starts_with("tmpfs tmpfs /data") || line.starts_with("leave")));
    }

    #[test]
    fn a_file_system_that_was_not_left_clean_is_repaired_before_it_is_mounted() {
        for (left, level) in [(Left::InUse, Level::Info), (Left::Damaged, Level::Warning)] {
            let made = Made { left, ..Made::failing(&[]) };
            prepare(&made);
            assert_eq!(made.done.into_inner()[3..6], ["find", "repair /dev/vda5", "ext4 /dev/vda5 /data"]);
            assert!(made.said.into_inner().iter().all(|(said, _)| *said == level));
        }
    }

    #[test]
    fn a_disk_beyond_repair_is_replaced_by_memory_and_the_reason_left() {
        let done = Made::run(&[4, 6]);
        assert_eq!(done[7], "tmpfs tmpfs /data");
        assert_eq!(done.last().unwrap(), "leave /run/dpukit/data-fallback: ext4 /dev/vda5 /data fails");
    }

    #[test]
    fn a_disk_that_is_not_found_is_replaced_by_memory() {
        let made = Made::failing(&[3]);
        prepare(&made);
        let done = made.done.into_inner();
        assert_eq!(done[3..5], ["(find)", "tmpfs tmpfs /data"]);
        let said = made.said.into_inner();
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].0, Level::Critical);
        assert!(said[0].1.contains("LOST AT THE NEXT START"), "{said:?}");
    }

    #[test]
    fn a_disk_that_cannot_be_written_is_replaced_by_memory() {
        let done = Made::run(&[7]);
        assert_eq!(done[7..9], ["(mkdir /data/etc/upper 755)", "tmpfs tmpfs /data"]);
        assert_eq!(done[9], "mkdir /data/var 755");
        assert!(done.last().unwrap().starts_with("leave"));
    }

    #[test]
    fn changes_of_etc_go_to_memory_where_the_overlay_fails() {
        let done = Made::run(&[10]);
        assert_eq!(done[10], "(overlay overlay /etc)");
        assert_eq!(done[14..16], ["mkdir /run/dpukit/etc/work 755", "overlay overlay /etc"]);
    }

    #[test]
    fn a_folder_that_cannot_be_bound_is_replaced_by_memory() {
        let done = Made::run(&[11, 13]);
        assert_eq!(
            done[11..15],
            ["(bind /data/var /var)", "tmpfs tmpfs /var", "(bind /data/root /root)", "tmpfs tmpfs /root"]
        );
    }

    #[test]
    fn a_card_that_is_to_forget_does_so_before_anything_is_used() {
        let made = Made { asked_to_forget: true, ..Made::failing(&[]) };
        prepare(&made);
        assert_eq!(made.done.into_inner()[4..7], ["ext4 /dev/vda5 /data", "begin", "mkdir /data/var 755"]);
    }

    #[test]
    fn a_reset_that_fails_is_told_and_the_card_starts() {
        let made = Made { asked_to_forget: true, ..Made::failing(&[5]) };
        prepare(&made);
        assert!(made.done.into_inner().contains(&"bind /data/var /var".into()));
        assert_eq!(
            made.said.into_inner(),
            [(Level::Critical, "the fresh start is not whole: begin fails".into())]
        );
    }

    proptest! {
        #[test]
        fn whatever_fails_every_part_is_tried(failing in proptest::collection::vec(0_usize..40, 0..12)) {
            let done = Made::run(&failing);
            for wanted in ["proc proc /proc", "overlay overlay /etc", "bind /data/var /var", "bind /data/root /root"] {
                prop_assert!(done.iter().any(|line| line.trim_matches(['(', ')']) == wanted), "{wanted}: {done:?}");
            }
            // What is not on the disk is told, unless even that failed.
            let lost = done.iter().any(|line| line.starts_with("(bind") || line.starts_with("(overlay"));
            prop_assert!(!lost || done.last().unwrap().contains("leave"), "{done:?}");
        }
    }
}
