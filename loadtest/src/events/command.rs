//! One command as a child process: started, waited for, ended where it must be, its output kept within bounds.

use std::{
    io::{self, PipeReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Ended;

/// What is kept of a command's output: its end, where errors are.
const KEPT_BYTES: usize = 4096;
/// How often a command is looked at.
const POLL: Duration = Duration::from_millis(10);
/// Between asking a command to end and ending it.
const GRACE: Duration = Duration::from_secs(2);
/// What a command left running in the background keeps its output open; what it wrote itself is there by then.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);

/// How an event ended, and what it said last.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub ended: Ended,
    pub output: String,
}

/// Runs a command to its end, to `timeout`, or until `stop` says so. It has a process group of its own: a Ctrl-C at the terminal
/// is ours to pass on, and what it started ends with it where it is ended.
pub fn run(
    argv: &[String],
    environment: &[(String, String)],
    timeout: Duration,
    stop: impl Fn() -> bool,
) -> Ran {
    let not_started =
        |e: &io::Error| Ran { ended: Ended::NotStarted(e.to_string()), output: String::new() };
    let Some((program, arguments)) = argv.split_first() else {
        return not_started(&io::ErrorKind::InvalidInput.into());
    };
    let (mut child, output) = match start(program, arguments, environment) {
        Ok(started) => started,
        Err(error) => return not_started(&error),
    };
    let end = Instant::now() + timeout;
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break how(status),
            Ok(None) if stop() => {
                finish(&mut child);
                break Ended::Interrupted;
            }
            Ok(None) if Instant::now() >= end => {
                finish(&mut child);
                break Ended::TimedOut;
            }
            Ok(None) => thread::sleep(POLL),
            Err(error) => {
                finish(&mut child);
                break Ended::NotStarted(format!("it cannot be waited for: {error}"));
            }
        }
    };
    Ran { ended, output: output.text() }
}

fn start(
    program: &str,
    arguments: &[String],
    environment: &[(String, String)],
) -> io::Result<(Child, Output)> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let child = command.spawn()?;
    // Ours goes with `command`: the pipe ends with the last of those who write.
    drop(command);
    Ok((child, Output::read(reader)?))
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or(0)),
    }
}

/// Asks a command and what it started to end, and ends them where they don't.
fn finish(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| {
        // Not there any more is what is wanted.
        let _ = group.map(|group| kill_process_group(group, signal));
    };
    signal(Signal::TERM);
    let end = Instant::now() + GRACE;
    while Instant::now() < end {
        if !matches!(child.try_wait(), Ok(None)) {
            break;
        }
        thread::sleep(POLL);
    }
    signal(Signal::KILL);
    let _ = child.wait();
}

/// The end of what somebody writes.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    dropped: u64,
}

impl Tail {
    pub fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        let over = self.bytes.len().saturating_sub(KEPT_BYTES);
        self.bytes.drain(..over);
        self.dropped += over as u64;
    }

    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        match self.dropped {
            0 => text.into_owned(),
            // The first character may have been cut in two.
            dropped => {
                format!("({dropped} bytes left out)\n{}", text.trim_start_matches('\u{fffd}'))
            }
        }
    }
}

/// A thread that reads whatever comes, so that no command waits for us to read.
#[derive(Debug)]
struct Output {
    tail: Arc<Mutex<Tail>>,
    whole: Receiver<()>,
}

impl Output {
    fn read(mut from: PipeReader) -> io::Result<Output> {
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (done, whole) = mpsc::sync_channel(1);
        let ours = Arc::clone(&tail);
        thread::Builder::new().name("event output".to_owned()).spawn(move || {
            let mut part = [0; 4096];
            loop {
                match from.read(&mut part) {
                    Ok(0) => break,
                    Ok(n) => {
                        ours.lock().unwrap_or_else(PoisonError::into_inner).push(&part[..n]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            let _ = done.try_send(());
        })?;
        Ok(Output { tail, whole })
    }

    fn text(&self) -> String {
        let _ = self.whole.recv_timeout(OUTPUT_GRACE);
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).text()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicBool, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(120);

    fn sh(line: &str) -> Ran {
        run(&["/bin/sh".into(), "-c".into(), line.into()], &[], LONG, || false)
    }

    #[test]
    fn how_it_ended_and_what_it_said() {
        let ran = sh("echo out; echo err >&2; exit 3");
        assert_eq!(ran, Ran { ended: Ended::Exit(3), output: "out\nerr\n".to_owned() });
        assert_eq!(sh("kill -9 $$").ended, Ended::Signal(9));
        let missing = run(&["/nowhere/at all".to_owned()], &[], LONG, || false);
        assert!(matches!(missing.ended, Ended::NotStarted(_)), "{missing:?}");
    }

    #[test]
    fn it_finds_what_it_is_told_in_its_environment() {
        let environment = [("LOADTEST_URL".to_owned(), "grpc://h:1".to_owned())];
        let argv = ["/bin/sh", "-c", "echo $LOADTEST_URL; cat"].map(str::to_owned);
        assert_eq!(run(&argv, &environment, LONG, || false).output, "grpc://h:1\n");
    }

    #[test]
    fn only_the_end_of_much_output_is_kept() {
        let ran = sh("i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done");
        assert_eq!(ran.ended, Ended::Exit(0));
        assert!(ran.output.starts_with('('), "{}", ran.output);
        assert!(ran.output.ends_with("line 4999\n") && ran.output.len() < KEPT_BYTES + 64);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_it_started() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("pid");
        let line = format!("sleep 600 & echo $! > {}.part; mv {0}.part {0}; wait", file.display());
        let ran =
            run(&["/bin/sh".into(), "-c".into(), line], &[], Duration::from_millis(500), || false);
        // Where the machine is so busy that the shell came to nothing, there is nothing left to look for.
        assert_eq!(ran.ended, Ended::TimedOut);
        if let Ok(pid) = fs::read_to_string(&file) {
            assert_gone(pid.trim());
        }
    }

    /// A process ends, or is there for its parent to wait for only.
    fn assert_gone(pid: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        while let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) {
            if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')) {
                return;
            }
            assert!(Instant::now() < end, "{stat}");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn it_is_ended_with_an_interrupted_run() {
        let home = tempfile::tempdir().unwrap();
        let started = home.path().join("started");
        let line = format!("touch {}; exec sleep 600", started.display());
        let asked = AtomicBool::new(false);
        let ran = run(&["/bin/sh".into(), "-c".into(), line], &[], LONG, || {
            asked.store(started.exists(), Ordering::SeqCst);
            asked.load(Ordering::SeqCst)
        });
        assert_eq!(ran.ended, Ended::Interrupted);
    }

    #[test]
    fn what_it_leaves_running_is_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("pid");
        let ran = sh(&format!("sleep 600 & echo $! > {}; echo done", file.display()));
        assert_eq!(ran, Ran { ended: Ended::Exit(0), output: "done\n".to_owned() });
        let pid = fs::read_to_string(&file).unwrap();
        assert!(fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "it was left alone");
        assert_eq!(sh(&format!("kill {}", pid.trim())).ended, Ended::Exit(0));
    }

    proptest! {
        #[test]
        fn a_tail_is_the_end(parts in proptest::collection::vec("[a-z]{0,3000}", 0..6)) {
            let mut tail = Tail::default();
            parts.iter().for_each(|part| tail.push(part.as_bytes()));
            let all = parts.concat();
            let kept = all.len().min(KEPT_BYTES);
            prop_assert_eq!(tail.dropped as usize, all.len() - kept);
            prop_assert!(tail.text().ends_with(&all[all.len() - kept..]));
        }
    }
}
