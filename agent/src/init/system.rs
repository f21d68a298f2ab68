//! The real system under the first process.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{mount, mount_bind};

use super::{Left, Level, Mount, PATIENCE, System};
use crate::fresh;
use crate::storage::{self, Partition};
use crate::tree::Tree;

/// The system that this process is the first of.
pub struct Real {
    tree: Tree,
}

impl Real {
    /// The running system.
    pub fn new() -> Self {
        Self { tree: Tree::system() }
    }
}

impl Default for Real {
    fn default() -> Self {
        Self::new()
    }
}

impl System for Real {
    fn is_mounted(&self, target: &str) -> bool {
        // `/proc/self/mountinfo` is not there yet: another device than that of `/` tells it too.
        let device = |path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        device(target) != device("/")
    }

    fn mount(&self, what: &Mount) -> Result<()> {
        let Mount { source, target, kind, flags, options } = what;
        let mounted = match kind {
            None => mount_bind(source.as_str(), *target),
            Some(kind) => {
                let options = CString::new(options.as_str()).context("the options hold a zero byte")?;
                mount(source.as_str(), *target, *kind, *flags, options.as_c_str())
            }
        };
        mounted.with_context(|| format!("mounting `{source}` at `{target}`"))
    }

    fn make_folder(&self, path: &str, mode: u32) -> Result<()> {
        let outcome = match DirBuilder::new().mode(mode).create(path) {
            // What an administrator made of the folder's mode is kept.
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists && fs::metadata(path)?.is_dir() =>
            {
                return Ok(());
            }
            created => created.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))),
        };
        outcome.with_context(|| format!("making the folder `{path}`"))
    }

    fn data_partition(&self) -> Result<Partition> {
        let end = Instant::now() + PATIENCE;
        loop {
            match storage::data_partition(&self.tree) {
                Ok(partition) if self.tree.exists(partition.node()) => return Ok(partition),
                Ok(partition) if Instant::now() >= end => bail!("`{}` is not there", partition.node()),
                Err(error) if Instant::now() >= end => return Err(error),
                _ => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        }
    }

    fn begin(&self) -> Result<bool> {
        fresh::begin(&self.tree)
    }

    fn left(&self, node: &str) -> Left {
        // Documentation/filesystems/ext4/super.rst of the kernel: the superblock is at 1024, in it `s_magic` at 0x38,
        // `s_state` behind that, whose second bit tells of errors, and `s_feature_incompat` at 0x60, whose third bit tells
        // that the journal is to be recovered.
        let mut fields = [0; 0x61 - 0x38];
        let read = File::open(node).and_then(|disk| disk.read_exact_at(&mut fields, 1024 + 0x38));
        match fields {
            _ if read.is_err() || fields[..2] != [0x53, 0xef] => Left::Clean,
            _ if fields[2] & 2 != 0 => Left::Damaged,
            _ if fields[0x60 - 0x38] & 4 != 0 => Left::InUse,
            _ => Left::Clean,
        }
    }

    fn repair(&self, node: &str, level: Level) -> Result<()> {
        let line = format!("e2fsck -p {node}");
        let output = Command::new("/usr/sbin/e2fsck")
            .args(["-p", node])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running `{line}`"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().for_each(|line| self.say(level, line));
        // e2fsck(8): 1 is "errors corrected", 2 asks for a new start where it is the root that was
        // repaired; from 4 on, errors are left.
        match output.status.code() {
            Some(0..=3) => Ok(()),
            _ => bail!(
                "`{line}` ended with {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
    }

    fn say(&self, level: Level, text: &str) {
        let line = format!("<{}>dpu-init: {text}\n", level as u8);
        let log = OpenOptions::new().write(true).open("/dev/kmsg");
        if log.and_then(|mut log| log.write_all(line.as_bytes())).is_err() {
            // Without /dev there may still be a console behind standard error; if not, nobody hears.
            let _ = write!(std::io::stderr(), "{line}");
        }
    }

    fn leave(&self, path: &str, text: &str) -> Result<()> {
        self.tree.save(path, text.as_bytes())
    }
}
