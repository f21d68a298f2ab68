//! Makes Rust of the protocols' files, without `protoc`.

use std::error::Error;

const PROTOS: [&str; 2] = ["proto/old_peers.proto", "proto/runtime.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for proto in PROTOS {
        println!("cargo::rerun-if-changed={proto}");
        tonic_prost_build::configure().compile_fds(protox::compile([proto], ["proto"])?)?;
    }
    Ok(())
}
