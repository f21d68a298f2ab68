//! Tests in namespaces of their own.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::run::shown;

const INSIDE: &str = "DPUKIT_PROOFS_INSIDE";

/// Whether this process is in namespaces of its own already. If not, runs the test of this name again in
/// such, and fails as it fails.
///
/// The test is the first process of its namespace: whatever it started ends with it.
pub fn inside(test: &str) -> bool {
    if is_inside() {
        return true;
    }
    assert!(is_root(), "this test makes network namespaces: run it as root");
    let mut command = alone(std::env::current_exe().unwrap().as_os_str());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]);
    let output = command.output().expect("`unshare` of util-linux is needed");
    let out = String::from_utf8_lossy(&output.stdout);
    // A name that no test has would end well, too.
    assert!(output.status.success() && out.contains("1 passed"), "{command:?}: {}", shown(&output));
    // What the test has to say, as its seed, is worth reading when all went well.
    for line in out.lines().filter(|line| line.starts_with("proof: ")) {
        println!("{line}");
    }
    false
}

/// Whether this process is in namespaces of its own already.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a program in namespaces of its own.
pub fn alone(program: &OsStr) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(program).env(INSIDE, "1");
    command
}

/// Whether this process may make namespaces.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
