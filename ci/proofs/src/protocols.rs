//! Protocols of others, as far as they are spoken here: see the files in `proto/`.

/// What the Go programs speak that cards and hosts may still carry.
#[allow(clippy::pedantic, clippy::all, missing_docs)]
pub mod old {
    tonic::include_proto!("_");
}

/// Kubernetes' way to talk to a container runtime.
#[allow(clippy::pedantic, clippy::all, missing_docs)]
pub mod runtime {
    tonic::include_proto!("runtime.v1");
}
