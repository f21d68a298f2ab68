//! An archive's index of packages, and the fields in it that have a grammar of their own.
#![no_main]

use dpukit_image::debian::packages::Index;
use dpukit_image::debian::relation;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(index) = Index::read("fuzz", bytes) else { return };
    for package in index.packages() {
        let _ = package.version();
        for field in [package.depends(), package.pre_depends(), package.conflicts(), package.breaks()] {
            let _ = relation::parse(field);
        }
    }
});
