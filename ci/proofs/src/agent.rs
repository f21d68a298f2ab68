//! The card's agent as a process in the card's namespace, which can be killed and started again.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::programs;
use crate::run::shown;
use crate::sysfs::Files;

/// The address of the card on the link to the host, and that of the host.
pub const LINK: (&str, &str) = ("192.168.1.1", "192.168.1.2");
/// Where the agent answers.
pub const PORT: u16 = 8000;

/// Where the card's files have the agent's words.
const LOG: &str = "/var/log/agent.log";

/// The agent.
pub struct Agent {
    /// The card's files.
    pub files: Files,
    running: Mutex<Option<Child>>,
}

impl Agent {
    /// One that is not started yet, with the card's files.
    pub fn new(files: Files) -> Self {
        Self { files, running: Mutex::new(None) }
    }

    /// Where it answers.
    pub fn address() -> SocketAddr {
        SocketAddr::new(LINK.0.parse().unwrap(), PORT)
    }

    /// Starts it, and waits until it listens.
    pub fn start(&self) {
        self.start_only();
        self.wait_until_it_listens();
    }

    /// Starts it.
    pub fn start_only(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "the agent runs already");
        self.files.write("/var/log/.keep", "");
        let log = File::options().append(true).create(true).open(self.files.at(LOG)).unwrap();
        let mut program = Command::new("ip");
        program.args(["netns", "exec", "card"]).arg(programs::agent()).arg("serve");
        program.env("DPUKIT_ROOT", self.files.root()).env("DPU_AGENT_LOG", "info");
        program.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        *running = Some(program.spawn().unwrap());
    }

    /// Runs one of the program's other commands, which must end well; what it prints.
    pub fn command(&self, arguments: &[&str]) -> String {
        let mut program = Command::new("ip");
        program.args(["netns", "exec", "card"]).arg(programs::agent()).args(arguments);
        let output = program.env("DPUKIT_ROOT", self.files.root()).output().unwrap();
        assert!(output.status.success(), "{program:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until a connection is taken.
    pub fn wait_until_it_listens(&self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect_timeout(&Self::address(), Duration::from_millis(200)).is_err() {
            let ended = self.running.lock().unwrap().as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the agent ended with {}\n{}", ended.unwrap(), self.log());
            assert!(Instant::now() < end, "the agent does not listen after {PATIENCE:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        let mut child = self.running.lock().unwrap().take().expect("the agent runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Its process's number.
    pub fn id(&self) -> u32 {
        self.running.lock().unwrap().as_ref().expect("the agent runs").id()
    }

    /// What it said since its first start.
    pub fn log(&self) -> String {
        self.files.read(LOG)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let running = self.running.get_mut().ok().and_then(Option::take);
        if let Some(mut child) = running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
