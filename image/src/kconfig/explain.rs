//! Why an option did not take: what `kernel-config/explain.py` says of it, in words.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::config::Config;
use super::fragment::{Fragment, Wanted, effective};

/// How many names are shown of a long list.
const SHOWN: usize = 6;

/// The answer of `explain.py` for one configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    /// The kernel's version.
    pub version: String,
    /// By option, without `CONFIG_`.
    pub options: BTreeMap<String, Explanation>,
}

/// What Kconfig knows of one option.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// Whether a Kconfig file of this kernel and architecture defines it.
    pub exists: bool,
    /// Its value.
    pub value: String,
    /// `bool`, `tristate`, `string`, `int`, `hex`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether a person may set it.
    pub prompt: bool,
    /// How far a person may set it now: `n`, `m` or `y`.
    pub visible: String,
    /// Conditions that are not met, in words.
    pub unmet: Vec<String>,
    /// Options that select it.
    pub selectors: Vec<String>,
    /// Options that select it in this configuration.
    pub forced_by: Vec<String>,
    /// What its choice chose in its place; at most one.
    pub choice: Vec<String>,
}

/// A wanted option that has another value in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTaken {
    /// The fragment's name.
    pub fragment: String,
    /// What was wanted.
    pub wanted: Wanted,
    /// What the configuration has.
    pub value: String,
}

impl Explained {
    /// Reads the output of `explain.py`.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("reading what `explain.py` printed")
    }

    /// Why `name` has not the value `wanted`; empty if the script was not asked.
    pub fn why(&self, name: &str, wanted: &str) -> String {
        self.options.get(name).map_or_else(String::new, |option| option.why(&self.version, wanted))
    }
}

impl Explanation {
    fn why(&self, version: &str, wanted: &str) -> String {
        if !self.exists {
            return format!("no such option in {version}");
        }
        if wanted == "n" {
            return match self.forced_by.as_slice() {
                [] if self.prompt => "nothing forces it: ask for `n` in a fragment".into(),
                [] => "Kconfig switches it on by default, and it has no prompt".into(),
                names => format!("selected by {}", some(names)),
            };
        }
        if wanted == "m" && self.kind == "bool" {
            return "cannot be a module: write `y`".into();
        }
        if wanted == "m" && self.value == "y" && !self.forced_by.is_empty() {
            return format!("selected as y by {}: write `y`", some(&self.forced_by));
        }
        if !self.prompt && self.value == "n" {
            return match self.selectors.as_slice() {
                [] if self.unmet.is_empty() => "has no prompt, and nothing selects it".into(),
                [] => self.unmet.join("; "),
                names => format!("only selected by others (no prompt): ask for one of {}", some(names)),
            };
        }
        // What keeps an option from `y` does not matter to one that is to be a module.
        if !self.unmet.is_empty() && self.visible != wanted {
            return self.unmet.join("; ");
        }
        match self.choice.first() {
            Some(other) => format!("its choice took `{other}`"),
            None => "nothing hides it: ask for it in a fragment, or look at the range of its values".into(),
        }
    }
}

