//! Holds the checked-in Rust of the gRPC contract to what `proto/` generates today, byte for byte.
//!
//! After a change of `proto/`: `ONNXD_REGENERATE=1 cargo test --test proto`.

use std::{env, fs, path::Path};

const GENERATED: &str = "src/api/generated/inference.rs";
const SERIALIZE: &str = "#[derive(::serde::Serialize, ::utoipa::ToSchema)]";

/// What the generator makes of `proto/`, under a note that says where it comes from.
fn generate(root: &Path) -> String {
    let out = tempfile::tempdir().expect("a temporary directory");
    let files = protox::compile(["grpc_service.proto"], [root.join("proto")])
        .unwrap_or_else(|error| panic!("proto/ does not compile: {error}"));
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
    let code = fs::read_to_string(out.path().join("inference.rs")).expect("the generated file");
    format!(
        "// From proto/ by tests/proto.rs (ONNXD_REGENERATE=1 cargo test --test proto). Not for editing.\n{code}"
    )
}

#[test]
fn the_checked_in_code_is_what_proto_generates() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join(GENERATED);
    let fresh = generate(root);
    if env::var_os("ONNXD_REGENERATE").is_some_and(|v| v == "1") {
        fs::create_dir_all(file.parent().expect("a directory")).expect("src/api/generated");
        fs::write(&file, &fresh).expect("the generated file, written");
        return;
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let line = kept.lines().zip(fresh.lines()).position(|(a, b)| a != b);
    assert!(
        kept == fresh,
        "{GENERATED} is not what proto/ generates (first difference at line {:?}): run ONNXD_REGENERATE=1 cargo test --test proto",
        line.map(|n| n + 1)
    );
}
