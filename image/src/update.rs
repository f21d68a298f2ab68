//! The bundle that RAUC installs on a running card, in `out/<board>`: signed, and so not a step. Its bytes differ
//! each time, and the key must come near nothing that is kept.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, date_time_ymd};

use crate::bundle;
use crate::config::{Config, Signer, Signing};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::project::Project;
use crate::recipes::{self, BOOT, IMAGES, SYSTEM};
use crate::sandbox::Sandbox;
use crate::step::Graph;
use crate::store::Workplace;

const MAKE: &str = include_str!("update/make.sh");
const MANIFEST: &str = include_str!("update/manifest.sh");
const REPLACE: &str = include_str!("update/replace.sh");

/// Where a board's bundle is.
pub fn path(root: &Path, board: &str) -> PathBuf {
    bundle::image_path(root, board).with_extension("raucb")
}

/// The step with the programs that make a bundle, where one is to be made.
pub fn tools(config: &Config) -> Result<Option<&str>> {
    match (&config.board.updates, &config.local.signing) {
        (Some(_), Some(_)) => recipes::update_tools(config).map(Some),
        _ => Ok(None),
    }
}

/// Makes and signs the bundle of a finished build; one that is of the same parts and certificate is left.
///
/// # Errors
/// The key does not belong to the certificate, the certificate is not trusted by the keyring, or the signer fails.
pub fn write(project: &Project, graph: &Graph<'_>) -> Result<Option<PathBuf>> {
    let config = &project.sources.config;
    let (Some(tools), Some(signing)) = (tools(config)?, &config.local.signing) else { return Ok(None) };
    let to = path(&config.root, &config.board.name);
    let entries = [BOOT, SYSTEM].map(|step| graph.recipe(step).entry());
    let certificate = Hash::of_file(&signing.certificate)
        .with_context(|| format!("reading the certificate `{}`", signing.certificate.display()))?;
    let made_of = format!("{}\n{}\n{certificate}\n", entries[0], entries[1]);
    let stamp = bundle::folder(&config.root, &config.board.name).join(".update");
    if to.is_file() && fs::read_to_string(&stamp).is_ok_and(|text| text == made_of) {
        return Ok(Some(to));
    }
    let _ = fs::remove_file(&stamp);
    let out = |step: &str| project.store.out(&graph.recipe(step).entry());
    let slot = Slot::built(graph, out);
    make(config, signing, &out(tools), &slot, &to)?;
    crate::store::write_atomically(&stamp, made_of.as_bytes())?;
    Ok(Some(to))
}

/// What a bundle fills a slot with.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The boot partition.
    pub boot: PathBuf,
    /// The root with its tree of hashes.
    pub system: PathBuf,
    /// Container images that go with it, as the step `images` leaves them; none where the card comes with none.
    pub images: Option<PathBuf>,
}

impl Slot {
    /// What a build made; `out` is the folder of a step's result.
    pub fn built(graph: &Graph<'_>, out: impl Fn(&str) -> PathBuf) -> Self {
        Self {
            boot: out(BOOT).join("boot.img"),
            system: out(SYSTEM).join("root.img"),
            images: graph.has(IMAGES).then(|| out(IMAGES)),
        }
    }
}

/// Makes and signs a bundle; `tools` is the tool root with RAUC. What is at `to` is replaced once the bundle is whole.
pub fn make(config: &Config, signing: &Signing, tools: &Path, slot: &Slot, to: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(to.parent().unwrap_or(to)).context("making room for the bundle")?;
    let work = Work::new(folder.path(), tools)?;
    work.make(config, signing, slot).context("making the update's bundle")?;
    let made = work.place.out.join("update.raucb");
    fs::File::open(&made)?.sync_all()?;
    fs::rename(made, to).with_context(|| format!("writing `{}`", to.display()))
}

/// Where a bundle is made: beside the results, and gone with them.
struct Work<'a> {
    place: Workplace,
    tools: &'a Path,
}

impl<'a> Work<'a> {
    fn new(folder: &Path, tools: &'a Path) -> Result<Self> {
        let at = |name: &str| folder.join(name);
        for name in ["out", "scratch"] {
            fs::create_dir(at(name))?;
        }
        let place = Workplace { out: at("out"), scratch: at("scratch"), log: at("log") };
        Ok(Self { place, tools })
    }

