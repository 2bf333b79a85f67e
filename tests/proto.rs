//! Holds the checked-in Rust of the gRPC contract to what `proto/` generates today, byte for byte.
//!
//! After a change of `proto/`: `ONNXD_REGENERATE=1 cargo test --test proto`.

use std::{env, fs, path::Path};

use prost::Message;

const GENERATED: &str = "src/api/generated";
const FILES: [&str; 2] = ["inference.rs", "grpc.health.v1.rs"];
/// What reflection answers from: the same files, compiled and not generated.
const DESCRIPTORS: &str = "descriptors.bin";
const NOTE: &str = "// From proto/ by tests/proto.rs (ONNXD_REGENERATE=1 cargo test --test proto). Not for editing.\n";
const SERIALIZE: &str = "#[derive(::serde::Serialize, ::utoipa::ToSchema)]";

/// What is made of `proto/`, by the name of its file: Rust, under a note that says where it comes from, and descriptors.
fn generate(root: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let out = tempfile::tempdir().expect("a temporary directory");
    let names = ["grpc_service.proto", "grpc/health/v1/health.proto"];
    let files = protox::compile(names, [root.join("proto")])
        .unwrap_or_else(|error| panic!("proto/ does not compile: {error}"));
    let mut bare = files.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .codec_path("crate::api::codec::ProtoCodec")
        // What the HTTP API says in the same words: its JSON is these messages, field by field.
        .type_attribute(".inference.ServerMetadataResponse", SERIALIZE)
        .type_attribute(".inference.ModelMetadataResponse", SERIALIZE)
        .type_attribute(".inference.ModelStatistics", SERIALIZE)
        .type_attribute(".inference.InferStatistics", SERIALIZE)
        .type_attribute(".inference.InferBatchStatistics", SERIALIZE)
        .type_attribute(".inference.InferResponseStatistics", SERIALIZE)
        .type_attribute(".inference.StatisticDuration", SERIALIZE)
        .type_attribute(".inference.MemoryUsage", SERIALIZE)
        .type_attribute(".inference.ModelStatisticsResponse", SERIALIZE)
        .type_attribute(".inference.RepositoryIndexResponse", SERIALIZE)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(files)
        .expect("Rust from the descriptors");
    let rust = FILES.map(|name| {
        let code = fs::read_to_string(out.path().join(name)).expect("a generated file");
        (name, format!("{NOTE}{code}").into_bytes())
    });
    rust.into_iter().chain([(DESCRIPTORS, bare.encode_to_vec())]).collect()
}

#[test]
fn the_checked_in_code_is_what_proto_generates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join(GENERATED);
    for (name, fresh) in generate(root) {
        let file = folder.join(name);
        if env::var_os("ONNXD_REGENERATE").is_some_and(|v| v == "1") {
            fs::create_dir_all(&folder).expect("src/api/generated");
            fs::write(&file, &fresh).expect("the generated file, written");
            continue;
        }
        let kept = fs::read(&file).unwrap_or_default();
        let same = kept.iter().zip(&fresh).take_while(|(a, b)| a == b).count();
        let line = 1 + fresh[..same].iter().filter(|byte| **byte == b'\n').count();
        assert!(
            kept == fresh,
            "{GENERATED}/{name} is not what proto/ generates (first difference in line {line}): run ONNXD_REGENERATE=1 cargo test --test proto"
        );
    }
}
