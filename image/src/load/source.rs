//! The sources of a component that are neither packages nor a crate: `[git]`, `[oci]`, `[user]`.

use super::reader::{Section, Wrong};
use super::values;
use crate::config::{GitSource, OciSource, Revision, UserSource};
use crate::hash::Hash;

pub fn git(git: Section<'_, '_>) -> Option<GitSource> {
    let url = git.text("url", repository);
    let mirrors = git.maybe_list("mirrors", repository);
    let commit = git.maybe_text("commit", values::commit);
    let branch = git.maybe_text("branch", branch);
    let submodules = git.truth("submodules").unwrap_or_default();
    let has = |key| git.entry(key).is_some();
    if git.is_present()
        && !has("commit")
        && !has("branch")
        && let Some(entry) = git.entry("url")
    {
        let wrong = Wrong::new("nothing says which commit is meant")
            .hint("write `commit = \"<40 digits>\"`, or `branch` for its newest when the lock is made");
        git.refuse(&entry.key, &git.path("url"), wrong);
    }
    let revision = match (commit, branch) {
        (Some(commit), branch) => Revision::Commit { commit, branch },
        (None, Some(branch)) if !has("commit") => Revision::Branch(branch),
        _ => return None,
    };
    Some(GitSource { url: url?, mirrors: mirrors.unwrap_or_default(), revision, submodules })
}

pub fn oci(oci: Section<'_, '_>) -> Option<OciSource> {
    let reference = oci.text("reference", reference);
    let digest = oci.maybe_text("digest", digest);
    let mirrors = oci.maybe_list("mirrors", mirror);
    if let (Some(Reference { tag: None, .. }), None, Some(entry)) =
        (&reference, oci.entry("digest"), oci.entry("reference"))
    {
        let wrong = Wrong::new("the reference has no tag, and there is no `digest`")
            .hint("write `reference = \"quay.io/name:tag\"`, or `digest = \"sha256:…\"`");
        oci.refuse(&entry.node.place, &oci.path("reference"), wrong);
    }
    let Reference { registry, repository, tag } = reference?;
    Some(OciSource { registry, repository, tag, digest, mirrors: mirrors.unwrap_or_default() })
}

/// `version` is the component's, for patterns with `{version}`.
pub fn user(user: Section<'_, '_>, version: Option<&str>) -> Option<UserSource> {
    let get = user.text("get", values::line);
    let files = user.texts("files", name, |pattern| self::pattern(pattern, version));
    let folders = user.texts("folders", name, |path| values::relative(path).map(drop));
    let install = user.texts("install", name, |path| values::absolute(path).map(drop));
    for (name, path, entry) in user.free("install") {
        if !files.contains_key(name) && !folders.contains_key(name) {
            let all = files.keys().chain(folders.keys()).map(String::as_str);
            let wrong = Wrong::new(format!("`{name}` is none of the files and folders"));
            user.refuse(&entry.key, &path, wrong.hint(super::suggest::hint(name, "such name", all)));
        }
    }
    if user.is_present()
        && user.entry("files").is_none()
        && user.entry("folders").is_none()
        && let Some(entry) = user.entry("get")
    {
        let wrong = Wrong::new("nothing of what the user brings is taken")
            .hint("write `[user.files]` with `NAME = \"PATTERN\"`");
        user.refuse(&entry.key, &user.path("get"), wrong);
    }
    Some(UserSource { get: get?, files, folders, install })
}

struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
}

fn name(name: &str) -> Result<(), Wrong> {
    values::name("a file")(name).map(drop)
}

/// Fetched over HTTP alone: another way could need more than what the builder gives git.
fn repository(text: &str) -> Result<String, Wrong> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_local = text.starts_with("file:///") && text.len() > 8;
    let fine = |rest: &str| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '[');
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if rest.is_some_and(|rest| rest.split('/').next().is_some_and(|host| host.contains('@'))) {
        return Err(Wrong::new("the address holds a user or a password, and would show it in logs")
            .hint("let git's `credential.helper` of your account know it"));
    }
    if is_plain && (is_local || rest.is_some_and(fine)) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not the address of a repository", text.escape_debug()))
        .hint("write it as `https://host/path.git`"))
}

fn branch(text: &str) -> Result<String, Wrong> {
    let part = |part: &str| values::is_name(part) && !part.contains("..");
    if text.split('/').all(part) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not the name of a branch", text.escape_debug())))
}

/// `registry/name:tag`, as the distribution specification has it.
fn reference(text: &str) -> Result<Reference, Wrong> {
    let wrong = || {
        Wrong::new(format!("`{}` is not the reference of an image", text.escape_debug()))
            .hint("write it with its registry, as `quay.io/cilium/cilium:v1.17.0`; a digest has its own key")
    };
    let (registry, rest) = text.split_once('/').ok_or_else(wrong)?;
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let is_tag = |tag: &str| {
        tag.len() <= 128 && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if host(registry) && path(repository) && tag.is_none_or(|tag| !tag.is_empty() && is_tag(tag)) {
        let tag = tag.map(str::to_owned);
        return Ok(Reference { registry: registry.to_owned(), repository: repository.to_owned(), tag });
    }
    Err(wrong())
}

fn mirror(text: &str) -> Result<String, Wrong> {
    let (registry, rest) = text.split_once('/').map_or((text, None), |(host, rest)| (host, Some(rest)));
    if host(registry) && rest.is_none_or(path) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not a registry", text.escape_debug()))
        .hint("write it as `registry.example.org` or `registry.example.org/path`"))
}

/// A registry's host; a name without a dot or a port would be taken for a repository by other programs.
fn host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let is_host = name.contains('.') || port.is_some() || name == "localhost";
    letters && is_host && !name.starts_with(['.', '-']) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn path(text: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
    };
    text.split('/').all(part)
}

fn digest(text: &str) -> Result<Hash, Wrong> {
    let hash = text.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
    hash.ok_or_else(|| {
        Wrong::new(format!("`{}` is not a digest", text.escape_debug()))
            .hint("write `sha256:` and 64 hexadecimal digits")
    })
}

/// A file's name or the end of its path, with `*`, `?` and `{version}`.
fn pattern(text: &str, version: Option<&str>) -> Result<(), Wrong> {
    if text.contains("{version}") && version.is_none() {
        return Err(Wrong::new("`{version}` stands for nothing: the component has no `version`"));
    }
    let filled = text.replace("{version}", version.unwrap_or_default());
    if filled.contains(['{', '}']) {
        return Err(Wrong::new(format!("the pattern `{}` has braces", text.escape_debug()))
            .hint("only `{version}` stands for something"));
    }
    values::glob(&filled).map(drop)
}
