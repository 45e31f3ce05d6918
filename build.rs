//! Turns `proto/` into Rust. Needs no `protoc`: the files are compiled by a library.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    #[cfg(feature = "serve")]
    contract::generate()?;
    Ok(())
}

#[cfg(feature = "serve")]
mod contract {
    use std::path::PathBuf;

    /// Services, one file each, and what they share.
    const FILES: [&str; 6] = [
        "cairn/v1/agent.proto",
        "cairn/v1/data_path.proto",
        "cairn/v1/keys.proto",
        "cairn/v1/maintenance.proto",
        "cairn/v1/reason.proto",
        "cairn/v1/repositories.proto",
    ];

    /// Messages with key material: their generated `Debug` would print it.
    const SECRET: [&str; 1] = [".cairn.v1.LoadRequest"];

    pub(super) fn generate() -> Result<(), Box<dyn std::error::Error>> {
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        let files = protox::compile(FILES, ["proto"])?;
        std::fs::write(out.join("cairn.v1.binpb"), prost::Message::encode_to_vec(&files))?;
        tonic_prost_build::configure()
            // Frames stay where the network put them.
            .bytes(".")
            .skip_debug(SECRET)
            .compile_fds(files)?;
        Ok(())
    }
}