fn some(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Every option that the fragments want and `config` has otherwise, by name.
///
/// # Errors
/// The fragments contradict each other.
pub fn not_taken(config: &Config, fragments: &[Fragment]) -> Result<Vec<NotTaken>> {
    let wanted = effective(fragments)?.into_values();
    Ok(wanted
        .filter(|(_, wanted)| config.value(&wanted.name) != wanted.value)
        .map(|(fragment, wanted)| NotTaken {
            fragment: fragment.name.clone(),
            wanted: wanted.clone(),
            value: config.value(&wanted.name).into(),
        })
        .collect())
}

impl NotTaken {
    /// One line for a person.
    pub fn line(&self, explained: &Explained) -> String {
        let Wanted { name, value, line, .. } = &self.wanted;
        let why = explained.why(name, value);
        let why = if why.is_empty() { why } else { format!(": {why}") };
        format!("`{name}`={value} (`{}.config` line {line}) is {}{why}", self.fragment, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the script printed over Linux 6.1.192's tinyconfig, shortened.
    const JSON: &str = r#"{"version": "6.1.192", "options": {
        "SQUASHFS": {"exists": true, "value": "n", "type": "tristate", "prompt": true, "visible": "n",
            "unmet": ["needs `BLOCK` = y (is n)", "needs `MISC_FILESYSTEMS` = y (is n)"],
            "selectors": [], "forced_by": [], "choice": []},
        "NETKIT": {"exists": false, "value": "n", "type": "unknown", "prompt": false, "visible": "n",
            "unmet": [], "selectors": [], "forced_by": [], "choice": []},
        "XFRM_OFFLOAD": {"exists": true, "value": "n", "type": "bool", "prompt": false, "visible": "n",
            "unmet": ["needs `NET` = y (is n)"], "selectors": ["INET_ESP_OFFLOAD", "INET6_ESP_OFFLOAD"],
            "forced_by": [], "choice": []},
        "XFRM_ALGO": {"exists": true, "value": "y", "type": "tristate", "prompt": false, "visible": "n",
            "unmet": [], "selectors": ["XFRM_USER"], "forced_by": ["XFRM_USER"], "choice": []},
        "NET_IPIP": {"exists": true, "value": "n", "type": "tristate", "prompt": true, "visible": "m",
            "unmet": ["needs `IPV6` = y (is m)"], "selectors": [], "forced_by": [], "choice": []},
        "SLUB": {"exists": true, "value": "n", "type": "bool", "prompt": true, "visible": "y",
            "unmet": [], "selectors": [], "forced_by": [], "choice": ["SLOB"]}}}"#;

    #[test]
    fn each_kind_of_failure_is_told_in_kconfigs_terms() {
        let text = "# why\nCONFIG_SQUASHFS=y\nCONFIG_NETKIT=y\nCONFIG_XFRM_OFFLOAD=y\nCONFIG_XFRM_ALGO=m\n\
                    CONFIG_SLUB=m\nCONFIG_MORE=y\nCONFIG_OFF=n\n";
        let fragment = Fragment::parse("base", text).unwrap();
        let config = Config::parse("CONFIG_XFRM_ALGO=y\n").unwrap();
        let explained = Explained::parse(JSON).unwrap();
        let lines: Vec<_> =
            not_taken(&config, &[fragment]).unwrap().iter().map(|n| n.line(&explained)).collect();
        assert_eq!(
            lines,
            [
                "`MORE`=y (`base.config` line 7) is n",
                "`NETKIT`=y (`base.config` line 3) is n: no such option in 6.1.192",
                "`SLUB`=m (`base.config` line 6) is n: cannot be a module: write `y`",
                "`SQUASHFS`=y (`base.config` line 2) is n: needs `BLOCK` = y (is n); needs `MISC_FILESYSTEMS` = y (is n)",
                "`XFRM_ALGO`=m (`base.config` line 5) is y: selected as y by `XFRM_USER`: write `y`",
                "`XFRM_OFFLOAD`=y (`base.config` line 4) is n: only selected by others (no prompt): \
                 ask for one of `INET_ESP_OFFLOAD`, `INET6_ESP_OFFLOAD`",
            ]
        );
        assert_eq!(explained.why("SLUB", "y"), "its choice took `SLOB`");
        assert_eq!(explained.why("XFRM_ALGO", "n"), "selected by `XFRM_USER`");
        assert_eq!(explained.why("SLUB", "n"), "nothing forces it: ask for `n` in a fragment");
        assert!(explained.why("NET_IPIP", "m").starts_with("nothing hides it"));
        assert_eq!(explained.why("NET_IPIP", "y"), "needs `IPV6` = y (is m)");
    }

    #[test]
    fn an_answer_cut_off_is_refused() {
        assert!(Explained::parse(&JSON[..JSON.len() - 2]).is_err());
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(text in any::<String>()) {
            let _ = Explained::parse(&text);
        }
    }
}
