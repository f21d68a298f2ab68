//! Standard programs, as `ip`, that must end well.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Runs a program that must end well; words are parted by one space.
pub fn run(line: &str) -> String {
    try_run(line).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a program; what it said where it ended badly.
pub fn try_run(line: &str) -> Result<String, String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{line}: {}", shown(&output)));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}

/// Runs `ip` once for many lines.
pub fn ip(namespace: &str, lines: &[String]) {
    let mut command = Command::new("ip");
    if !namespace.is_empty() {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("`ip` of iproute2 is needed");
    child.stdin.take().unwrap().write_all(lines.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?} of {lines:#?}: {}", shown(&output));
}

/// How a program ended, and what it said.
pub fn shown(output: &Output) -> String {
    format!(
        "{}\nstdout:\n{}\nstderr:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// What `ip` shows of a namespace; of the host's where none is named.
pub fn show(namespace: &str, what: &str) -> Vec<Value> {
    let inside = if namespace.is_empty() { String::new() } else { format!("-n {namespace} ") };
    // `ip` prints nothing at all where there is nothing.
    match serde_json::from_str(&run(&format!("ip {inside}-json {what} show"))) {
        Ok(Value::Array(shown)) => shown,
        _ => Vec::new(),
    }
}

/// An interface as `ip` shows it; in the host's namespace where none is named.
pub fn link(namespace: &str, name: &str) -> Option<Value> {
    show(namespace, "link").into_iter().find(|link| link["ifname"] == name)
}

/// Waits until `is_so`, at most so long.
pub fn wait_until(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + most;
    while !is_so() {
        assert!(Instant::now() < end, "never in {most:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
