//! How `octep_cp_agent` is given its devices.

use serde::{Deserialize, Serialize};

/// How `octep_cp_agent` is given its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// `{ arguments = "--dpi_dev {dpi} --pem_dev {pem}" }`: words behind its configuration, of which `{NAME}`
    /// stands for the addresses of the devices of that name.
    Arguments(String),
    /// `{ module = "pcie_marvell_cnxk_ep" }`: none; this module of the kernel has them, and is loaded before.
    Module(String),
}

/// A word of the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// As it stands.
    Plain(&'a str),
    /// The addresses of the devices of this name.
    Devices(&'a str),
}

impl Start {
    /// The words of the arguments, in order.
    pub fn words(&self) -> impl Iterator<Item = Word<'_>> {
        let arguments = match self {
            Self::Arguments(arguments) => arguments.as_str(),
            Self::Module(_) => "",
        };
        arguments.split_whitespace().map(|word| {
            let name = word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            name.map_or(Word::Plain(word), Word::Devices)
        })
    }

    /// The names of the devices.
    pub fn devices(&self) -> impl Iterator<Item = &str> {
        self.words().filter_map(|word| match word {
            Word::Devices(name) => Some(name),
            Word::Plain(_) => None,
        })
    }

    /// What is wrong with it, where there are devices of these names.
    pub(crate) fn problems(&self, names: &[&str]) -> Vec<String> {
        let problem = |word| match word {
            Word::Devices(name) if !names.contains(&name) => Some(format!(
                "`octep_cp_agent` is to be given the device `{name}`, which `octep.devices` does not name"
            )),
            Word::Plain(word) if word.contains(['{', '}']) => {
                Some(format!("`{word}` of `octep.start` is no word of its own: write `{{NAME}}` by itself"))
            }
            _ => None,
        };
        self.words().filter_map(problem).collect()
    }
}
