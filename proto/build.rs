//! Compiles the .proto files with protox, so that no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 5] = [
    "plimsoll/v1/inventory.proto",
    "plimsoll/v1/ingest.proto",
    "plimsoll/v1/query.proto",
    "plimsoll/v1/estimate.proto",
    "plimsoll/v1/planner.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=plimsoll");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["."])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(
            ".plimsoll.v1.SubjectColumns",
            "crate::columns::SubjectColumns",
        )
        .extern_path(".plimsoll.v1.ValueColumn", "crate::columns::ValueColumn")
        .bytes(".plimsoll.v1.Batch.body")
        .compile_fds(descriptors)?;
    Ok(())
}
