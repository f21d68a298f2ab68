//! The differences between the composed root and mmdebstrap's.

use std::collections::BTreeSet;
use std::fmt;

use super::listing::{Item, Kind, Listing};

/// One difference of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Without a leading slash; of a user or group, `etc/passwd:NAME`.
    pub path: String,
    /// What differs.
    pub what: What,
    /// What the composed root has.
    pub ours: String,
    /// What mmdebstrap made.
    pub theirs: String,
}

/// In what respect a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Only the composed root has it.
    Added,
    /// Only mmdebstrap made it.
    Missing,
    Kind,
    Mode,
    Owner,
    Target,
    Xattrs,
    Content,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, what, ours, theirs } = self;
        let what = format!("{what:?}").to_lowercase();
        match self.what {
            What::Added => write!(f, "{what:<8} /{path} ({ours}): mmdebstrap makes none"),
            What::Missing => write!(f, "{what:<8} /{path} ({theirs}): mmdebstrap makes it"),
            _ => write!(f, "{what:<8} /{path}: {ours}, mmdebstrap makes {theirs}"),
        }
    }
}

/// Files whose lines are compared by their name, since numbers are given in another order.
const TABLES: [&str; 2] = ["etc/passwd", "etc/group"];
/// The same names again, with passwords that are all shut.
const SHADOWS: [&str; 2] = ["etc/shadow", "etc/gshadow"];

/// All differences, in the order of the paths.
pub fn differences(ours: &Listing, theirs: &Listing) -> Vec<Difference> {
    let paths: BTreeSet<_> = ours.iter().chain(theirs.iter()).map(|(path, _)| path).collect();
    let mut found = Vec::new();
    for path in paths {
        match (ours.get(path), theirs.get(path)) {
            (Some(item), None) => found.push(one_sided(path, What::Added, item)),
            (None, Some(item)) => found.push(one_sided(path, What::Missing, item)),
            (Some(our), Some(their)) => both(path, (ours, our), (theirs, their), &mut found),
            (None, None) => {}
        }
    }
    found
}

fn one_sided(path: &str, what: What, item: &Item) -> Difference {
    let text = match &item.kind {
        Kind::Link(target) => format!("a link to {target}"),
        kind => kind.name().to_owned(),
    };
    Difference { path: path.to_owned(), what, ours: text.clone(), theirs: text }
}

fn both(path: &str, ours: (&Listing, &Item), theirs: (&Listing, &Item), found: &mut Vec<Difference>) {
    let (our, their) = (ours.1, theirs.1);
    let mut differ = |what, our: String, their: String| {
        if our != their {
            found.push(Difference { path: path.to_owned(), what, ours: our, theirs: their });
        }
    };
    match (&our.kind, &their.kind) {
        (Kind::Link(_), Kind::Link(_)) => {
            // `awk -> mawk` and `awk -> /etc/alternatives/awk -> mawk` come to the same.
            let end = |listing: &Listing| listing.resolve(path).unwrap_or_else(|| "nowhere".into());
            differ(What::Target, end(ours.0), end(theirs.0));
            return;
        }
        (Kind::File(our), Kind::File(their)) if TABLES.contains(&path) => {
            let (our, their) = (accounts(our), accounts(their));
            for (name, line) in &our {
                let other = their.iter().find(|(other, _)| other == name);
                differ(
                    What::Content,
                    format!("{name}:{line}"),
                    other.map_or_else(|| format!("no `{name}`"), |(_, line)| format!("{name}:{line}")),
                );
            }
            for (name, line) in their.iter().filter(|(name, _)| our.iter().all(|(other, _)| other != name)) {
                differ(What::Content, format!("no `{name}`"), format!("{name}:{line}"));
            }
        }
        (Kind::File(our), Kind::File(their)) if SHADOWS.contains(&path) => {
            differ(What::Content, passwords(our), passwords(their));
        }
        (Kind::File(our), Kind::File(their)) => {
            if our != their {
                differ(What::Content, described(our), described(their) + " of other content");
            }
        }
        (our, their) if our == their => {}
        (our, their) => return differ(What::Kind, our.name().into(), their.name().into()),
    }
    differ(What::Mode, format!("{:04o}", our.mode), format!("{:04o}", their.mode));
    differ(What::Owner, format!("{}:{}", our.owner, our.group), format!("{}:{}", their.owner, their.group));
    differ(What::Xattrs, format!("{:?}", our.xattrs), format!("{:?}", their.xattrs));
}

