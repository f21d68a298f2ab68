//! Makes Rust of the protocol's file, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const PROTO: &str = "proto/cni_action.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let files = protox::compile([PROTO], ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    // gRPC reflection hands out this description.
    std::fs::write(out.join("cni_action.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
