//! Files that people copy from are held to what the code takes.

use std::{fs, path::Path};

use onnxd_loadtest::plan::Shard;
use serde_json::Value;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|v| v.as_str().expect("a text")).collect()
}

/// The Job's pods are as many as the shards, each gets its own, and none is started twice.
#[test]
fn the_job_shares_one_load_out() {
    let text = file("deploy/loadtest-job.yaml");
    let job: Value = serde_saphyr::from_str(&text).expect("it is YAML");
    assert_eq!((&job["apiVersion"], &job["kind"]), (&"batch/v1".into(), &"Job".into()));
    let spec = &job["spec"];
    assert_eq!(spec["completionMode"], "Indexed");
    assert_eq!(spec["backoffLimit"], 0);
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    let containers = pod["containers"].as_array().expect("containers");
    let [container] = &containers[..] else { panic!("{containers:?}") };
    let index = &container["env"][0];
    assert_eq!(index["name"], "INDEX");
    assert_eq!(
        index["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    );
    let args = strings(&container["args"]);
    assert_eq!(args[..2], ["loadtest", "run"]);
    let shard = args.iter().find_map(|arg| arg.strip_prefix("--shard=")).expect("a shard");
    let pods = spec["completions"].as_u64().expect("a number");
    assert_eq!(spec["parallelism"].as_u64(), Some(pods), "all of them at once");
    for pod in 0..pods {
        let shard: Shard = shard.replace("$(INDEX)", &pod.to_string()).parse().expect("a shard");
        assert_eq!((shard.index as u64, shard.of as u64), (pod, pods));
    }
    // A request that is lower than its limit may be throttled.
    assert_eq!(container["resources"]["requests"], container["resources"]["limits"]);
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    let labels = &spec["template"]["metadata"]["labels"];
    let spread = &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"];
    assert_eq!(labels, spread, "the pods know each other");
    let name = job["metadata"]["name"].as_str().expect("a name");
    assert!(text.contains(&format!("job/{name}")) && text.contains(&format!("job-name={name}")));
}
