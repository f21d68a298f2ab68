//! Bytes to and from a card: over a serial line, a unix socket (an emulator's), or TCP (a terminal server's).

use std::fmt;
use std::fs;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{self, ControlModes, OptionalActions, QueueSelector};

use crate::hint::WithHint as _;

/// How long a line may take no bytes from us.
const WRITE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);

/// Bytes to and from a card.
pub trait Link {
    /// Reads what is there, or comes within a time. None where nothing came; 0 where the other end is closed.
    fn read(&mut self, buffer: &mut [u8], within: Duration) -> io::Result<Option<usize>>;
    /// Writes all of them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Where a console is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Serial(PathBuf),
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        if let Some(address) = text.strip_prefix("tcp:") {
            let has_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
            return match address.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && has_port(port) => Ok(Self::Tcp(address.into())),
                _ => Err("write it as `tcp:HOST:PORT`".into()),
            };
        }
        if text.starts_with('/') {
            return Ok(Self::Serial(text.into()));
        }
        Err("write `/dev/ttyUSB0`, `unix:PATH` or `tcp:HOST:PORT`".into())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(path) => write!(f, "{}", path.display()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Place {
    /// Opens the console; `baud` is of a serial line.
    pub fn open(&self, baud: u32) -> Result<Box<dyn Link>> {
        let descriptor = match self {
            Self::Serial(path) => serial(path, baud)?,
            Self::Unix(path) => UnixStream::connect(path)
                .with_context(|| format!("connecting to the console `{self}`"))
                .hint(|| "start the emulator first, with its serial port on this socket".into())?
                .into(),
            Self::Tcp(address) => tcp(address)
                .with_context(|| format!("connecting to the console `{self}`"))
                .hint(|| "look whether the terminal server has the port open, and to one user only".into())?
                .into(),
        };
        Ok(Box::new(Descriptor(descriptor)))
    }
}

/// A link over an open file of any kind.
#[derive(Debug)]
pub struct Descriptor(pub OwnedFd);

impl Link for Descriptor {
    fn read(&mut self, buffer: &mut [u8], within: Duration) -> io::Result<Option<usize>> {
        if !ready(&self.0, PollFlags::IN, within)? {
            return Ok(None);
        }
        match rustix::io::read(&self.0, buffer) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if !ready(&self.0, PollFlags::OUT, WRITE)? {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it takes no bytes"));
            }
            match rustix::io::write(&self.0, bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn ready(file: &OwnedFd, flags: PollFlags, within: Duration) -> io::Result<bool> {
    let mut files = [PollFd::new(file, flags)];
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match poll(&mut files, Some(&within)) {
        // An error or a hang-up makes it ready too: the read or write then says which.
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn tcp(address: &str) -> Result<TcpStream> {
    let mut last = anyhow!("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// A serial line of our own: raw, 8N1, no flow control, and closed to other programs.
fn serial(path: &Path, baud: u32) -> Result<OwnedFd> {
    let shown = path.display();
    if let Some(holder) = lock_file(path) {
        return busy(path, &format!("process {holder} has a lock file on it"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let line = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(line) => line,
        Err(Errno::BUSY) => return busy(path, &holders(path)),
        Err(Errno::ACCESS | Errno::PERM) => {
            return Err(anyhow!("no permission to open `{shown}`"))
                .hint(|| "run `sudo usermod -a -G dialout $USER` and log in anew, or use `sudo`".into());
        }
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            return Err(anyhow!("there is no serial line `{shown}`")).hint(|| match others() {
                others if others.is_empty() => {
                    "this machine has no USB serial line: look at the cable, and at `dmesg`".into()
                }
                others => format!("there is: {}", others.join(", ")),
            });
        }
        Err(error) => bail!("opening `{shown}`: {error}"),
    };
    ensure!(termios::isatty(&line), "`{shown}` is no serial line");
    if rustix::fs::flock(&line, FlockOperation::NonBlockingLockExclusive).is_err() {
        return busy(path, &holders(path));
    }
    let setting = || format!("setting up `{shown}`");
    termios::ioctl_tiocexcl(&line).with_context(setting)?;
    let mut modes = termios::tcgetattr(&line).with_context(setting)?;
    modes.make_raw();
    modes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    modes.control_modes &= !(ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::PARENB);
    modes.set_speed(baud).with_context(|| format!("{baud} is no speed that `{shown}` knows"))?;
    termios::tcsetattr(&line, OptionalActions::Now, &modes).with_context(setting)?;
    termios::tcflush(&line, QueueSelector::IFlush).with_context(setting)?;
    Ok(line)
}

fn busy<T>(path: &Path, who: &str) -> Result<T> {
    Err(anyhow!("`{}` is in use: {who}", path.display())).hint(|| {
        "end the other program (`screen`: Ctrl-A K; `minicom`: Ctrl-A X; `picocom`: Ctrl-A Ctrl-X)".into()
    })
}

/// The living process that has a lock file on the line, as minicom and others make them (FHS 3.0, 5.9).
fn lock_file(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let text = fs::read_to_string(format!("/var/lock/LCK..{name}")).ok()?;
    let process: u32 = text.split_whitespace().next()?.parse().ok()?;
    (process != std::process::id() && Path::new(&format!("/proc/{process}")).exists()).then_some(process)
}

/// Who has the line open, as far as we may see.
fn holders(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |folder: &Path| {
        let files = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|open| open == path)
    };
    let own = std::process::id().to_string();
    let found: Vec<_> = processes
        .filter(|process| {
            let name = process.file_name();
            let name = name.to_string_lossy();
            name.bytes().all(|byte| byte.is_ascii_digit()) && name != own && holds(&process.path())
        })
        .map(|process| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("`{}` (process {})", name.trim(), process.file_name().to_string_lossy())
        })
        .collect();
    if found.is_empty() { "by a program of another user".into() } else { format!("by {}", found.join(", ")) }
}

fn others() -> Vec<String> {
    let names = fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| file.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter(|name| name.starts_with("ttyUSB") || name.starts_with("ttyACM"))
        .map(|name| format!("/dev/{name}"))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// A stand-in for a serial line: a terminal of the system, with our end of it.
    fn line() -> (OwnedFd, PathBuf) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap();
        (ours, PathBuf::from(name.into_string().unwrap()))
    }

    fn error(place: &Place) -> String {
        crate::hint::report(&place.open(115_200).err().unwrap())
    }

    #[test]
    fn a_console_is_named_by_its_kind() {
        let places = ["/dev/ttyUSB0", "unix:/run/card", "tcp:server:2001", "tcp:[::1]:23"];
        for text in places {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        for text in
            ["ttyUSB0", "unix:", "tcp:", "tcp:server", "tcp::23", "tcp:server:0", "tcp:server:port", ""]
        {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_serial_line_is_raw_and_ours_alone() {
        let (ours, path) = line();
        let place = Place::Serial(path.clone());
        let mut link = place.open(115_200).unwrap();
        rustix::io::write(&ours, b"U-Boot\r\n").unwrap();
        let mut buffer = [0; 64];
        let count = link.read(&mut buffer, Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(&buffer[..count], b"U-Boot\r\n");
        link.write(b"\r\x03").unwrap();
        let count = rustix::io::read(&ours, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"\r\x03");
        assert!(link.read(&mut buffer, Duration::from_millis(10)).unwrap().is_none());
        let told = error(&place);
        assert!(told.contains("is in use"), "{told}");
        // The cable is pulled.
        drop(ours);
        assert!(matches!(link.read(&mut buffer, Duration::from_secs(5)), Ok(Some(0)) | Err(_)));
    }

    #[test]
    fn what_is_no_console_is_told() {
        assert!(
            error(&Place::Serial("/dev/ttyNONE".into())).contains("there is no serial line `/dev/ttyNONE`")
        );
        assert!(error(&Place::Serial("/dev/null".into())).contains("`/dev/null` is no serial line"));
        assert!(error(&Place::Unix("/nonexistent".into())).contains("hint: start the emulator first"));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(error(&Place::Tcp(format!("127.0.0.1:{free}"))).contains("connecting to the console"));
    }

    #[test]
    fn who_has_a_file_open_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line");
        fs::write(&path, "").unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(fs::File::open(&path).unwrap())
            .spawn()
            .unwrap();
        let told = holders(&path);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(told.contains("process"), "{told}");
    }
}
