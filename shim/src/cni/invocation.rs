//! The environment that a runtime starts the plugin with.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::Code;

/// What the runtime wants (`CNI_COMMAND`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    const ALL: [(&'static str, Self); 6] = [
        ("ADD", Self::Add),
        ("DEL", Self::Del),
        ("CHECK", Self::Check),
        ("GC", Self::Gc),
        ("STATUS", Self::Status),
        ("VERSION", Self::Version),
    ];

    /// Its name in `CNI_COMMAND`.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, command)| *command == self).map_or("", |(name, _)| name)
    }
}

/// One interface of one container: what ADD makes and DEL takes away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The container (`CNI_CONTAINERID`).
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface's name in the container (`CNI_IFNAME`).
    #[serde(rename = "ifname")]
    pub interface: String,
}

impl fmt::Display for Attachment {
    /// Both in one word, which is a file's name too: neither part can hold a colon or a slash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.interface)
    }
}

/// The pod that a container is of, as far as the runtime says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Pod {
    /// The pod that `CNI_ARGS` names; without names where the runtime is not Kubernetes'.
    ///
    /// # Errors
    /// [`Code::ENVIRONMENT`] where the arguments are not `KEY=VALUE;KEY=VALUE`.
    pub fn of_arguments(arguments: &str) -> Result<Self> {
        let mut pod = Self::default();
        for pair in arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Code::ENVIRONMENT.because(format_args!(
                    "`CNI_ARGS` holds `{}`, which is no `KEY=VALUE`",
                    pair.escape_debug()
                )));
            };
            match key {
                "K8S_POD_NAMESPACE" => value.clone_into(&mut pod.namespace),
                "K8S_POD_NAME" => value.clone_into(&mut pod.name),
                "K8S_POD_UID" => value.clone_into(&mut pod.uid),
                _ => {}
            }
        }
        Ok(pod)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A call of the plugin.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// What is wanted.
    pub command: Command,
    /// For what; none for commands that concern the whole network.
    attachment: Option<Attachment>,
    /// The container's network namespace (`CNI_NETNS`).
    pub namespace: Option<PathBuf>,
    /// `CNI_ARGS`, unread.
    pub arguments: String,
    /// Where plugins are looked for (`CNI_PATH`).
    pub path: Vec<PathBuf>,
}

impl Invocation {
    /// Reads the environment through `variable`.
    ///
    /// # Errors
    /// [`Code::ENVIRONMENT`] where a variable that the command needs is missing, or makes no sense.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(Err(_)) => Err(Code::ENVIRONMENT.because(format_args!("`{name}` is not text"))),
        };
        let command = command(text("CNI_COMMAND")?.as_deref())?;
        let attachment = match command {
            Command::Add | Command::Del | Command::Check => {
                let container = needed("CNI_CONTAINERID", text("CNI_CONTAINERID")?)?;
                let interface = needed("CNI_IFNAME", text("CNI_IFNAME")?)?;
                Some(Attachment {
                    container: container_id(container)?,
                    interface: interface_name(interface)?,
                })
            }
            Command::Gc | Command::Status | Command::Version => None,
        };
        let namespace = variable("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        if namespace.is_none() && matches!(command, Command::Add | Command::Check) {
            needed("CNI_NETNS", None)?;
        }
        let path = variable("CNI_PATH").unwrap_or_default();
        let path = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        // What DEL must do does not hang on it, so bad arguments are ADD's to refuse.
        let arguments = text("CNI_ARGS").ok().flatten().unwrap_or_default();
        Ok(Self { command, attachment, namespace, arguments, path })
    }

    /// The attachment that is meant.
    ///
    /// # Errors
    /// [`Code::ENVIRONMENT`] where the command is for no single attachment.
    pub fn attachment(&self) -> Result<&Attachment> {
        self.attachment.as_ref().ok_or_else(|| {
            Code::ENVIRONMENT.because(format_args!("{} is for no one container", self.command.name()))
        })
    }
}

fn command(name: Option<&str>) -> Result<Command> {
    let name = name.unwrap_or_default();
    let found = Command::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, command)| *command).ok_or_else(|| {
        let known = Command::ALL.map(|(known, _)| known).join(", ");
        Code::ENVIRONMENT
            .because(format_args!("`CNI_COMMAND` is `{}`, known are {known}", name.escape_debug()))
    })
}

