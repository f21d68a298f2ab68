//! What is mounted, from `/proc/self/mountinfo` (the format is in `proc_pid_mountinfo(5)`).

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::tree::Tree;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor` of the device, as sysfs' `/sys/dev/block` names it.
    pub device: String,
    /// The folder of the file system that is mounted; not `/` for a bind mount.
    pub inside: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// The file system's type: `ext4`.
    pub kind: String,
    /// What was mounted, as the mounter named it.
    pub source: String,
    /// Options of the mount, then those of the file system.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether the mount has this option.
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }

    /// The value of an option `name=value`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All mounts, the oldest first.
pub fn all(tree: &Tree) -> Result<Vec<Mount>> {
    let path = "/proc/self/mountinfo";
    tree.read(path)?
        .lines()
        .map(|line| parse(line).with_context(|| format!("`{path}` has the line `{line}`, which is no mount")))
        .collect()
}

/// The mount that is seen at `target`: the newest, where several lie over each other.
pub fn at(tree: &Tree, target: impl AsRef<Path>) -> Result<Option<Mount>> {
    let target = target.as_ref();
    Ok(all(tree)?.into_iter().rfind(|mount| mount.target == target))
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let mut next = || mount.next();
    let (device, inside, target, options) = (next()?, next()?, next()?, next()?);
    let mut file_system = file_system.splitn(3, ' ');
    let mut next = || file_system.next();
    let (kind, source, more) = (next()?, next()?, next().unwrap_or_default());
    Some(Mount {
        device: device.to_owned(),
        inside: unescape(inside),
        target: unescape(target),
        kind: kind.to_owned(),
        source: unescape(source).to_string_lossy().into_owned(),
        options: options
            .split(',')
            .chain(more.split(','))
            .filter(|o| !o.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Turns `\040` and the like back: the kernel writes space, tab, line end and backslash so.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if let (b'\\', Some(byte)) = (first, octal(after)) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn octal(text: &[u8]) -> Option<u8> {
    let digits = text.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)))?;
    u8::try_from(digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!(mount.target, Path::new("/mnt 2"));
        assert_eq!((mount.device.as_str(), mount.kind.as_str()), ("98:0", "ext3"));
        assert_eq!((mount.inside.as_path(), mount.source.as_str()), (Path::new("/mnt1"), "/dev/root"));
        assert!(mount.has("noatime") && !mount.has("ro"));
        assert_eq!(mount.option("errors"), Some("continue"));
    }

    #[test]
    fn a_mount_without_a_source_is_read() {
        let line = "25 1 0:23 / /dev/huge rw shared:9 -  - hugetlbfs  rw,pagesize=32M";
        assert!(parse(line).is_some());
        assert_eq!(parse("36 35 98:0 / /mnt rw - ext3").map(|mount| mount.kind), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_the_parser_panic(line in "[ -~]{0,80}") {
            let _ = parse(&line);
            let _ = unescape(&line);
        }

        #[test]
        fn an_escaped_path_comes_back(path in "/[a-z \\\\]{0,20}") {
            let escaped = path.replace('\\', "\\134").replace(' ', "\\040");
            prop_assert_eq!(unescape(&escaped), PathBuf::from(path));
        }
    }
}
