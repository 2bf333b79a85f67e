//! How many processors this process may use: its affinity and its cgroups' limits, as a container gets them.

use std::{fs, path::Path};

/// Whole processors that may be used, at least one. Asked once, at start.
pub fn cores() -> usize {
    let affinity = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    whole(affinity, &limits(Path::new("/sys/fs/cgroup"), &text("/proc/self/cgroup")))
}

/// The processors that `affinity` and each limit allow. A fraction is rounded down: with 2.5 processors, three busy threads
/// would be stopped for a part of every period, and that is seen in the tail of the latencies.
fn whole(affinity: usize, limits: &[f64]) -> usize {
    let least = limits.iter().fold(affinity as f64, |least, limit| least.min(*limit));
    // Saturates; a limit that is no number has been left out.
    (least as usize).max(1)
}

/// The limits of this process's cgroup and of all above it: each of them holds.
fn limits(root: &Path, own: &str) -> Vec<f64> {
    let Some(own) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    // Within a container the path may lead outside of what is mounted: then only the root's limit is seen, which is ours.
    let mut found = Vec::new();
    for group in Path::new(own).ancestors() {
        let file = root.join(group).join("cpu.max");
        found.extend(fs::read_to_string(file).ok().and_then(|text| limit(&text)));
    }
    found
}

/// Processors by the text of `cpu.max`: `200000 100000` is two, `max 100000` no limit.
fn limit(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next().map_or(Some(100_000.0), |period| period.parse().ok())?;
    let processors = quota / period;
    (processors.is_finite() && processors > 0.0).then_some(processors)
}

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_is_read() {
        assert_eq!(limit("200000 100000\n"), Some(2.0));
        assert_eq!(limit("50000 100000"), Some(0.5));
        assert_eq!(limit("150000"), Some(1.5));
        for none in ["max 100000\n", "", "-1 100000", "100000 0", "0 100000", "x y"] {
            assert_eq!(limit(none), None, "{none:?}");
        }
    }

    #[test]
    fn the_least_limit_holds_and_never_none_is_left() {
        assert_eq!(whole(8, &[]), 8);
        assert_eq!(whole(8, &[2.9, 4.0]), 2);
        assert_eq!(whole(2, &[16.0]), 2);
        assert_eq!(whole(8, &[0.25]), 1);
        assert_eq!(whole(0, &[]), 1);
    }

    #[test]
    fn every_cgroup_above_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("pod/onnxd");
        fs::create_dir_all(&inner).expect("made");
        fs::write(inner.join("cpu.max"), "max 100000").expect("written");
        fs::write(root.path().join("pod/cpu.max"), "300000 100000").expect("written");
        assert_eq!(limits(root.path(), "12:cpu:/x\n0::/pod/onnxd\n"), [3.0]);
        assert_eq!(limits(root.path(), "0::/"), [0.0; 0]);
        assert_eq!(limits(root.path(), "4:cpu,cpuacct:/docker/x\n"), [0.0; 0]);
        assert!(cores() >= 1);
    }
}
