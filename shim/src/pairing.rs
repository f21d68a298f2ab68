//! Pairs this host with its card, and renews what pairing made: `dpu-host pair`.
//!
//! The folder, `/etc/dpukit/tls`, holds what the plugin's configuration names:
//!
//! ```text
//! ca.pem   -> current/ca.pem      the card's authority
//! host.pem -> current/host.pem    the host's certificate
//! host.key -> current/host.key    its private key
//! current  -> sets/3
//! sets/2, sets/3                  the set before, and the one in use
//! ```
//!
//! A new set replaces the old one by one rename, so that key and certificate fit at any time, whatever
//! is killed or loses power.

use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::Tls;
use anyhow::{Context as _, Result, bail};
use dpu_trust::Code;
use dpu_trust::client::{self, Identity};
use dpu_trust::hosts::check_name;
use dpu_trust::keep::{self, Lock};

/// Where the plugin's configuration looks for the files.
pub const FOLDER: &str = "/etc/dpukit/tls";
/// The credential that holds the code where a service pairs (systemd.exec(5), `ImportCredential=`).
const CREDENTIAL: &str = "dpukit.pairing-code";
/// How long before its end a certificate is renewed: before anybody is warned of it.
const DUE: Duration = Duration::from_hours(45 * 24);
const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "host.pem";
const KEY: &str = "host.key";
const NAMES: [&str; 3] = [AUTHORITY, CERTIFICATE, KEY];

/// Make host and card known to each other
///
/// The card shows a code on its console while no host is paired, and where `dpu-agent pairing open` is run on
/// it. The code is read from standard input: it is a secret, and a command line is none.
#[derive(Debug, Clone, clap::Args)]
pub struct PairArguments {
    /// Where the agent on the card answers
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "192.168.1.1:8000")]
    pub agent: SocketAddr,
    /// What the card is to call this host [default: its host name]
    #[arg(long)]
    pub name: Option<String>,
    /// Read the code from this file
    #[arg(long, value_name = "FILE")]
    pub code_file: Option<PathBuf>,
    /// Where certificates and key are kept
    #[arg(long, value_name = "FOLDER", default_value = FOLDER)]
    pub folder: PathBuf,
    /// Get a new key and certificate by those that the host has; needs no code
    #[arg(long, conflicts_with_all = ["name", "code_file"])]
    pub renew: bool,
    /// With `--renew`: only where the certificate ends within so many days
    #[arg(long, value_name = "DAYS", requires = "renew")]
    pub within: Option<u32>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host is paired, under this name.
    Paired(String),
    /// The host has a new key and certificate.
    Renewed,
    /// The certificate is still good for longer.
    NotDue,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paired(name) => write!(f, "paired: the card knows this host as `{name}`"),
            Self::Renewed => write!(f, "renewed: the host has a new key and certificate"),
            Self::NotDue => write!(f, "the certificate is good for longer, nothing was done"),
        }
    }
}

/// Pairs or renews.
///
/// # Errors
/// Where the folder can't be used, which is found out before the card is asked; where the card can't be
/// reached or refuses.
pub fn run(arguments: &PairArguments) -> Result<Outcome> {
    if arguments.renew {
        let within = arguments.within.map(|days| Duration::from_hours(u64::from(days) * 24));
        return renew(arguments.agent, &arguments.folder, within);
    }
    let folder = Folder::open(&arguments.folder)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => host_name()?,
    };
    check_name(&name).context("naming the host: say `--name`")?;
    let code = code(arguments.code_file.as_deref())?;
    folder.put(&block_on(client::pair(arguments.agent, &code, &name))?)?;
    Ok(Outcome::Paired(name))
}

