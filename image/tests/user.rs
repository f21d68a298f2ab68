//! Files that the user brings, out of stand-ins for a vendor's SDK: archives that the tests make, with the
//! documented names and made-up content.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dpukit_image::config::{Component, Local, Source, UserSource};
use dpukit_image::fetch::Options;
use dpukit_image::hash::Hash;
use dpukit_image::hint::report;
use dpukit_image::lock::LockedFile;
use dpukit_image::source::{Origins, user};
use tempfile::TempDir;

const VERSION: &str = "12.25.01";
const UPDATE: &[u8] = b"stand-in for fw-update";
const FLASH: &[u8] = b"stand-in for flash";
const MICROCODE: &[u8] = b"stand-in for microcode";

/// A file of an archive.
type Entry<'a> = (&'a str, &'a [u8]);

fn tar(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        if let Some(target) = content.strip_prefix(b"-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, std::str::from_utf8(target).unwrap()).unwrap();
        } else {
            archive.append_data(&mut header, path, *content).unwrap();
        }
    }
    archive.into_inner().unwrap()
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut packed = liblzma::write::XzEncoder::new(Vec::new(), 1);
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in entries {
        archive.start_file(*path, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// An SDK of a version: documents, firmware in a zip, a root file system in an archive of its own.
fn sdk(version: &str) -> Vec<u8> {
    let (update, flash) =
        (format!("fw-update-cn10ka-SDK{version}.bin"), format!("flash-cn10ka-SDK{version}.img"));
    let firmware = zip(&[("images/README", b"read me"), (&format!("images/{update}"), UPDATE)]);
    let root = xz(&tar(&[
        ("./lib/firmware/mrvl/cpt04/ae.out", MICROCODE),
        ("./lib/firmware/mrvl/cpt04/se.out", b"another"),
        ("./lib/firmware/mrvl/cpt04/ie.out", b"-> se.out"),
        ("./lib/firmware/mrvl/cpt04/gone.out", b"-> ../../../etc/passwd"),
        ("./lib/firmware/other/x.bin", b"not wanted"),
        ("./etc/hostname", b"stand-in"),
    ]));
    let flash_gz = gz(FLASH);
    let inner = tar(&[
        ("sdk/docs/guide.txt", b"a guide"),
        ("sdk/firmware.zip", &firmware),
        (&format!("sdk/{flash}.gz"), &flash_gz),
        ("sdk/rootfs.tar.xz", &root),
    ]);
    gz(&inner)
}

fn component() -> Component {
    let map = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect::<BTreeMap<_, _>>()
    };
    Component {
        name: "sdk".into(),
        description: "the vendor's SDK".into(),
        version: Some(VERSION.into()),
        source: Source::User(UserSource {
            get: "the vendor's portal".into(),
            files: map(&[
                ("flash", "flash-cn10ka-SDK{version}.img"),
                ("update", "fw-update-cn10ka-SDK{version}.bin"),
            ]),
            folders: map(&[("microcode", "lib/firmware/mrvl")]),
            install: BTreeMap::new(),
        }),
        instead: None,
    }
}

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn bring(&self, given: Option<&Path>, locked: Option<&[LockedFile]>) -> Result<Vec<LockedFile>, String> {
        let files = given.map(|path| ("sdk".to_owned(), path.to_owned())).into_iter().collect();
        let local = Local { files, ..Local::default() };
        let origins = Origins::new(&self.cache(), &local, Options::default());
        let component = component();
        let brought = origins.user(&component).unwrap().bring(locked);
        brought.map_err(|error| report(&error).replace(&self.folder.path().display().to_string(), "FOLDER"))
    }

    fn from(&self, name: &str, content: &[u8]) -> Result<Vec<LockedFile>, String> {
        self.bring(Some(&self.put(name, content)), None)
    }
}

fn names(files: &[LockedFile]) -> Vec<(&str, &str, Hash)> {
    files.iter().map(|file| (file.name.as_str(), file.file.as_str(), file.sha256)).collect()
}

