//! What the probe found, kept: within the process, and in the state directory for the next start.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::runtime::{
    options::SessionOptions,
    probe::{self, Probe},
    session::Session,
};

/// Of the files. Another way of measuring needs another number, so that nobody trusts what the old way found.
const FORMAT: u32 = 1;
/// A file is a few hundred bytes.
const MAX_FILE: u64 = 64 << 10;
/// A run of the probe that took longer is not believed: the file is somebody else's.
const LONGEST: Duration = Duration::from_secs(3600);
/// Measurements kept in memory: more than there are models.
const MAX_KNOWN: usize = 1 << 14;

/// Everything that a measurement hangs on: two loads that agree in it cost the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Of all files of the version.
    sha256: String,
    /// Which onnxd measured: a debug build is no measure for another.
    onnxd: String,
    /// Runtime and version, as in `ONNX Runtime 1.32.0`.
    runtime: String,
    /// What the processor calls itself.
    processor: String,
    /// In effect, which may be others than those asked for.
    providers: Vec<String>,
    session: SessionOptions,
    can_batch: bool,
    /// Rows of the runs that are timed.
    sizes: Vec<usize>,
}

impl Subject {
    /// The name of its file.
    fn key(&self) -> String {
        // A subject is texts, numbers and lists: it always becomes JSON.
        hex::encode(Sha256::digest(serde_json::to_vec(self).unwrap_or_default()))
    }
}

/// Where a probe's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This load measured them.
    Now,
    /// A version with the same files was loaded before, by this process.
    Process(SystemTime),
    /// An earlier process left them.
    State(SystemTime),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Now => f.write_str("measured now"),
            Origin::Process(at) => {
                write!(f, "from a load of the same files by this process, measured {}", Date(*at))
            }
            Origin::State(at) => write!(f, "from the state directory, measured {}", Date(*at)),
        }
    }
}

/// One file of the state directory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    /// Seconds since 1970.
    measured: u64,
    subject: Subject,
    /// Rows of a run, and its nanoseconds.
    rows: Vec<(usize, u64)>,
    rows_agree: Agree,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Agree {
    /// The largest difference.
    Within(f64),
    No(String),
}

/// The measurements of this process, and of those before it where there is a state directory.
pub struct Measurements {
    directory: Option<PathBuf>,
    processor: String,
    known: Mutex<HashMap<String, (Probe, SystemTime)>>,
    written: AtomicU64,
    complained: AtomicBool,
}

impl Measurements {
    /// `state`: the state directory, which is made when something is first kept; `None`: nothing is written.
    pub fn new(state: Option<&Path>) -> Measurements {
        Measurements {
            directory: state.map(|s| s.join("probe")),
            processor: processor(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            known: Mutex::default(),
            written: AtomicU64::new(0),
            complained: AtomicBool::new(false),
        }
    }

    /// What a measurement of this session hangs on.
    pub fn subject(
        &self,
        sha256: &str,
        runtime: String,
        session: &dyn Session,
        options: &SessionOptions,
        sizes: &[usize],
    ) -> Subject {
        let build = if cfg!(debug_assertions) { " (debug)" } else { "" };
        Subject {
            sha256: sha256.to_owned(),
            onnxd: format!("{}{build}", env!("CARGO_PKG_VERSION")),
            runtime,
            processor: self.processor.clone(),
            providers: session.providers().to_vec(),
            session: options.clone(),
            can_batch: session.signature().can_batch,
            sizes: sizes.to_vec(),
        }
    }

    /// What is known of `subject`, after one run that warms the session up; else it is measured, and kept as of `now`.
    pub fn probe(
        &self,
        subject: &Subject,
        session: &dyn Session,
        now: SystemTime,
    ) -> (Probe, Origin) {
        let key = subject.key();
        // What does not run now was not measured like this: measuring says what is wrong.
        if let Some(found) = self.find(subject, &key)
            && probe::warm(session).is_ok()
        {
            return found;
        }
        let probe = probe::probe(session, &subject.sizes);
        // An error may be of the moment: it costs a run or two to see whether it still stands.
        if probe.error.is_none() && !probe.rows.is_empty() {
            self.keep(subject, key, &probe, now);
        }
        (probe, Origin::Now)
    }

    /// What is known of `subject`, without a run.
    pub fn known(&self, subject: &Subject) -> Option<Probe> {
        self.find(subject, &subject.key()).map(|(probe, _)| probe)
    }

    fn find(&self, subject: &Subject, key: &str) -> Option<(Probe, Origin)> {
        if let Some((probe, at)) = self.known.lock().get(key) {
            return Some((probe.clone(), Origin::Process(*at)));
        }
        let path = self.directory.as_ref()?.join(format!("{key}.json"));
        match read(&path, subject) {
            Ok(found) => found.map(|(probe, at)| (probe, Origin::State(at))),
            Err(reason) => {
                tracing::debug!(path = %path.display(), reason, "a measurement that was kept is ignored");
                None
            }
        }
    }

    fn keep(&self, subject: &Subject, key: String, probe: &Probe, now: SystemTime) {
        if let Some(directory) = &self.directory
            && let Err(error) = self.write(directory, subject, &key, probe, now)
        {
            // Once: the reason is the directory's, and there may be thousands of models.
            if self.complained.swap(true, Ordering::Relaxed) {
                tracing::debug!(directory = %directory.display(), %error, "a measurement cannot be kept");
            } else {
                tracing::warn!(directory = %directory.display(), %error,
                    "what models cost cannot be kept in the state directory: the next start measures again");
            }
        }
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(key, (probe.clone(), now));
    }

    /// Under another name first, so that whoever reads sees all of it or nothing.
    fn write(
        &self,
        directory: &Path,
        subject: &Subject,
        key: &str,
        probe: &Probe,
        now: SystemTime,
    ) -> io::Result<()> {
        let nanos = |took: &Duration| u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let kept = Kept {
            format: FORMAT,
            measured: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            subject: subject.clone(),
            rows: probe.rows.iter().map(|(rows, took)| (*rows, nanos(took))).collect(),
            rows_agree: match &probe.consistent {
                Ok(largest) => Agree::Within(*largest),
                Err(why) => Agree::No(why.clone()),
            },
        };
        let mut text = serde_json::to_vec_pretty(&kept)?;
        text.push(b'\n');
        fs::create_dir_all(directory)?;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let draft = directory.join(format!(".{key}.{}.{number}", std::process::id()));
        let written = fs::File::create(&draft)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&draft, directory.join(format!("{key}.json"))));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written
    }
}

