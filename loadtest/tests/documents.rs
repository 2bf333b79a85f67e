//! Files that people copy from are held to what the code takes.

use std::{fs, path::Path};

use clap::Parser;
use onnxd_loadtest::{cli::Cli, plan::Shard, scenario::Scenario};
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
        let mut args: Vec<String> =
            args.iter().map(|arg| arg.replace("$(INDEX)", &pod.to_string())).collect();
        args[0] = "onnxd-loadtest".to_owned();
        Cli::try_parse_from(&args).unwrap_or_else(|e| panic!("{e}"));
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

/// Every scenario that is shipped is taken as it stands, says how it is run, and asks for models that are in models/.
#[test]
fn the_scenarios_are_whole() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("scenarios")).expect("the scenarios").flatten() {
        let path = entry.path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let scenario = Scenario::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let resolved = scenario.resolve().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(scenario.name.as_deref(), Some(&*name));
        assert!(resolved.phases[0].warm_up, "{name}: it warms up");
        let judged = resolved.phases.iter().zip(&resolved.slos).filter(|(p, _)| !p.warm_up);
        assert!(judged.clone().count() > 0 && judged.clone().all(|(_, slo)| !slo.is_empty()));
        for entry in &scenario.mix {
            let version = entry.version.as_deref().unwrap_or("1");
            let model = root.join("../models").join(&entry.model).join(version).join("model.onnx");
            assert!(model.is_file(), "{name}: {}", model.display());
        }
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.contains(&format!("onnxd loadtest run loadtest/scenarios/{name}.yaml")));
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["canary", "sidecar", "swap"]);
    let swap = Scenario::read(&root.join("scenarios/swap.yaml")).expect("it was read above");
    let events = swap.resolve().expect("it was resolved above").events;
    assert!(events[0].required && events[0].slo.is_some());
}