#[test]
fn files_are_found_in_archives_of_any_nesting() {
    let plain = sdk(VERSION);
    let nested = [
        ("sdk.tar.gz", plain.clone()),
        ("sdk.zip", zip(&[("download/SDK.tar.gz", &plain)])),
        ("sdk.tar.xz", xz(&tar(&[("a/b", b"x"), ("a/sdk.tgz", &plain)]))),
        ("sdk.zst", zst(&zip(&[("sdk", &tar(&[("x", &plain)]))]))),
        // What a file is, its content says, not its name.
        ("download", plain.clone()),
    ];
    let mut first = None;
    for (name, content) in nested {
        let place = Place::new();
        let files = place.from(name, &content).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            names(&files),
            [
                ("flash", "flash-cn10ka-SDK12.25.01.img", Hash::of(FLASH)),
                ("microcode/cpt04/ae.out", "ae.out", Hash::of(MICROCODE)),
                ("microcode/cpt04/ie.out", "ie.out", Hash::of("another")),
                ("microcode/cpt04/se.out", "se.out", Hash::of("another")),
                ("update", "fw-update-cn10ka-SDK12.25.01.bin", Hash::of(UPDATE)),
            ],
            "{name}"
        );
        assert!(user::has(&place.cache(), &files));
        assert_eq!(*first.get_or_insert(files.clone()), files);
        // Nobody else of the machine may read it, and nothing of it is where builds are shared.
        let mode = place.cache().join("private").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        let places = fs::read_dir(place.cache()).unwrap().map(|file| file.unwrap().file_name());
        assert_eq!(places.collect::<Vec<_>>(), ["private"]);
    }
}

#[test]
fn a_folder_is_searched_like_an_archive() {
    let place = Place::new();
    let folder = place.folder.path().join("unpacked");
    fs::create_dir_all(folder.join("rootfs/lib/firmware/mrvl")).unwrap();
    fs::write(folder.join("rootfs/lib/firmware/mrvl/ae.out"), MICROCODE).unwrap();
    fs::write(folder.join("fw-update-cn10ka-SDK12.25.01.bin"), UPDATE).unwrap();
    fs::write(folder.join("flash.tar"), tar(&[("flash-cn10ka-SDK12.25.01.img", FLASH)])).unwrap();
    let files = place.bring(Some(&folder), None).unwrap();
    assert_eq!(names(&files).len(), 3);
}

#[test]
fn what_was_found_is_remembered_until_the_archive_changes() {
    let place = Place::new();
    let archive = place.put("sdk.tar.gz", &sdk(VERSION));
    let files = place.bring(Some(&archive), None).unwrap();
    // The same size and time, and no archive at all any more: only the memory can know.
    let time = archive.metadata().unwrap().modified().unwrap();
    let length = archive.metadata().unwrap().len();
    let file = fs::File::options().write(true).open(&archive).unwrap();
    file.set_len(0).unwrap();
    file.set_len(length).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(place.bring(Some(&archive), None).unwrap(), files);
    file.set_modified(time + std::time::Duration::from_secs(1)).unwrap();
    assert!(place.bring(Some(&archive), None).unwrap_err().contains("is no archive"));
}

