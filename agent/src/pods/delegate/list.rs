//! Network lists, found by their name as libcni finds them: first in `*.conflist`, then a single plugin in
//! `*.conf` or `*.json`, which is a list of one.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use dpu_cni::Version;
use serde_json::{Map, Value, json};

/// A network that is made by plugins, one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct List {
    /// The network's name.
    pub name: String,
    /// The version that its plugins are spoken to in: the newest of `cniVersion` and `cniVersions` that we know.
    pub version: Version,
    /// Whether CHECK is not to be called.
    pub disable_check: bool,
    /// Whether GC is not to be called.
    pub disable_gc: bool,
    /// The plugins, in the order of ADD.
    pub plugins: Vec<Plugin>,
    /// The list as it was written.
    json: Value,
}

/// One plugin's part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// The name of its program.
    pub kind: String,
    /// What it takes in `runtimeConfig`.
    pub capabilities: BTreeSet<String>,
    /// Its configuration as it was written.
    json: Map<String, Value>,
}

impl List {
    /// The list of this name in `folder`. Files that cannot be read do not hide another that has the name.
    ///
    /// # Errors
    /// Where no file has it; the files that could not be read are named.
    pub fn find(folder: &Path, name: &str) -> Result<Self> {
        let mut unread = Vec::new();
        for (endings, as_list) in [(&["conflist"][..], true), (&["conf", "json"][..], false)] {
            for path in files(folder, endings)? {
                match named(&path, as_list) {
                    Ok((found, json)) if found == name => {
                        return Self::of(json).with_context(|| format!("reading `{}`", path.display()));
                    }
                    Ok(_) => {}
                    Err(error) => unread.push(format!("`{}`: {error:#}", path.display())),
                }
            }
        }
        let also = match unread.as_slice() {
            [] => String::new(),
            unread => format!("; not read: {}", unread.join("; ")),
        };
        bail!("no file in `{}` has a network list of the name `{name}`{also}", folder.display());
    }

    /// The list that is written like this.
    ///
    /// # Errors
    /// Where it names no version that we know, or a plugin makes no sense.
    pub fn of(json: Value) -> Result<Self> {
        let name = text(&json, "name").context("it has no `name`")?.to_owned();
        if !is_name(&name) {
            bail!(
                "its name is `{}`: it may hold letters, digits, `_`, `.` and `-`, and begins with one of the first two",
                name.escape_debug()
            );
        }
        let parts = json.get("plugins").and_then(Value::as_array).context("it has no `plugins`")?;
        if parts.is_empty() {
            bail!("its `plugins` are empty");
        }
        let plugins = parts.iter().map(Plugin::of).collect::<Result<_>>()?;
        Ok(Self {
            name,
            version: version(&json)?,
            disable_check: flag(&json, "disableCheck"),
            disable_gc: flag(&json, "disableGC"),
            plugins,
            json,
        })
    }

    /// The list as it was written, to be kept and read again by [`List::of`].
    pub fn written(&self) -> &Value {
        &self.json
    }

    /// Whether a plugin of the list takes `capability`.
    pub fn takes(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(capability))
    }

    /// What `plugin` reads on its standard input: its own configuration, and what the runtime adds.
    pub fn input(&self, plugin: &Plugin, added: &Map<String, Value>) -> Map<String, Value> {
        let mut input = plugin.json.clone();
        input.insert("name".into(), self.name.clone().into());
        input.insert("cniVersion".into(), self.version.text().into());
        input.extend(added.clone());
        input
    }
}

impl Plugin {
    fn of(json: &Value) -> Result<Self> {
        let json = json.as_object().context("one of its `plugins` is no object")?;
        let kind = json.get("type").and_then(Value::as_str).context("one of its `plugins` has no `type`")?;
        if kind.is_empty() || kind == "." || kind == ".." || kind.contains(['/', '\0']) {
            bail!("a plugin's `type` is `{}`, which is no file's name", kind.escape_debug());
        }
        let declared = json.get("capabilities").and_then(Value::as_object);
        let capabilities = declared.into_iter().flatten().filter(|(_, takes)| takes.as_bool() == Some(true));
        Ok(Self {
            kind: kind.to_owned(),
            capabilities: capabilities.map(|(name, _)| name.clone()).collect(),
            json: json.clone(),
        })
    }
}

/// Whether `name` can be a network's or a container's: it becomes part of files' names.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits) && name.len() <= 200
}

fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let listing = || format!("listing `{}`", folder.display());
    let entries = fs::read_dir(folder).with_context(listing)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().with_context(listing)?;
    paths.retain(|path| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending)) && path.is_file()
    });
    paths.sort();
    Ok(paths)
}

