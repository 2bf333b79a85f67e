//! Processes of a test: started, listened to, ended with it.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take for what takes it seconds: a debug build on a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test.
pub fn loadtest() -> Command {
    Command::new(env!("CARGO_BIN_EXE_onnxd-loadtest"))
}

/// A binary of the workspace's other packages, where it was built with this one.
pub fn sibling(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_onnxd-loadtest")).with_file_name(name);
    path.is_file().then_some(path)
}

pub fn wait_for<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that runs until the test is over. What it says on standard error can be waited for.
pub struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr: ChildStderr = child.stderr.take().expect("stderr is piped");
        let said = Arc::new(Mutex::new(String::new()));
        // More lines than a test waits for are kept in `said` alone.
        let (sender, lines) = mpsc::sync_channel(10_000);
        let kept = Arc::clone(&said);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&line);
                kept.push('\n');
                let _ = sender.try_send(line);
            }
        });
        Running { child, said, lines }
    }

    /// The next line on standard error that has these words.
    pub fn line(&self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(_) => {}
                Err(_) => panic!("no line with {words:?}:\n{}", self.said()),
            }
        }
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal)
            .expect("it is there: nobody waited for it");
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        wait_for("the process ends", || self.child.try_wait().expect("it can be waited for"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// How a command ended that is to end by itself.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it did not, and was killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end. Its output goes through files: no pipe can fill.
pub fn run_to_end(command: &mut Command) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
    let (out, err) = (file("out"), file("err"));
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let end = Instant::now() + PATIENCE;
    let code = loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break status.code(),
            None if Instant::now() >= end => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = |name: &str| {
        String::from_utf8_lossy(&fs::read(folder.path().join(name)).expect("readable")).into_owned()
    };
    Ended { code, stdout: text("out"), stderr: text("err") }
}
