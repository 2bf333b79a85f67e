//! Runs clients that others wrote (tritonclient, perf_analyzer) against the server: one test a file of tests/clients.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long a server may take to say where it listens and to be ready: a debug build on a busy machine is slow.
const START: Duration = Duration::from_secs(120);
/// How long a server may take to end after SIGTERM: its own limit is 30 seconds.
const STOP: Duration = Duration::from_secs(40);
const EXAMPLES: [&str; 4] = ["wine", "digits", "diabetes", "language"];
const REAL: [&str; 6] =
    ["magika", "silero_vad", "silero_vad_16k_sequence", "ocr_det", "ocr_rec", "ocr_cls"];

#[test]
fn tritonclient_http() {
    run("test_tritonclient_http.py", &EXAMPLES, &[]);
}

#[test]
fn tritonclient_grpc() {
    run("test_tritonclient_grpc.py", &EXAMPLES, &[]);
}

#[test]
fn tritonclient_aio() {
    run("test_tritonclient_aio.py", &EXAMPLES, &[]);
}

#[test]
fn answers() {
    run("test_answers.py", &EXAMPLES, &REAL);
}

#[test]
fn perf_analyzer() {
    run("test_perf_analyzer.py", &EXAMPLES, &[]);
}

/// One server over the test models and those named, one Python file against it, one clean end.
fn run(file: &str, examples: &[&str], real: &[&str]) {
    let _alone = one_at_a_time();
    script("setup-tests.sh");
    if !real.is_empty() {
        script("fetch-models.sh");
    }
    let home = tempfile::tempdir().expect("a temporary directory");
    let repository = home.path().join("repository");
    fs::create_dir(&repository).expect("the repository's directory");
    for (names, from) in [(examples, root().join("models")), (real, target().join("real-models"))] {
        for name in names {
            copy(&from.join(name), &repository.join(name));
        }
    }
    succeed(python().arg(clients().join("make_models.py")).arg(&repository), "make_models.py");

    let server = Server::start(home.path(), &repository);
    let out = python()
        .args(["-m", "pytest", "-c"])
        .arg(clients().join("pytest.ini"))
        .arg(clients().join(file))
        .env("CLIENTS_HTTP", &server.http)
        .env("CLIENTS_GRPC", &server.grpc)
        .env("CLIENTS_REPOSITORY", &repository)
        .output()
        .expect("pytest starts");
    println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{file} failed; the server said:\n{}", server.said());
    server.stop();
}

/// The machine is small and some clients measure: servers of different tests do not share it.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo's target directory, wherever it is.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory")
}

fn clients() -> PathBuf {
    root().join("tests/clients")
}

fn python() -> Command {
    let mut command = Command::new(target().join("venv-tests/bin/python"));
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("CARGO_TARGET_DIR", target());
    command
}

/// Runs one of scripts/: quick where its work is done, and locked against another test that runs it too.
fn script(name: &str) {
    let path = root().join("scripts").join(name);
    succeed(Command::new("bash").arg(path).env("CARGO_TARGET_DIR", target()), name);
}

fn succeed(command: &mut Command, what: &str) {
    let out = command.output().unwrap_or_else(|e| panic!("{what} does not start: {e}"));
    let text = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(out.status.success(), "{what} failed:\n{text}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("a directory entry");
        let (source, copied) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &copied);
        } else {
            fs::copy(&source, &copied).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        }
    }
}

struct Server {
    child: Child,
    http: String,
    grpc: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    fn start(home: &Path, repository: &Path) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_onnxd"))
            .arg("serve")
            .arg("--models")
            .arg(repository)
            .args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--operator", "127.0.0.1:0"])
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("onnxd starts");
        let (log, listening) = (Arc::new(Mutex::new(String::new())), mpsc::channel());
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (kept, found) = (Arc::clone(&log), listening.0);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if let Some(at) = line.find("listening http=") {
                    let _ = found.send(line[at..].to_owned());
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        let mut server = Server { child, http: String::new(), grpc: String::new(), log };
        let Ok(line) = listening.1.recv_timeout(START) else {
            panic!("onnxd did not say where it listens:\n{}", server.said());
        };
        let address = |key: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            value.unwrap_or_else(|| panic!("no {key} in {line:?}")).to_owned()
        };
        (server.http, server.grpc) = (address("http="), address("grpc="));
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&mut self) {
        let end = Instant::now() + START;
        while !self.ready() {
            let left = self.child.try_wait().expect("onnxd can be waited for");
            assert!(left.is_none(), "onnxd ended with {left:?}:\n{}", self.said());
            assert!(Instant::now() < end, "onnxd is not ready:\n{}", self.said());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut peer = TcpStream::connect(&self.http)?;
            peer.set_read_timeout(Some(Duration::from_secs(5)))?;
            let host = &self.http;
            write!(
                peer,
                "GET /v2/health/ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer)?;
            Ok(answer.starts_with(b"HTTP/1.1 200"))
        };
        ask().unwrap_or(false)
    }

    fn said(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// SIGTERM, and exit code 0 in time.
    fn stop(mut self) {
        self.terminate();
        let end = Instant::now() + STOP;
        loop {
            if let Some(status) = self.child.try_wait().expect("onnxd can be waited for") {
                assert!(status.success(), "onnxd ended with {status}:\n{}", self.said());
                return;
            }
            assert!(Instant::now() < end, "onnxd did not end:\n{}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn terminate(&self) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a process id fits pid_t");
        // SAFETY: kill takes no pointer; the child is not waited for yet, so that its id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            thread::sleep(Duration::from_millis(500));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
