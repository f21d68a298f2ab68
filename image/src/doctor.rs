//! What of this machine would stop a build, and the mend.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing stands in the way.
    Good,
    /// A build would fail.
    Bad,
    /// It could not be found out.
    Unknown,
}

/// One property of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub name: &'static str,
    /// Whether it is as it must be.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, where something is wrong.
    pub mend: Option<String>,
}

/// Bytes that a whole build of board `virt` takes in the cache, with some to spare.
const SPACE: u64 = 12 << 30;

/// Looks at everything that a build needs of the machine; `cache` is where the store is.
pub fn checks(cache: &Path) -> Vec<Check> {
    vec![
        machine(std::env::consts::OS, std::env::consts::ARCH),
        namespaces(unshares(), &|path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned())),
        space(cache),
        writable(cache),
        program("cargo", "install rustup from https://rustup.rs"),
        program("git", "install git with the machine's package manager"),
    ]
}

fn machine(system: &str, architecture: &str) -> Check {
    let found = format!("{architecture} {system}");
    let good = (system, architecture) == ("linux", "x86_64");
    let mend =
        (!good).then(|| "build on 64-bit x86 Linux: the tool roots are Debian's amd64 packages".into());
    Check { name: "machine", state: if good { State::Good } else { State::Bad }, found, mend }
}

/// Whether a user namespace can be made, as each step needs one.
fn unshares() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "true"]);
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// Steps run in user namespaces (`user_namespaces(7)`); three switches can shut them off, and explain it where
/// `works` is false. They are no hindrance to root.
fn namespaces(works: bool, read: &dyn Fn(&str) -> Option<String>) -> Check {
    let name = "user namespaces";
    if works {
        return Check { name, state: State::Good, found: "one was made".into(), mend: None };
    }
    let switches = [
        ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces", "0", "15000"),
        // Debian's own switch, and Ubuntu's; other kernels lack the files.
        ("kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone", "0", "1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "0",
        ),
    ];
    for (key, path, off, on) in switches {
        if read(path).as_deref() == Some(off) {
            return Check {
                name,
                state: State::Bad,
                found: format!("`{key}` is {off}"),
                mend: Some(format!(
                    "run `sudo sysctl -w {key}={on}`; to keep it, put the line into /etc/sysctl.d"
                )),
            };
        }
    }
    match read("/proc/sys/user/max_user_namespaces") {
        Some(_) => Check {
            name,
            state: State::Bad,
            found: "none can be made, though the kernel has them on".into(),
            mend: Some(
                "in a container, let it make namespaces (for Docker `--security-opt seccomp=unconfined \
                 --security-opt apparmor=unconfined`); `unshare --user true` says more"
                    .into(),
            ),
        },
        None => Check {
            name,
            state: State::Bad,
            found: "the kernel has none".into(),
            mend: Some("use a kernel with `CONFIG_USER_NS`".into()),
        },
    }
}

fn space(cache: &Path) -> Check {
    let name = "disk space";
    let there = there_already(cache);
    match rustix::fs::statvfs(there) {
        Err(error) => Check {
            name,
            state: State::Unknown,
            found: format!("`{}`: {error}", there.display()),
            mend: Some("name another folder with `DPUKIT_CACHE`".into()),
        },
        Ok(stat) => room(cache, stat.f_bavail.saturating_mul(stat.f_frsize), cache.join("store").is_dir()),
    }
}

/// A store that is there already holds most of what a build needs.
fn room(cache: &Path, free: u64, has_store: bool) -> Check {
    let needed = if has_store { SPACE / 4 } else { SPACE };
    let good = free >= needed;
    Check {
        name: "disk space",
        state: if good { State::Good } else { State::Bad },
        found: format!("{} GiB free for `{}`, {} wanted", free >> 30, cache.display(), needed >> 30),
        mend: (!good).then(|| {
            "free some, or name a folder on a larger disk with `DPUKIT_CACHE`; `cargo xtask store gc` frees old steps"
                .into()
        }),
    }
}

/// The folder that the cache is in, or would be made in.
fn there_already(cache: &Path) -> &Path {
    cache.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

fn writable(cache: &Path) -> Check {
    let there = there_already(cache);
    let (state, found, mend) = match tempfile::tempfile_in(there) {
        Ok(_) => (State::Good, format!("`{}` can be written", there.display()), None),
        Err(error) => (
            State::Bad,
            format!("`{}`: {error}", there.display()),
            Some("name a folder that you can write to with `DPUKIT_CACHE`".to_owned()),
        ),
    };
    Check { name: "cache", state, found, mend }
}

fn program(name: &'static str, mend: &str) -> Check {
    let output = Command::new(name).arg("--version").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Check { name, state: State::Good, found, mend: None }
        }
        Ok(output) => Check {
            name,
            state: State::Bad,
            found: format!("ended with {}", output.status),
            mend: Some(mend.into()),
        },
        Err(error) => Check { name, state: State::Bad, found: error.to_string(), mend: Some(mend.into()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_switch_that_shuts_namespaces_off_is_named_with_its_mend() {
        let with = |off: &'static str, value: &'static str| {
            namespaces(false, &move |path| {
                Some(
                    if path.ends_with(off) {
                        value
                    } else if path.contains("apparmor") {
                        "0"
                    } else {
                        "1"
                    }
                    .to_owned(),
                )
            })
        };
        for (switch, value) in [
            ("max_user_namespaces", "0"),
            ("unprivileged_userns_clone", "0"),
            ("restrict_unprivileged_userns", "1"),
        ] {
            let check = with(switch, value);
            assert_eq!(check.state, State::Bad, "{switch}");
            assert!(check.mend.unwrap().contains(switch));
        }
        let other = with("none of them", "");
        assert!(other.state == State::Bad && other.mend.unwrap().contains("container"));
        assert_eq!(namespaces(false, &|_| None).state, State::Bad);
        // What shuts them off for others is no hindrance to root.
        assert_eq!(namespaces(true, &|_| Some("1".into())).state, State::Good);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable(&folder.path().join("not/yet/there")).state, State::Good);
        assert_eq!(writable(Path::new("/proc/self")).state, State::Bad);
    }

    #[test]
    fn another_machine_and_a_full_disk_are_bad() {
        assert_eq!(machine("linux", "x86_64").state, State::Good);
        assert_eq!(machine("linux", "aarch64").state, State::Bad);
        assert_eq!(machine("macos", "x86_64").state, State::Bad);
        assert_eq!(room(Path::new("/c"), 1 << 30, false).state, State::Bad);
        assert_eq!(room(Path::new("/c"), 13 << 30, false).state, State::Good);
        assert_eq!(room(Path::new("/c"), 4 << 30, true).state, State::Good);
    }
}
