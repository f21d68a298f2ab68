//! Unpacks many packages at once into one [`Tree`], in this process and without maintainer scripts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::tree::{Content, Kind, Node, Tree};
use crate::config::{DebSource, Diversion};
use crate::deb;

/// Which paths of packages are left out.
#[derive(Debug)]
pub struct Filter {
    leave_out: GlobSet,
    keep: GlobSet,
}

impl Filter {
    /// The filter that a component declares.
    pub fn new(source: &DebSource) -> Result<Self> {
        Ok(Self { leave_out: globs(&source.leave_out)?, keep: globs(&source.keep)? })
    }

    /// Whether a path is unpacked.
    pub fn takes(&self, path: &str) -> bool {
        !self.leave_out.is_match(path) || self.keep.is_match(path)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(false).build()?);
    }
    Ok(set.build()?)
}

/// A package to unpack.
#[derive(Debug, Clone)]
pub struct Package {
    pub name: String,
    pub file: PathBuf,
}

/// What is known of a package once it is unpacked.
#[derive(Debug)]
pub struct Unpacked {
    pub name: String,
    /// Its control file's text.
    pub control: String,
    /// Names of its maintainer scripts.
    pub scripts: Vec<String>,
    nodes: Vec<(String, Node)>,
}

/// Unpacks `packages` with `jobs` threads. Contents go to one file per package in `spool`.
pub fn unpack(
    packages: &[Package],
    filter: &Filter,
    diversions: &BTreeMap<String, Diversion>,
    spool: &Path,
    jobs: usize,
) -> Result<(Tree, Vec<Unpacked>)> {
    // The largest first, so that no thread ends with a long one alone.
    let mut order: Vec<_> = (0..packages.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(packages[at].file.metadata().map_or(0, |meta| meta.len())));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..jobs.max(1))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let package = unpack_one(&packages[at], filter, &spool.join(at.to_string()))?;
                        done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(at, package);
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    let mut tree = Tree::default();
    let mut unpacked: Vec<_> =
        done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_values().collect();
    for package in &mut unpacked {
        for (path, node) in std::mem::take(&mut package.nodes) {
            tree.put_package(diverted(diversions, &package.name, path), node)?;
        }
    }
    Ok((tree, unpacked))
}

/// The path that a package's file gets.
fn diverted(diversions: &BTreeMap<String, Diversion>, package: &str, path: String) -> String {
    match diversions.get(&path) {
        Some(diversion) if diversion.by != package => diversion.to.clone(),
        _ => path,
    }
}

fn unpack_one(package: &Package, filter: &Filter, spool: &Path) -> Result<Unpacked> {
    let control = deb::control(&package.file)?;
    let text =
        String::from_utf8_lossy(control.get("control").context("a package without `control`")?).into_owned();
    let scripts = ["preinst", "postinst", "prerm", "postrm", "config"];
    let scripts = scripts.into_iter().filter(|name| control.contains_key(*name)).map(str::to_owned).collect();

    let file = File::options().create(true).truncate(true).read(true).write(true).open(spool);
    let file = file.with_context(|| format!("making `{}`", spool.display()))?;
    let mut out = BufWriter::with_capacity(1 << 18, file.try_clone()?);
    let file = Arc::new(file);
    let (mut nodes, mut offset) = (Vec::new(), 0);
    // A hard link becomes a file with the same content: squashfs keeps equal contents once.
    let mut contents = HashMap::<String, Content>::new();
    deb::data(&package.file, |object, reader| {
        let path = object.path;
        let taken = filter.takes(&path);
        let kind = match object.kind {
            deb::Kind::Folder => Kind::Folder,
            deb::Kind::Link(target) => Kind::Link(target),
            deb::Kind::File(size) => {
                if !taken {
                    return Ok(());
                }
                deb::copy(reader, &mut out, size)?;
                let content = Content::Part { file: file.clone(), offset, size };
                offset += size;
                contents.insert(path.clone(), content.clone());
                Kind::File(content)
            }
            deb::Kind::SameAs(first) => {
                let content = contents.get(&first);
                let content = content.with_context(|| format!("its first name `{first}` is not there"))?;
                Kind::File(content.clone())
            }
        };
        if taken {
            let (mode, uid, gid, xattrs) = (object.mode, object.uid, object.gid, object.xattrs);
            nodes.push((path, Node { kind, mode, uid, gid, xattrs, origin: package.name.as_str().into() }));
        }
        Ok(())
    })?;
    out.flush().with_context(|| format!("writing `{}`", spool.display()))?;
    Ok(Unpacked { name: package.name.clone(), control: text, scripts, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_keeps_a_path_that_it_diverts_and_all_others_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let package = |name: &str, content: &str| {
            let file = folder.path().join(format!("{name}.deb"));
            deb::fake::write(&file, &format!("Package: {name}\n"), &[("usr/bin/zcat", content)]);
            Package { name: name.into(), file }
        };
        let packages = [package("gzip", "theirs"), package("zutils", "its own")];
        let filter = Filter { leave_out: GlobSet::empty(), keep: GlobSet::empty() };
        let spool = |name: &str| {
            let spool = folder.path().join(name);
            std::fs::create_dir(&spool).unwrap();
            spool
        };
        let error = unpack(&packages, &filter, &BTreeMap::new(), &spool("without"), 2).unwrap_err();
        assert_eq!(error.root_cause().to_string(), "both `gzip` and `zutils` hold `/usr/bin/zcat`");

        let to = Diversion { by: "zutils".into(), to: "usr/bin/zcat.gzip".into() };
        let diversions = BTreeMap::from([("usr/bin/zcat".to_owned(), to)]);
        let (tree, _) = unpack(&packages, &filter, &diversions, &spool("with"), 2).unwrap();
        let text = |path: &str| match &tree.get(path).unwrap().kind {
            Kind::File(content) => String::from_utf8(content.bytes().unwrap()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (text("usr/bin/zcat").as_str(), text("usr/bin/zcat.gzip").as_str()),
            ("its own", "theirs")
        );
    }
}