/// Each line's name, and what of the rest means the same on every machine: home and shell of a user,
/// members of a group.
fn accounts(table: &[u8]) -> Vec<(String, String)> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let rest = fields.get(if fields.len() > 4 { 5.. } else { 3.. }).unwrap_or_default().join(":");
        (fields[0].to_owned(), rest)
    };
    String::from_utf8_lossy(table).lines().map(line).collect()
}

/// The passwords that would open an account.
fn passwords(table: &[u8]) -> String {
    let text = String::from_utf8_lossy(table);
    let open = text.lines().filter(|line| {
        let password = line.split(':').nth(1).unwrap_or_default();
        !password.starts_with(['!', '*'])
    });
    open.map(|line| line.split(':').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
}

fn described(content: &[u8]) -> String {
    format!("{} bytes", content.len())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn item(kind: Kind, mode: u32) -> Item {
        Item { kind, mode, owner: "root".into(), group: "root".into(), xattrs: BTreeMap::new() }
    }

    fn file(content: &str) -> Item {
        item(Kind::File(content.into()), 0o644)
    }

    fn link(target: &str) -> Item {
        item(Kind::Link(target.into()), 0o777)
    }

    fn told(ours: Vec<(&'static str, Item)>, theirs: Vec<(&'static str, Item)>) -> Vec<String> {
        let found = differences(&Listing::of(ours), &Listing::of(theirs));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let mut capable = file("");
        capable.xattrs.insert("security.capability".into(), vec![1]);
        let mut owned = file("");
        owned.group = "shadow".into();
        let ours = vec![
            ("a", file("")),
            ("etc/c", file("x")),
            ("k", item(Kind::Folder, 0o755)),
            ("m", file("")),
            ("o", file("")),
            ("x", file("")),
        ];
        let theirs = vec![
            ("b", link("c")),
            ("etc/c", file("y")),
            ("k", file("")),
            ("m", item(Kind::File(vec![]), 0o4755)),
            ("o", owned),
            ("x", capable),
        ];
        insta::assert_snapshot!(told(ours, theirs).join("\n"), @r#"
        added    /a (a file): mmdebstrap makes none
        missing  /b (a link to c): mmdebstrap makes it
        content  /etc/c: 1 bytes, mmdebstrap makes 1 bytes of other content
        kind     /k: a folder, mmdebstrap makes a file
        mode     /m: 0644, mmdebstrap makes 4755
        owner    /o: root:root, mmdebstrap makes root:shadow
        xattrs   /x: {}, mmdebstrap makes {"security.capability": [1]}
        "#);
    }

    #[test]
    fn links_are_the_same_where_they_lead_to_the_same() {
        let ours = vec![("bin/awk", link("mawk")), ("bin/mawk", file(""))];
        let through = vec![
            ("bin/awk", link("/etc/alternatives/awk")),
            ("bin/mawk", file("")),
            ("etc/alternatives/awk", link("/bin/mawk")),
        ];
        let found = differences(&Listing::of(ours.clone()), &Listing::of(through));
        assert_eq!(found.len(), 1, "only the alternative itself: {found:?}");
        let circle = vec![("bin/awk", link("awk")), ("bin/mawk", file(""))];
        assert_eq!(told(ours, circle), ["target   /bin/awk: bin/mawk, mmdebstrap makes nowhere"]);
    }

    #[test]
    fn users_are_compared_by_name_home_and_shell() {
        let passwd = |text: &str| vec![("etc/passwd", file(text))];
        let ours = "root:x:0:0:root:/root:/bin/sh\nsshd:x:998:9:x:/run/sshd:/usr/sbin/nologin";
        let theirs =
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:9:y:/run/sshd:/usr/sbin/nologin\nnew:x:1:1::/:/";
        insta::assert_snapshot!(told(passwd(ours), passwd(theirs)).join("\n"), @r"
        content  /etc/passwd: root:/root:/bin/sh, mmdebstrap makes root:/root:/bin/bash
        content  /etc/passwd: no `new`, mmdebstrap makes new:/:/
        ");
    }

    #[test]
    fn an_account_that_is_open_on_one_side_is_found() {
        let shadow = |text: &str| vec![("etc/shadow", file(text))];
        assert!(told(shadow("root:!*:1::::::"), shadow("root:*:20000:0:99999:7:::")).is_empty());
        assert_eq!(told(shadow("root::1::::::"), shadow("root:*:1::::::")).len(), 1);
    }
}
