//! The differences between the composed root and mmdebstrap's.

use std::collections::{BTreeMap, BTreeSet};
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
        // Account by account, below.
        (Kind::File(_), Kind::File(_)) if TABLES.contains(&path) => {}
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
    if let (Kind::File(our), Kind::File(their)) = (&our.kind, &their.kind)
        && TABLES.contains(&path)
    {
        found.extend(accounts_differ(path, &accounts(ours.0, our), &accounts(theirs.0, their)));
    }
}

/// The accounts of a table by name, each with what of it means the same on every machine: a number that Debian gives
/// out for all, a user's group by name, home and shell, a group's members.
type Accounts = BTreeMap<String, String>;

fn accounts(listing: &Listing, table: &[u8]) -> Accounts {
    let text = String::from_utf8_lossy(table);
    let account = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let meaning = match fields[..] {
            [_, _, id, group, _, home, shell] => {
                format!("{}:{}:{home}:{shell}", fixed(id), listing.group(group))
            }
            [_, _, id, members] => {
                let members: BTreeSet<_> = members.split(',').collect();
                format!("{}:{}", fixed(id), members.into_iter().collect::<Vec<_>>().join(","))
            }
            _ => line.to_owned(),
        };
        (fields[0].to_owned(), meaning)
    };
    text.lines().map(account).collect()
}

/// A number that is the same on every Debian (its policy manual, 9.2.2); of another, nothing.
fn fixed(id: &str) -> &str {
    match id.parse() {
        Ok(100..60_000) => "",
        _ => id,
    }
}

fn accounts_differ(table: &str, ours: &Accounts, theirs: &Accounts) -> Vec<Difference> {
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let differ = |name: &String| {
        let (what, our, their) = match (ours.get(name), theirs.get(name)) {
            (Some(our), Some(their)) if our == their => return None,
            (Some(our), Some(their)) => (What::Content, our.as_str(), their.as_str()),
            (Some(our), None) => (What::Added, our.as_str(), ""),
            (None, their) => (What::Missing, "", their.map_or("", String::as_str)),
        };
        Some(Difference { path: format!("{table}:{name}"), what, ours: our.into(), theirs: their.into() })
    };
    names.into_iter().filter_map(differ).collect()
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
    fn accounts_are_compared_by_what_means_the_same_on_every_machine() {
        let system =
            |passwd: &str, group: &str| vec![("etc/group", file(group)), ("etc/passwd", file(passwd))];
        let ours = system(
            "root:x:0:0:root:/root:/bin/sh\nsshd:x:998:9:x:/run/sshd:/usr/sbin/nologin\nman:x:6:9:man:/:/bin/sh",
            "news:x:9:\nsudo:x:27:\nvideo:x:44:b,a\nkvm:x:999:",
        );
        let theirs = system(
            "root:x:0:0:root:/root:/bin/bash\nsshd:x:100:9:y:/run/sshd:/usr/sbin/nologin\nnew:x:1:1::/:/\n\
             man:x:7:105:man:/:/bin/sh",
            "news:x:9:\nsudo:x:127:\nvideo:x:44:a,b\nkvm:x:104:a\n_ssh:x:105:",
        );
        insta::assert_snapshot!(told(ours, theirs).join("\n"), @r"
        missing  /etc/group:_ssh (:): mmdebstrap makes it
        content  /etc/group:kvm: :, mmdebstrap makes :a
        content  /etc/group:sudo: 27:, mmdebstrap makes :
        content  /etc/passwd:man: 6:news:/:/bin/sh, mmdebstrap makes 7:_ssh:/:/bin/sh
        missing  /etc/passwd:new (1:1:/:/): mmdebstrap makes it
        content  /etc/passwd:root: 0:0:/root:/bin/sh, mmdebstrap makes 0:0:/root:/bin/bash
        ");
    }

    #[test]
    fn an_account_that_is_open_on_one_side_is_found() {
        let shadow = |text: &str| vec![("etc/shadow", file(text))];
        assert!(told(shadow("root:!*:1::::::"), shadow("root:*:20000:0:99999:7:::")).is_empty());
        assert_eq!(told(shadow("root::1::::::"), shadow("root:*:1::::::")).len(), 1);
    }
}
