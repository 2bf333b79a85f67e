//! How many cores the process may use: its affinity, and its cgroup's limit.

use std::fs;

/// Cores in the process's budget, at least 1.
pub fn cores() -> usize {
    let affinity = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Why beside the standard library, which reads the limit too: it rounds down, so that 1.5 cores would count as 1.
    let limit = fs::read_to_string("/sys/fs/cgroup/cpu.max").ok();
    budget(affinity, limit.as_deref())
}

/// Cores from the affinity and from the text of the cgroup's `cpu.max` (`QUOTA PERIOD`, or `max PERIOD`), rounded up: a
/// thread too many waits a little, a thread too few leaves quota unused.
fn budget(affinity: usize, cpu_max: Option<&str>) -> usize {
    let quota = cpu_max.and_then(|text| {
        let (quota, period) = text.trim().split_once(' ')?;
        let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
        (quota > 0 && period > 0).then(|| quota.div_ceil(period))
    });
    let cores = quota.map_or(affinity, |quota| affinity.min(usize::try_from(quota).unwrap_or(1)));
    cores.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_affinity_and_quota_counts() {
        assert_eq!(budget(8, None), 8);
        assert_eq!(budget(8, Some("max 100000\n")), 8);
        assert_eq!(budget(8, Some("150000 100000\n")), 2);
        assert_eq!(budget(1, Some("150000 100000")), 1);
        assert_eq!(budget(8, Some("5000 100000")), 1);
        assert_eq!(budget(8, Some("nonsense")), 8);
        assert_eq!(budget(8, Some("0 0")), 8);
    }
}