/// The name of the network in a file, and what it says as a list.
fn named(path: &Path, as_list: bool) -> Result<(String, Value)> {
    const MOST: u64 = 1 << 20;
    let mut octets = Vec::new();
    fs::File::open(path)?.take(MOST + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > MOST {
        bail!("it has more than {MOST} octets");
    }
    let mut json: Value = serde_json::from_slice(&octets)?;
    let name = text(&json, "name").context("it has no `name`")?.to_owned();
    if !as_list {
        let version = json.get("cniVersion").cloned().unwrap_or_default();
        json = json!({ "name": name, "cniVersion": version, "plugins": [json] });
    }
    Ok((name, json))
}

/// Of the versions that the list names, the newest that we know.
fn version(json: &Value) -> Result<Version> {
    let several = json.get("cniVersions").and_then(Value::as_array);
    let named = several.into_iter().flatten().filter_map(Value::as_str).chain(text(json, "cniVersion"));
    let known = named.clone().filter_map(|text| Version::parse(text).ok()).max();
    match known {
        Some(version) => Ok(version),
        // Before there were versions there was 0.1.0.
        None => Version::parse(named.last().unwrap_or("0.1.0")),
    }
}

fn text<'a>(json: &'a Value, key: &str) -> Option<&'a str> {
    json.get(key)?.as_str()
}

/// libcni takes these as booleans, and as the words for them.
fn flag(json: &Value, key: &str) -> bool {
    match json.get(key) {
        Some(Value::Bool(set)) => *set,
        Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn error(folder: &tempfile::TempDir, name: &str) -> String {
        let error = format!("{:#}", List::find(folder.path(), name).unwrap_err());
        error.replace(&folder.path().display().to_string(), "/net.d")
    }

    const CEP: &str = r#"{"name":"cep","cniVersion":"1.0.0","plugins":[{"type":"a","capabilities":{"ips":true,"mac":false}},{"type":"b"}]}"#;

    #[test]
    fn a_list_is_found_by_its_name_among_others() {
        let folder = folder(&[
            ("00.conflist", r#"{"name":"other","cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#),
            ("05.conflist", "{"),
            ("10.conflist", CEP),
            ("20.conf", r#"{"name":"cep","cniVersion":"0.3.1","type":"late"}"#),
        ]);
        let list = List::find(folder.path(), "cep").unwrap();
        assert_eq!((list.version, list.plugins.len()), (Version::V1_0_0, 2));
        assert!(list.takes("ips") && !list.takes("mac"));
        assert_eq!(List::of(list.written().clone()).unwrap(), list);
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let folder =
            folder(&[("10.conf", r#"{"name":"cep","cniVersion":"0.4.0","type":"a","bridge":"br0"}"#)]);
        let list = List::find(folder.path(), "cep").unwrap();
        let input = list.input(&list.plugins[0], &Map::new());
        insta::assert_snapshot!(Value::from(input), @r#"{"bridge":"br0","cniVersion":"0.4.0","name":"cep","type":"a"}"#);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_file() {
        let none = folder(&[("05.conflist", "{")]);
        insta::assert_snapshot!(error(&none, "cep"), @"no file in `/net.d` has a network list of the name `cep`; not read: `/net.d/05.conflist`: EOF while parsing an object at line 1 column 1");
        let text = |version: &str, plugins: &str| format!(r#"{{"name":"cep"{version},"plugins":{plugins}}}"#);
        let reasons = [
            text("", r#"[{"type":"a"}]"#),
            text(r#","cniVersion":"2.0.0""#, r#"[{"type":"a"}]"#),
            text(r#","cniVersion":"1.0.0""#, "[]"),
            text(r#","cniVersion":"1.0.0""#, r#"[{"type":"../sh"}]"#),
        ];
        let errors = reasons.map(|text| error(&folder(&[("10.conflist", &text)]), "cep"));
        insta::assert_snapshot!(errors.join("\n"), @"
        reading `/net.d/10.conflist`: incompatible CNI version: `cniVersion` is `0.1.0`, known are 0.3.1, 0.4.0, 1.0.0, 1.1.0
        reading `/net.d/10.conflist`: incompatible CNI version: `cniVersion` is `2.0.0`, known are 0.3.1, 0.4.0, 1.0.0, 1.1.0
        reading `/net.d/10.conflist`: its `plugins` are empty
        reading `/net.d/10.conflist`: a plugin's `type` is `../sh`, which is no file's name
        ");
    }

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let list = |versions: Value| {
            List::of(
                json!({ "name": "n", "cniVersion": "0.4.0", "cniVersions": versions, "plugins": [{ "type": "a" }] }),
            )
        };
        assert_eq!(list(json!(["1.0.0", "1.1.0", "9.0.0"])).unwrap().version, Version::V1_1_0);
        assert_eq!(list(json!([])).unwrap().version, Version::V0_4_0);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(octets in prop::collection::vec(any::<u8>(), 0..200), ending in "conflist|conf") {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(format!("1.{ending}")), octets).unwrap();
            let _ = List::find(folder.path(), "cep");
        }
    }
}