#[test]
fn a_wrong_sdk_is_told_with_what_was_found_instead_and_where_to_get_the_right_one() {
    let place = Place::new();
    let whole = sdk(VERSION);
    let cut = &whole[..whole.len() * 2 / 3];
    let mut turned = whole.clone();
    let middle = turned.len() / 2;
    turned[middle] ^= 0xff;
    let both = tar(&[("a.tar.gz", &whole), ("b/flash-cn10ka-SDK12.25.01.img", b"another")]);
    let said: Vec<_> = [
        ("other.tar.gz", sdk("12.25.03")),
        ("docs.zip", zip(&[("guide.pdf", b"%PDF")])),
        ("page.tar.gz", b"<!DOCTYPE html><title>Sign in to the portal</title>".to_vec()),
        ("empty.tar.gz", Vec::new()),
        ("both.tar", both),
    ]
    .into_iter()
    .map(|(name, content)| place.from(name, &content).unwrap_err())
    .collect();
    insta::assert_snapshot!(said.join("\n\n"), @r"
    error: `FOLDER/other.tar.gz` is not the vendor's SDK in version 12.25.01:
      `flash-cn10ka-SDK12.25.01.img` is missing; of another version there is `other.tar.gz > sdk/flash-cn10ka-SDK12.25.03.img.gz`
      `fw-update-cn10ka-SDK12.25.01.bin` is missing; of another version there is `other.tar.gz > sdk/firmware.zip > images/fw-update-cn10ka-SDK12.25.03.bin`
    hint: get version 12.25.01 from the vendor's portal

    error: `FOLDER/docs.zip` is not the vendor's SDK in version 12.25.01:
      `flash-cn10ka-SDK12.25.01.img` is missing
      `fw-update-cn10ka-SDK12.25.01.bin` is missing
      no folder `lib/firmware/mrvl` with files is in it
    hint: get version 12.25.01 from the vendor's portal

    error: `FOLDER/page.tar.gz` is no archive: it begins with `<!DOCTYPE html><title>Sign in to the por`
    hint: get version 12.25.01 from the vendor's portal

    error: `FOLDER/empty.tar.gz` is empty
    hint: get version 12.25.01 from the vendor's portal

    error: `FOLDER/both.tar` is not the vendor's SDK in version 12.25.01:
      `flash` is there twice with other content: `both.tar > a.tar.gz > sdk/flash-cn10ka-SDK12.25.01.img.gz` and `both.tar > b/flash-cn10ka-SDK12.25.01.img`
    hint: get version 12.25.01 from the vendor's portal
    ");
    // What a decoder says of damage is its own; that it is damage, and of which file, is ours.
    for (name, content) in [("cut.tar.gz", cut.to_vec()), ("turned.tar.gz", turned)] {
        let error = place.from(name, &content).unwrap_err();
        assert!(error.contains("is damaged") && error.contains(name) && error.contains("portal"), "{error}");
    }
    let inner = xz(&tar(&[("lib/firmware/mrvl/ae.out", MICROCODE)]));
    let error = place.from("inner.tar", &tar(&[("rootfs.tar.xz", &inner[..inner.len() - 20])])).unwrap_err();
    assert!(error.contains("`inner.tar > rootfs.tar.xz") && error.contains("is damaged"), "{error}");
}

#[test]
fn nothing_named_and_nothing_there_are_told() {
    let place = Place::new();
    let said = [place.bring(None, None), place.bring(Some(Path::new("/nonexistent/sdk.tar")), None)];
    insta::assert_snapshot!(said.map(Result::unwrap_err).join("\n\n"), @r#"
    error: the vendor's SDK: no file was named for it
    hint: get version 12.25.01 from the vendor's portal; name it with `--sdk FILE`, or `files.sdk = "FILE"` in `dpukit.local.toml`

    error: reading `/nonexistent/sdk.tar`
      cause: No such file or directory (os error 2)
    hint: get version 12.25.01 from the vendor's portal
    "#);
}

#[test]
fn an_sdk_that_is_not_that_of_the_lock_is_refused() {
    let place = Place::new();
    let archive = place.put("sdk.tar.gz", &sdk(VERSION));
    let mut locked = place.bring(Some(&archive), None).unwrap();
    assert_eq!(place.bring(Some(&archive), Some(&locked)).unwrap(), locked);
    locked[0].sha256 = Hash::of("x");
    locked.push(LockedFile {
        name: "boot".into(),
        file: "boot.bin".into(),
        size: 3,
        sha256: Hash::of("boot"),
    });
    insta::assert_snapshot!(place.bring(Some(&archive), Some(&locked)).unwrap_err(), @r"
    error: `FOLDER/sdk.tar.gz` is not what the lock was made with: `flash` (`flash-cn10ka-SDK12.25.01.img`) has 18 bytes and the hash 19904c8c13e927ea66fb8e646103de121b6924d7219be6f8c74d93a6ab3f790e, the lock has 18 bytes and 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881; `boot` (`boot.bin`) is not in it, and is in the lock
    hint: get version 12.25.01 from the vendor's portal; or take it as it is with `cargo xtask lock --update sdk`
    ");
}

#[test]
fn archives_that_hold_themselves_end() {
    let mut content = b"x".to_vec();
    for _ in 0..40 {
        content = gz(&content);
    }
    let error = Place::new().from("deep.gz", &content).unwrap_err();
    assert!(error.contains("archives lie in each other in more than 12 levels"), "{error}");
}
