//! A lock: what is read is written again as the same lock.
#![no_main]

use dpukit_image::lock::Lock;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(text) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lock.toml");
    lock.write(&path).expect("writing a lock that was read");
    let again = Lock::read(&path).expect("reading a lock that was written");
    assert!(lock.differences(&again).is_empty());
});
