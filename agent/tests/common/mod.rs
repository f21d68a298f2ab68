//! Running a test in namespaces of its own.

use std::process::Command;

const INSIDE: &str = "DPU_AGENT_TEST_INSIDE";

/// Whether this process is already inside. If not, runs the test of this name again in new
/// namespaces (`unshare`'s options), and fails as it fails.
pub fn inside(test: &str, options: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes namespaces and mounts: run it as root, or leave `--include-ignored` away"
    );
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(options).arg("--").arg(program).args(["--exact", test, "--include-ignored", "--nocapture"]);
    let output = command.env(INSIDE, "1").output().expect("`unshare` of util-linux is needed");
    // A name that no test has would end well, too.
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(
        output.status.success() && passed,
        "{command:?}: {}\nstdout:\n{}\nstderr:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Runs a program that must end well.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\nstdout:\n{}\nstderr:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