    fn make(&self, config: &Config, signing: &Signing, slot: &Slot) -> Result<()> {
        let sandbox = |certificate: &Path, key: &Path, keyring: &Path| {
            let mut sandbox = Sandbox::new(self.tools);
            if let Some(images) = &slot.images {
                sandbox = sandbox.input("images", images);
            }
            sandbox
                .input("boot.img", &slot.boot)
                .input("root.img", &slot.system)
                .input("certificate", certificate)
                .input("key", key)
                .input("keyring", keyring)
                .env("COMPATIBLE", recipes::compatible(config))
                .env("VERSION", env!("CARGO_PKG_VERSION"))
        };
        let Signing { certificate, signer, keyring } = signing;
        match signer {
            Signer::Key(key) => sandbox(certificate, key, keyring).run(&self.place, MAKE),
            Signer::Command(command) => {
                // RAUC signs with a key that is thrown away; the signer's signature then takes its place.
                let (own_key, own) = (self.place.scratch.join("key"), self.place.scratch.join("certificate"));
                let pair = pair("thrown away")?;
                fs::write(&own_key, &pair.key)?;
                fs::write(&own, &pair.certificate)?;
                sandbox(&own, &own_key, &own).run(&self.place, MAKE)?;
                sandbox(&own, &own_key, &own).run(&self.place, MANIFEST)?;
                let manifest = fs::read(self.place.scratch.join("manifest"))?;
                fs::write(self.place.scratch.join("signature"), sign(command, &manifest)?)?;
                sandbox(&own, &own_key, keyring).run(&self.place, REPLACE)
            }
        }
    }
}

/// Has a command sign: the manifest on its standard input, CMS in DER with the manifest in it on its output.
fn sign(command: &[String], manifest: &[u8]) -> Result<Vec<u8>> {
    let (program, arguments) = command.split_first().context("the signer has no name")?;
    let starting = || format!("starting the signer `{program}`");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(starting)
        .hint(|| "name it in `signing.command` of `dpukit.local.toml`".into())?;
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing and fails has more to say than this.
        let _ = input.write_all(manifest);
    }
    let output = child.wait_with_output().with_context(starting)?;
    ensure!(output.status.success(), "the signer `{program}` ended with {}", output.status);
    ensure!(!output.stdout.is_empty(), "the signer `{program}` gave no signature");
    Ok(output.stdout)
}

/// A key, and a certificate that it signed for itself, both as PEM.
struct Pair {
    key: String,
    certificate: String,
}

fn pair(name: &str) -> Result<Pair> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Cards have no clock before they are on a network: a certificate that ends keeps them from updates.
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2099, 12, 31);
    let certificate = parameters.self_signed(&key)?;
    Ok(Pair { key: key.serialize_pem(), certificate: certificate.pem() })
}

/// Makes a key of one's own and a certificate that cards trust, as `update.key` and `update.crt` in a folder.
///
/// # Errors
/// One of them is there already: cards may trust it.
pub fn new_key(folder: &Path) -> Result<[PathBuf; 2]> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let places = [folder.join("update.key"), folder.join("update.crt")];
    if let Some(there) = places.iter().find(|place| place.exists()) {
        return Err(anyhow!("`{}` is there already", there.display()))
            .hint(|| "images may trust it: name another folder, or move it away".into());
    }
    fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
    let pair = pair("dpukit updates")?;
    for (place, text) in places.iter().zip([pair.key, pair.certificate]) {
        let mut options = fs::File::options();
        let file = options.create_new(true).write(true).mode(0o600).open(place);
        file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .with_context(|| format!("writing `{}`", place.display()))?;
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_alone_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let [key, certificate] = new_key(folder.path()).unwrap();
        let text = fs::read_to_string(&key).unwrap();
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(certificate).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
        let error = format!("{:#}", new_key(folder.path()).unwrap_err());
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(fs::read_to_string(key).unwrap(), text);
    }

    #[test]
    fn a_signer_gets_the_manifest_and_a_bad_one_is_named() {
        let words = |text: &str| vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
        assert_eq!(sign(&words("tr a-z A-Z"), b"manifest").unwrap(), b"MANIFEST");
        for (script, expected) in [
            ("exit 3", "ended with exit status: 3"),
            ("true", "gave no signature"),
            ("kill -9 $$", "signal: 9"),
        ] {
            let error = sign(&words(script), b"x").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = sign(&["/none".into()], b"x").unwrap_err();
        assert!(format!("{error:#}").contains("starting the signer `/none`"), "{error:#}");
    }
}
