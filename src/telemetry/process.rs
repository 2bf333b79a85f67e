//! What the operating system says of this process: memory, processor time, descriptors, threads.

/// Read at each scrape; a field is `None` where the system does not say (anything but Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    /// Since the Unix epoch.
    pub start_time: Option<f64>,
    pub machine: Option<Memory>,
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub total_bytes: u64,
    /// What programs could still have; at most the total.
    pub available_bytes: u64,
}

/// Units of `/proc/self/stat`.
#[derive(Clone, Copy, Debug)]
struct Units {
    ticks_per_second: f64,
    page_bytes: u64,
}

/// Lets the process open as many files as it may, whatever it was started with: every connection is one. The limit, where
/// it could be raised.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes a local.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return None;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads a local.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    raised.then_some(limit.rlim_cur)
}

/// Reads `/proc`.
pub fn read() -> Process {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut process = parse_stat(&text("/proc/self/stat"), &text("/proc/stat"), units());
    process.max_fds = parse_limits(&text("/proc/self/limits"));
    process.machine = parse_meminfo(&text("/proc/meminfo"));
    // One descriptor is the listing's own.
    let listing = std::fs::read_dir("/proc/self/fd");
    process.open_fds = listing.ok().map(|entries| (entries.count() as u64).saturating_sub(1));
    process
}

fn units() -> Units {
    // SAFETY: sysconf takes a number and returns one; it touches no memory of ours.
    let (ticks, page) =
        unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
    Units {
        ticks_per_second: if ticks > 0 { ticks as f64 } else { 100.0 },
        page_bytes: u64::try_from(page).unwrap_or(4096),
    }
}

/// The fields of `/proc/self/stat` after the command's name, which may itself hold blanks and brackets.
fn parse_stat(stat: &str, system: &str, units: Units) -> Process {
    let Some((_, rest)) = stat.rsplit_once(')') else { return Process::default() };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The manual counts from 1 and has the command second: field 3 is the first here.
    let field = |number: usize| fields.get(number - 3).and_then(|f| f.parse::<u64>().ok());
    let seconds = |ticks: u64| ticks as f64 / units.ticks_per_second;
    let boot =
        system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok());
    Process {
        cpu_seconds: field(14).zip(field(15)).map(|(user, system)| seconds(user + system)),
        threads: field(20),
        start_time: boot.zip(field(22)).map(|(boot, ticks)| boot as f64 + seconds(ticks)),
        virtual_bytes: field(23),
        resident_bytes: field(24).map(|pages| pages * units.page_bytes),
        ..Process::default()
    }
}

/// The soft limit of open files.
fn parse_meminfo(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let total_bytes = field("MemTotal:")?;
    Some(Memory { total_bytes, available_bytes: field("MemAvailable:")?.min(total_bytes) })
}

fn parse_limits(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_an_awkward_name() {
        let stat = "7 (on) x (d) S 1 7 7 0 -1 4194304 90 0 0 0 150 50 0 0 20 0 9 0 1000 40960 25 18446744073709551615";
        let units = Units { ticks_per_second: 100.0, page_bytes: 4096 };
        let process = parse_stat(stat, "cpu 1 2\nbtime 1700000000\n", units);
        assert_eq!(process.cpu_seconds, Some(2.0));
        assert_eq!(process.threads, Some(9));
        assert_eq!(process.start_time, Some(1_700_000_010.0));
        assert_eq!(process.virtual_bytes, Some(40960));
        assert_eq!(process.resident_bytes, Some(25 * 4096));
        assert_eq!(parse_stat("", "", units), Process::default());
    }

    #[test]
    fn limits_are_read() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(parse_limits(text), Some(1024));
        assert_eq!(parse_limits("Max open files unlimited unlimited files"), None);
    }

    #[test]
    fn memory_is_read() {
        let text = "MemTotal:       2000 kB\nMemFree:  10 kB\nMemAvailable:   500 kB\n";
        let memory = Memory { total_bytes: 2_048_000, available_bytes: 512_000 };
        assert_eq!(parse_meminfo(text), Some(memory));
        assert_eq!(parse_meminfo("MemTotal: lots\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_alive() {
        let process = read();
        assert!(process.resident_bytes > Some(1 << 20));
        assert!(process.threads >= Some(1) && process.open_fds >= Some(3));
        assert!(process.start_time > Some(1.6e9));
    }
}
