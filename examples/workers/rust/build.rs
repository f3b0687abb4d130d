//! Generates the contract's code. protox is a protobuf compiler in Rust: no protoc is needed.

const PROTOS: &str = "../../../protos";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed={PROTOS}");
    let files = protox::compile(["gatecrew/v1/worker.proto", "gatecrew/v1/gateway.proto"], [PROTOS])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
