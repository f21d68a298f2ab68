//! A signed Release file, before anything in it can be trusted.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use dpukit_image::debian::keyring::Keyring;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../keys");
    Keyring::read(&folder, &["trixie-automatic".into()]).expect("a key of the repository")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Nobody but Debian can sign, so that every input must be refused.
    assert!(KEYRING.signed_text(bytes, SystemTime::now()).is_err());
});