/// Renews what pairing made, where `tls` names it and it ends in less than [`DUE`]; none where nothing is due,
/// or the files are not those of pairing.
pub fn keep_good(agent: SocketAddr, tls: &Tls) -> Result<Option<Outcome>> {
    let Some(path) = tls.certificate.parent() else { return Ok(None) };
    let made_here = [(&tls.ca, AUTHORITY), (&tls.certificate, CERTIFICATE), (&tls.key, KEY)]
        .into_iter()
        .all(|(file, name)| *file == path.join(name) && path.join("current").exists());
    if !made_here {
        return Ok(None);
    }
    // It is asked every few seconds: nothing is written or locked before something is due.
    if client::is_good_at(&read(path)?, dpu_trust::now() + DUE)? {
        return Ok(None);
    }
    // Another process may have been faster.
    let outcome = renew(agent, path, Some(DUE))?;
    Ok(Some(outcome).filter(|outcome| *outcome == Outcome::Renewed))
}

/// Gets a new set, where the one in use ends within so long, or in any case.
fn renew(agent: SocketAddr, path: &Path, within: Option<Duration>) -> Result<Outcome> {
    let folder = Folder::open(path)?;
    let identity = folder.read()?;
    if let Some(within) = within
        && client::is_good_at(&identity, dpu_trust::now() + within)?
    {
        return Ok(Outcome::NotDue);
    }
    folder.put(&block_on(client::renew(agent, &identity))?)?;
    Ok(Outcome::Renewed)
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime for gRPC")?.block_on(work)
}

fn host_name() -> Result<String> {
    const FILE: &str = "/proc/sys/kernel/hostname";
    let name = fs::read_to_string(FILE).with_context(|| format!("reading `{FILE}`"))?;
    Ok(name.trim().to_owned())
}

/// The code: from a file, from the credential of a service, or from a person.
fn code(file: Option<&Path>) -> Result<Code> {
    let credential =
        std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| PathBuf::from(folder).join(CREDENTIAL));
    let file = file.map(Path::to_owned).or_else(|| credential.filter(|file| file.exists()));
    let text = if let Some(file) = file {
        fs::read_to_string(&file).with_context(|| format!("reading the code in `{}`", file.display()))?
    } else {
        if io::stdin().is_terminal() {
            eprint!("The code that the card shows: ");
        }
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).context("reading the code from standard input")?;
        line
    };
    text.parse()
}

/// The folder of sets.
struct Folder {
    path: PathBuf,
    _lock: Lock,
}

impl Folder {
    /// Gets the folder ready for a new set.
    fn open(path: &Path) -> Result<Self> {
        keep::folder(&path.join("sets"))?;
        keep::folder(path)?;
        let folder = Self { path: path.to_owned(), _lock: Lock::take(path)? };
        for name in NAMES {
            folder.link(Path::new("current").join(name).as_path(), name)?;
        }
        // A file that can't be written now could not be written after the code is used up.
        let probe = path.join("sets/probe");
        keep::write(&probe, b"", 0o600)?;
        fs::remove_file(&probe).with_context(|| format!("removing `{}`", probe.display()))?;
        Ok(folder)
    }

    fn read(&self) -> Result<Identity> {
        read(&self.path)
    }

    /// Puts a set into use.
    fn put(&self, identity: &Identity) -> Result<()> {
        let before = self.sets()?;
        let number = before.last().map_or(1, |last| last + 1);
        let set = self.path.join(format!("sets/{number}"));
        keep::folder(&set)?;
        let Identity { authority, certificate, key } = identity;
        for (name, text) in [(AUTHORITY, authority), (CERTIFICATE, certificate), (KEY, key)] {
            keep::write(&set.join(name), text.as_bytes(), 0o600)?;
        }
        let used = fs::read_link(self.path.join("current")).ok();
        sync(&self.path.join("sets"))?;
        self.replace_link(&Path::new("sets").join(number.to_string()), "current")?;
        // The set before stays, for one who is just reading it.
        for old in before {
            let name = Path::new("sets").join(old.to_string());
            if used.as_ref() != Some(&name) {
                let old = self.path.join(name);
                fs::remove_dir_all(&old).with_context(|| format!("removing `{}`", old.display()))?;
            }
        }
        Ok(())
    }

