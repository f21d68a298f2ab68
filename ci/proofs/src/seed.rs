//! Chance that can be repeated.

use std::time::SystemTime;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

const VARIABLE: &str = "DPUKIT_SEED";

/// The seed of this run: what `DPUKIT_SEED` says, or a new one. It is printed.
pub fn seed() -> u64 {
    let given = std::env::var(VARIABLE).ok();
    let seed = given.map_or_else(
        || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs(),
        |text| text.parse().unwrap_or_else(|_| panic!("`{VARIABLE}` is `{text}`, it should be a number")),
    );
    println!("proof: {VARIABLE}={seed} repeats this run");
    seed
}

/// The chances of one part of a run, which depend on no other part.
pub fn chances(seed: u64, part: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// How many rounds to run: what the variable says, or so many.
pub fn rounds(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| {
        text.parse().unwrap_or_else(|_| panic!("`{variable}` is `{text}`, it should be a number"))
    })
}
