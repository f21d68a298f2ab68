//! The repository's rules for `kernel-config/`, and the two checks over it.

use std::path::{Path, PathBuf};

use super::*;
use crate::hint::report;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-config").join(name)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    assert!(!files.is_empty(), "no .{extension} file in {}", folder.display());
    files
}

fn fragments() -> Vec<Fragment> {
    let load = |path: &PathBuf| Fragment::load(path).unwrap_or_else(|error| panic!("{}", report(&error)));
    files(&folder(""), "config").iter().map(load).collect()
}

fn tables() -> Vec<Requirements> {
    let load = |path: &PathBuf| Requirements::load(path).unwrap_or_else(|error| panic!("{error:#}"));
    files(&folder("requirements"), "toml").iter().map(load).collect()
}

#[test]
fn every_fragment_of_the_repository_parses_and_gives_a_reason_for_each_option() {
    for fragment in fragments() {
        assert!(!fragment.options.is_empty(), "`{}.config` asks for nothing", fragment.name);
        for wanted in &fragment.options {
            let words = wanted.reason.split_whitespace().count();
            assert!(words >= 2, "write a sentence above `{}` in `{}.config`", wanted.name, fragment.name);
        }
    }
}

/// The fragments of each board, in its order, by each configuration that it has to choose from.
fn boards() -> Vec<(String, Vec<Fragment>)> {
    let root = folder("").join("..");
    let listed = crate::load::boards(&root).unwrap_or_else(|problems| panic!("{problems}"));
    let boards = listed.into_iter().filter(|board| !board.is_abstract).flat_map(|board| {
        let config = crate::load::load(&root, &board.name).unwrap_or_else(|problems| panic!("{problems}"));
        let mut kernels = config.board.kernels;
        kernels.insert("chosen".into(), config.board.kernel);
        kernels.into_iter().map(move |(name, kernel)| {
            let files = kernel.fragments.iter().map(|name| folder("").join(format!("{name}.config")));
            let fragments =
                files.map(|file| Fragment::load(&file).unwrap_or_else(|error| panic!("{error:#}")));
            (format!("{} {name}", board.name), fragments.collect())
        })
    });
    boards.collect()
}

#[test]
fn the_fragments_of_a_board_do_not_contradict_each_other() {
    for (board, fragments) in boards() {
        merge(&fragments).unwrap_or_else(|error| panic!("{board}: {}", report(&error)));
    }
}

#[test]
fn every_table_of_the_repository_parses_and_asks_for_something() {
    for table in tables() {
        assert!(table.names().count() > 0, "`requirements/{}.toml` asks for nothing", table.name);
    }
}

/// What a table asks to be off is never asked for by a fragment, and the other way round: this needs no kernel.
#[test]
fn no_fragment_of_a_board_contradicts_a_table() {
    for (board, fragments) in boards() {
        let config = Config::parse(&merge(&fragments).unwrap()).unwrap();
        let asked = effective(&fragments).unwrap();
        let findings = check(&config, &tables(), "6.1.192").unwrap();
        let against =
            findings.iter().filter(|f| f.outcome == Outcome::Unmet && asked.contains_key(f.option.as_str()));
        let lines: Vec<_> = against.map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{board}:\n{}", lines.join("\n"));
    }
}

const TABLE: &str =
    "description = 'd'\n[[group]]\nname = 'g'\nwant = 'y'\noptions = ['NET']\nreason = 'r'\nsource = 's'\n";
const NONE_EXPLAINED: &str = r#"{"version": "6.1.192", "options": {}}"#;

#[test]
fn an_audit_tells_all_that_is_wrong_at_once() {
    let fragments = [Fragment::parse("base", "# why\nCONFIG_A=y\nCONFIG_B=m\n").unwrap()];
    let tables = [Requirements::parse("t", TABLE).unwrap()];
    let good = Config::parse("CONFIG_A=y\nCONFIG_B=m\nCONFIG_NET=y\n").unwrap();
    audit(&good, &fragments, &tables, "6.1.192", NONE_EXPLAINED).unwrap();
    let error = audit(&Config::default(), &fragments, &tables, "6.1.192", NONE_EXPLAINED).unwrap_err();
    assert_eq!(
        report(&error),
        "error: the kernel's configuration is not as wanted, 3 in all:\n    \
         `A`=y (`base.config` line 2) is n\n    \
         `B`=m (`base.config` line 3) is n\n    \
         `NET` is n, t (g) wants y: r\n\
         hint: mend the fragments in `kernel-config/`; its README says how"
    );
}

#[test]
fn requirements_are_checked_against_the_version_that_the_configuration_names() {
    let tables = [Requirements::parse("t", &TABLE.replace("['NET']", "['NET']\nsince = '6.7'")).unwrap()];
    let config = |version| Config::parse(&format!("# Linux/arm64 {version} Kernel Configuration\n")).unwrap();
    require(&config("6.1.192"), &tables).unwrap();
    let error = require(&config("6.7.0"), &tables).unwrap_err().to_string();
    assert!(error.contains("`NET` is n, t (g) wants y: r"), "{error}");
    let error = require(&Config::default(), &tables).unwrap_err().to_string();
    assert!(error.contains("does not name its kernel's version"), "{error}");
}
