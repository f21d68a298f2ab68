//! Kernel configurations, fragments and tables of requirements.
#![no_main]

use dpukit_image::kconfig::{Config, Fragment, Requirements, require};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (config, rest) = text.split_once('\0').unwrap_or((text, text));
    let _ = Fragment::parse("fuzz", rest);
    let tables = Requirements::parse("fuzz", rest);
    if let (Ok(config), Ok(tables)) = (Config::parse(config), tables) {
        let _ = require(&config, &[tables]);
    }
});
