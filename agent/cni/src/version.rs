//! The versions of CNI that the plugin speaks.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::Code;

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// The version of this name.
    ///
    /// # Errors
    /// [`Code::VERSION`] where it is none of ours.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|version| version.text() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::text).join(", ");
            Code::VERSION
                .because(format_args!("`cniVersion` is `{}`, known are {known}", text.escape_debug()))
        })
    }

    /// Its name, as in `cniVersion`.
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Refuses a configuration older than the command that came with it.
    ///
    /// # Errors
    /// [`Code::VERSION`] where this version is older than `least`.
    pub fn must_know(self, command: &str, least: Self) -> Result<()> {
        if self >= least {
            return Ok(());
        }
        Err(Code::VERSION.because(format_args!(
            "{command} is of CNI {least}, and the configuration's `cniVersion` is `{self}`"
        )))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The answer to VERSION.
#[derive(Debug, Serialize)]
pub struct Versions {
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "supportedVersions")]
    supported: [&'static str; 4],
}

impl Versions {
    /// The answer to a runtime that speaks `asked`, which may be a version that we do not know.
    pub fn answer(asked: Option<String>) -> Self {
        Self {
            version: asked.unwrap_or_else(|| Version::NEWEST.text().to_owned()),
            supported: Version::ALL.map(Version::text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_found_by_its_name() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.text()).unwrap(), version);
        }
    }

    #[test]
    fn an_unknown_version_is_refused_with_those_that_are_known() {
        let error = format!("{:#}", Version::parse("0.2.0").unwrap_err());
        assert_eq!(
            error,
            "incompatible CNI version: `cniVersion` is `0.2.0`, known are 0.3.1, 0.4.0, 1.0.0, 1.1.0"
        );
    }
}