/// `Ok(None)`: there is no such file. The error says why what is there cannot be used.
fn read(path: &Path, subject: &Subject) -> Result<Option<(Probe, SystemTime)>, String> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|e| e.to_string())?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if kept.format != FORMAT {
        return Err(format!("format {}: expected {FORMAT}", kept.format));
    }
    if kept.subject != *subject {
        return Err("it is about something else than its name says".to_owned());
    }
    let rows: Vec<(usize, Duration)> =
        kept.rows.iter().map(|(rows, nanos)| (*rows, Duration::from_nanos(*nanos))).collect();
    let first = rows.first().is_some_and(|(rows, _)| *rows == 1);
    let rising = rows.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let believable = rows.iter().all(|(_, took)| !took.is_zero() && *took < LONGEST);
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(kept.measured));
    let (true, true, true, Some(at)) = (first, rising, believable, at) else {
        return Err("its numbers are none that a measurement gives".to_owned());
    };
    let consistent = match kept.rows_agree {
        Agree::Within(largest) => Ok(largest),
        Agree::No(why) => Err(why),
    };
    Ok(Some((Probe { rows, consistent, error: None }, at)))
}

/// The processor's name in the text of `/proc/cpuinfo`; else the architecture's.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let named = field("model name").filter(|name| !name.is_empty());
    // Arm's processors have numbers in place of a name.
    let numbered = || Some(format!("{} {}", field("CPU implementer")?, field("CPU part")?));
    let architecture = std::env::consts::ARCH;
    named.or_else(numbered).map_or(architecture.into(), |name| format!("{architecture} {name}"))
}

