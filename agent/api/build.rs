//! Makes Rust of the protocols' files, without `protoc`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const PROTOS: [&str; 3] = ["proto/cni_action.proto", "proto/pairing.proto", "proto/updates.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    // gRPC reflection hands out this description.
    std::fs::write(out.join("protocols.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