fn needed(name: &str, value: Option<String>) -> Result<String> {
    value.ok_or_else(|| Code::ENVIRONMENT.because(format_args!("`{name}` is not set")))
}

/// A container's id, which becomes part of a file's name.
fn container_id(id: String) -> Result<String> {
    /// Files' names have at most 255 octets, and ours hold more than the id.
    const LONGEST: usize = 200;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins_well = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins_well && id.chars().all(fits) && id.len() <= LONGEST {
        return Ok(id);
    }
    Err(Code::ENVIRONMENT.because(format_args!(
        "`CNI_CONTAINERID` is `{}`: it may hold at most {LONGEST} letters, digits, `_`, `.` and `-`, and begins with one of the first two",
        id.escape_debug()
    )))
}

/// An interface's name as the kernel takes it (`dev_valid_name`).
fn interface_name(name: String) -> Result<String> {
    let bad = |c: char| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control();
    if name.len() <= 15 && name != "." && name != ".." && !name.contains(bad) {
        return Ok(name);
    }
    Err(Code::ENVIRONMENT.because(format_args!(
        "`CNI_IFNAME` is `{}`: a name has at most 15 octets, without `/`, `:`, `%` and white space",
        name.escape_debug()
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Invocation> {
        Invocation::read(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    const ADD: [(&str, &str); 6] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c01"),
        ("CNI_NETNS", "/run/netns/p"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin:relative:/usr/lib/cni"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_UID=u-1"),
    ];

    fn without(missing: &str) -> Vec<(&'static str, &'static str)> {
        ADD.into_iter().filter(|(name, _)| *name != missing).collect()
    }

    #[test]
    fn an_add_is_read() {
        let call = read(&ADD).unwrap();
        assert_eq!(call.command, Command::Add);
        assert_eq!(call.attachment().unwrap().to_string(), "c01:eth0");
        assert_eq!(call.path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
        let pod = Pod::of_arguments(&call.arguments).unwrap();
        assert_eq!((pod.to_string().as_str(), pod.uid.as_str()), ("default/p", "u-1"));
    }

    #[test]
    fn what_add_needs_is_named_where_it_is_missing() {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            let error = format!("{:#}", read(&without(name)).unwrap_err());
            assert_eq!(error, format!("invalid environment: `{name}` is not set"));
        }
    }

    #[test]
    fn del_needs_no_namespace_and_version_needs_nothing() {
        let del =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c01"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        assert_eq!(read(&del).unwrap().namespace, None);
        assert!(read(&[("CNI_COMMAND", "VERSION")]).is_ok());
    }

    #[test]
    fn names_that_would_lead_elsewhere_are_refused() {
        for (name, value) in [
            ("CNI_CONTAINERID", "../etc"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", ".a"),
            ("CNI_CONTAINERID", "a:b"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", "eth%d"),
            ("CNI_IFNAME", "sixteen-letters!"),
            ("CNI_COMMAND", "add"),
        ] {
            let pairs: Vec<_> = without(name).into_iter().chain([(name, value)]).collect();
            let error = format!("{:#}", read(&pairs).unwrap_err());
            assert!(error.starts_with(&format!("invalid environment: `{name}` is `{value}`")), "{error}");
        }
    }

    #[test]
    fn arguments_without_a_value_are_refused() {
        let error = format!("{:#}", Pod::of_arguments("A=1;B").unwrap_err());
        assert_eq!(error, "invalid environment: `CNI_ARGS` holds `B`, which is no `KEY=VALUE`");
    }

    proptest! {
        #[test]
        fn no_environment_makes_it_panic(
            command in "ADD|DEL|CHECK|GC|STATUS|VERSION|.*",
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 5),
        ) {
            use std::os::unix::ffi::OsStringExt as _;
            let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"];
            let call = Invocation::read(|name| match name {
                "CNI_COMMAND" => Some(OsString::from(&command)),
                _ => names.iter().position(|known| *known == name).map(|at| OsString::from_vec(values[at].clone())),
            });
            if let Ok(call) = call {
                let _ = Pod::of_arguments(&call.arguments);
                if let Ok(attachment) = call.attachment() {
                    prop_assert!(!attachment.to_string().contains('/'));
                }
            }
        }

        #[test]
        fn no_arguments_make_it_panic(text: String) {
            let _ = Pod::of_arguments(&text);
        }
    }
}