/// The day of a time, in UTC, as in `2026-11-23`.
struct Date(SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        // Years repeat themselves every 400, which have 146,097 days.
        let (mut year, mut day) =
            (1970 + seconds / 86_400 / 146_097 * 400, seconds / 86_400 % 146_097);
        while day >= 365 + u64::from(leap(year)) {
            day -= 365 + u64::from(leap(year));
            year += 1;
        }
        let mut month = 1;
        for days in [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if day < days {
                break;
            }
            day -= days;
            month += 1;
        }
        write!(f, "{year:04}-{month:02}-{:02}", day + 1)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        runtime::echo::{Echo, EchoSession, rows_of},
        types::datatype::Datatype,
    };

    fn session() -> EchoSession {
        let echo = Echo { cost: Duration::from_micros(20), ..Echo::default() };
        EchoSession::new(rows_of(Datatype::Fp32, 3), echo)
    }

    fn subject(measurements: &Measurements, sha256: &str) -> Subject {
        let options = SessionOptions::default();
        measurements.subject(sha256, "echo".into(), &session(), &options, &[1, 2, 4])
    }

    /// The 23rd of November 2026, shortly before midnight.
    fn day() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_478_399)
    }

    fn the_file(state: &Path) -> PathBuf {
        let mut files: Vec<PathBuf> =
            fs::read_dir(state.join("probe")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "one file and no draft: {files:?}");
        files.remove(0)
    }

    #[test]
    fn what_an_earlier_process_measured_takes_one_run() {
        let dir = TempDir::new().unwrap();
        let state = dir.path().join("not/there/yet");
        let first = Measurements::new(Some(&state));
        let about = subject(&first, "a");
        let (measured, origin) = first.probe(&about, &session(), day());
        assert_eq!((origin, measured.error), (Origin::Now, None));
        let name = the_file(&state).file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, format!("{}.json", about.key()));

        let second = Measurements::new(Some(&state));
        let session = session();
        let (read, origin) = second.probe(&subject(&second, "a"), &session, SystemTime::now());
        assert_eq!(session.runs(), [1], "one run to warm up");
        assert_eq!((read.rows, read.consistent), (measured.rows, measured.consistent));
        assert_eq!(origin.to_string(), "from the state directory, measured 2026-11-23");
        assert_eq!(second.probe(&subject(&second, "b"), &session, day()).1, Origin::Now);
    }

    #[test]
    fn within_the_process_the_same_files_are_measured_once_and_nothing_is_written() {
        let measurements = Measurements::new(None);
        let about = subject(&measurements, "a");
        assert_eq!(measurements.probe(&about, &session(), day()).1, Origin::Now);
        let session = session();
        assert_eq!(measurements.probe(&about, &session, day()).1, Origin::Process(day()));
        assert_eq!(session.runs(), [1]);
        // Anything that changes what a run costs is another subject.
        let options = SessionOptions { intra_op_threads: 2, ..SessionOptions::default() };
        let other = measurements.subject("a", "echo".into(), &session, &options, &[1, 2, 4]);
        assert_eq!(measurements.probe(&other, &session, day()).1, Origin::Now);
        for changed in [
            Subject { runtime: "echo 2".into(), ..about.clone() },
            Subject { processor: "another".into(), ..about.clone() },
            Subject { can_batch: false, ..about.clone() },
        ] {
            assert_ne!(changed.key(), about.key());
        }
    }

    #[test]
    fn a_broken_file_is_measured_over() {
        let dir = TempDir::new().unwrap();
        let first = Measurements::new(Some(dir.path()));
        let about = subject(&first, "a");
        first.probe(&about, &session(), day());
        let file = the_file(dir.path());
        let good = fs::read_to_string(&file).unwrap();
        let changed = |from: &str, to: &str| {
            assert!(good.contains(from), "{good}");
            good.replace(from, to)
        };
        for broken in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            changed("\"format\": 1", "\"format\": 2"),
            changed("\"sha256\": \"a\"", "\"sha256\": \"b\""),
            changed("\"rows\": [", "\"rows\": [[1, 0],"),
            changed("\"measured\": ", "\"measured\": 99999999999"),
        ] {
            fs::write(&file, broken).unwrap();
            let fresh = Measurements::new(Some(dir.path()));
            assert_eq!(fresh.probe(&about, &session(), day()).1, Origin::Now);
            let again = Measurements::new(Some(dir.path()));
            assert_eq!(again.probe(&about, &session(), day()).1, Origin::State(day()));
        }
        // Nor does a directory that cannot be one stop a load.
        fs::write(dir.path().join("file"), "").unwrap();
        let nowhere = Measurements::new(Some(&dir.path().join("file")));
        assert_eq!(nowhere.probe(&about, &session(), day()).1, Origin::Now);
    }

    #[test]
    fn what_the_model_does_not_take_is_tried_again() {
        let measurements = Measurements::new(None);
        let about = subject(&measurements, "a");
        let refuses = EchoSession::new(rows_of(Datatype::Fp32, 1 << 40), Echo::default());
        assert!(measurements.probe(&about, &refuses, day()).0.error.is_some());
        assert_eq!(measurements.probe(&about, &session(), day()).1, Origin::Now);
        // Known, but it no longer runs: that is said, not what was.
        let (probe, origin) = measurements.probe(&about, &refuses, day());
        assert_eq!((probe.error.is_some(), origin), (true, Origin::Now));
    }

    #[test]
    fn dates_and_processors_are_named() {
        let date = |seconds| Date(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_478_399), "2026-11-23");
        assert_eq!(date(1_798_761_600), "2027-01-01");
        assert_eq!(date(4_107_542_400), "2100-03-01");
        assert!(
            processor("flags: x\nmodel name\t: Fast 3000 @ 2GHz\n").ends_with(" Fast 3000 @ 2GHz")
        );
        assert!(processor("CPU implementer : 0x41\nCPU part : 0xd40\n").ends_with(" 0x41 0xd40"));
        assert_eq!(processor(""), std::env::consts::ARCH);
    }
}