    /// The numbers of the sets that are there.
    fn sets(&self) -> Result<Vec<u64>> {
        let path = self.path.join("sets");
        let listing = || format!("listing `{}`", path.display());
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&path).with_context(listing)? {
            let name = entry.with_context(listing)?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Sees to it that a name leads somewhere. A file that somebody else put there stays.
    fn link(&self, target: &Path, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match fs::read_link(&path) {
            Ok(found) if found == target => Ok(()),
            Ok(_) => self.replace_link(target, name),
            Err(error) if error.kind() == ErrorKind::NotFound => self.replace_link(target, name),
            Err(_) => bail!(
                "`{}` was not made by pairing: move it away, or name another `--folder`",
                path.display()
            ),
        }
    }

    fn replace_link(&self, target: &Path, name: &str) -> Result<()> {
        let (path, beside) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let replace = || {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            symlink(target, &beside)?;
            fs::rename(&beside, &path)
        };
        replace().with_context(|| format!("linking `{}`", path.display()))?;
        sync(&self.path)
    }
}

/// The set in use.
fn read(folder: &Path) -> Result<Identity> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path)
            .with_context(|| format!("reading `{}`: pair host and card to make it", path.display()))
    };
    Ok(Identity { authority: read(AUTHORITY)?, certificate: read(CERTIFICATE)?, key: read(KEY)? })
}

fn sync(folder: &Path) -> Result<()> {
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("writing `{}`", folder.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn identity(text: &str) -> Identity {
        let part = |name: &str| format!("{name} {text}");
        Identity { authority: part("ca"), certificate: part("certificate"), key: part("key") }
    }

    fn texts(identity: &Identity) -> [&str; 3] {
        [&identity.authority, &identity.certificate, &identity.key]
    }

    #[test]
    fn sets_replace_each_other_and_keys_are_their_owners_alone() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("tls");
        let folder = Folder::open(&path).unwrap();
        assert!(folder.read().err().unwrap().to_string().contains("pair host and card to make it"));
        for text in ["1", "2", "3", "4"] {
            folder.put(&identity(text)).unwrap();
            assert_eq!(texts(&folder.read().unwrap()), texts(&identity(text)));
        }
        assert_eq!(folder.sets().unwrap(), [3, 4]);
        for name in NAMES {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        for name in ["", "sets", "sets/4"] {
            let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700, "{name}");
        }
        drop(folder);
        let folder = Folder::open(&path).unwrap();
        assert_eq!(texts(&folder.read().unwrap()), texts(&identity("4")));
    }

    #[test]
    fn what_a_crash_leaves_is_no_hindrance() {
        let at = tempfile::tempdir().unwrap();
        let folder = Folder::open(at.path()).unwrap();
        folder.put(&identity("1")).unwrap();
        fs::create_dir(at.path().join("sets/2")).unwrap();
        fs::write(at.path().join("sets/2/host.key"), "half").unwrap();
        symlink("sets/2", at.path().join(".current.new")).unwrap();
        drop(folder);
        let folder = Folder::open(at.path()).unwrap();
        assert_eq!(texts(&folder.read().unwrap()), texts(&identity("1")));
        folder.put(&identity("3")).unwrap();
        assert_eq!(texts(&folder.read().unwrap()), texts(&identity("3")));
        assert_eq!(folder.sets().unwrap(), [1, 3]);
    }

    #[test]
    fn files_of_others_stay_and_nothing_is_asked() {
        let at = tempfile::tempdir().unwrap();
        fs::write(at.path().join(KEY), "mine").unwrap();
        let error = Folder::open(at.path()).err().unwrap().to_string();
        assert!(
            error.ends_with("was not made by pairing: move it away, or name another `--folder`"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(at.path().join(KEY)).unwrap(), "mine");
    }
}
