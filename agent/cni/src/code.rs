//! The numbers that CNI gives to errors, and an error as the runtime reads it.
//!
//! Source: the CNI specification, section "Error", version 1.1.0.

use std::fmt;

use serde::Serialize;

use super::Version;

/// What kind of failure it is. Put on an error with `context`, it becomes the answer's `code`; where
/// several are put on one error, the last one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's version is none of ours.
    pub const VERSION: Self = Self(1);
    /// The container or its network namespace does not exist.
    pub const CONTAINER: Self = Self(3);
    /// A `CNI_` variable is missing or makes no sense.
    pub const ENVIRONMENT: Self = Self(4);
    /// A file could not be read or written.
    pub const IO: Self = Self(5);
    /// Something is not the JSON that it should be.
    pub const DECODE: Self = Self(6);
    /// The configuration can be read, and is wrong.
    pub const CONFIGURATION: Self = Self(7);
    /// It may work if it is tried again later.
    pub const TRY_AGAIN: Self = Self(11);
    /// The plugin cannot serve an ADD at present.
    pub const UNAVAILABLE: Self = Self(50);
    /// The card refused, and will refuse again.
    pub const REFUSED: Self = Self(100);
    /// CHECK found the network not as ADD left it.
    pub const DIFFERENT: Self = Self(101);
    /// The host's kernel refused to change an interface.
    pub const KERNEL: Self = Self(102);
    /// Host and card do not trust each other.
    pub const DISTRUST: Self = Self(103);
    /// A fault of the plugin itself.
    pub const INTERNAL: Self = Self(199);

    /// An error of this kind.
    pub fn because(self, reason: impl fmt::Display) -> anyhow::Error {
        anyhow::anyhow!("{reason}").context(self)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::VERSION => "incompatible CNI version",
            Self::CONTAINER => "unknown container",
            Self::ENVIRONMENT => "invalid environment",
            Self::IO => "I/O failure",
            Self::DECODE => "cannot decode",
            Self::CONFIGURATION => "invalid configuration",
            Self::TRY_AGAIN => "try again later",
            Self::UNAVAILABLE => "the plugin is not available",
            Self::REFUSED => "the card refused",
            Self::DIFFERENT => "the network is not as ADD left it",
            Self::KERNEL => "the host's interface could not be changed",
            Self::DISTRUST => {
                "host and card do not trust each other: pair them again, or see whether their clocks agree"
            }
            Self::INTERNAL => "a fault of offload-cni",
            _ => "the IPAM plugin failed",
        })
    }
}

/// An error as the runtime reads it on standard output.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(rename = "cniVersion")]
    version: &'static str,
    code: u32,
    /// The kind, in words.
    msg: String,
    /// What happened, and where.
    #[serde(skip_serializing_if = "String::is_empty")]
    details: String,
}

impl Report {
    /// The report of `error`, to a runtime that speaks `version`.
    pub fn new(error: &anyhow::Error, version: Version) -> Self {
        let code = error.downcast_ref::<Code>().copied().unwrap_or(Code::INTERNAL);
        let msg = code.to_string();
        let causes: Vec<_> = error.chain().map(ToString::to_string).filter(|cause| *cause != msg).collect();
        Self { version: version.text(), code: code.0, msg, details: causes.join(": ") }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    fn json(error: &anyhow::Error) -> String {
        serde_json::to_string(&Report::new(error, Version::V1_0_0)).unwrap()
    }

    #[test]
    fn a_report_holds_the_code_and_all_causes() {
        let error = anyhow!("connection refused").context("asking the agent").context(Code::TRY_AGAIN);
        insta::assert_snapshot!(json(&error), @r#"{"cniVersion":"1.0.0","code":11,"msg":"try again later","details":"asking the agent: connection refused"}"#);
    }

    #[test]
    fn the_last_code_counts() {
        let error = Err::<(), _>(Code::IO.because("no such file"));
        let error = error.context("reading the key").context(Code::CONFIGURATION).unwrap_err();
        insta::assert_snapshot!(json(&error), @r#"{"cniVersion":"1.0.0","code":7,"msg":"invalid configuration","details":"reading the key: I/O failure: no such file"}"#);
    }

    #[test]
    fn an_error_without_a_code_is_a_fault_of_ours() {
        insta::assert_snapshot!(json(&anyhow!("what?")), @r#"{"cniVersion":"1.0.0","code":199,"msg":"a fault of offload-cni","details":"what?"}"#);
    }
}
