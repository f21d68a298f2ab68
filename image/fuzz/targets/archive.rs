//! A downloaded .deb: ar, then tar in one of several compressions.
#![no_main]

use std::io::{Read as _, Write as _};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("writing a temporary file");
    let _ = dpukit_image::deb::control(file.path());
    // No more than this is read of a content: a small archive may hold a large file.
    let _ = dpukit_image::deb::data(file.path(), |_, content| {
        std::io::copy(&mut content.take(1 << 20), &mut std::io::sink())?;
        Ok(())
    });
});
