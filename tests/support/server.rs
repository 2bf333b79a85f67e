//! The real binary as a child process: started on free ports, watched, asked, ended.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{http, watch};

/// How long a server may take to say where it listens and to be ready: a debug build on a busy machine is slow.
pub const START: Duration = Duration::from_secs(120);
/// How long a server may take to end after SIGTERM: its own limit is 30 seconds.
pub const STOP: Duration = Duration::from_secs(40);

/// A connection to one of the server's ports.
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Socket {
    /// Connects to `HOST:PORT` or `unix:PATH`; a read that hangs fails after 60 seconds.
    pub fn connect(address: &str) -> std::io::Result<Socket> {
        let patience = Some(Duration::from_secs(60));
        if let Some(path) = address.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(patience)?;
            return Ok(Socket::Unix(stream));
        }
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(patience)?;
        Ok(Socket::Tcp(stream))
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
            Socket::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
            Socket::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if let Socket::Tls(stream) = self {
            return stream.flush();
        }
        Ok(())
    }
}

/// A server of this build. Killed on drop, if it still runs.
pub struct Server {
    child: Child,
    pub http: String,
    pub grpc: String,
    pub operator: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// A server over `repository` with every port chosen by the system.
    pub fn start(home: &Path, repository: &Path) -> Server {
        Server::launch(&mut Server::command(home, repository))
    }

    /// What `start` runs, for those who change it first.
    pub fn command(home: &Path, repository: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
        command.arg("serve").arg("--models").arg(repository).current_dir(home).args([
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "127.0.0.1:0",
            "--operator",
            "127.0.0.1:0",
        ]);
        command
    }

    /// Starts it and waits until it is ready.
    pub fn launch(command: &mut Command) -> Server {
        let mut child = command
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
                {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push_str(&line);
                    kept.push('\n');
                }
                if let Some(at) = line.find("listening http=") {
                    let _ = found.send(line[at..].to_owned());
                }
            }
        });
        let [http, grpc, operator] = std::array::from_fn(|_| String::new());
        let mut server = Server { child, http, grpc, operator, log };
        let Ok(line) = listening.1.recv_timeout(START) else {
            panic!("onnxd did not say where it listens:\n{}", server.said());
        };
        let address = |key: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(key));
            value.unwrap_or_else(|| panic!("no {key} in {line:?}")).to_owned()
        };
        (server.http, server.grpc) = (address("http="), address("grpc="));
        server.operator = address("operator=");
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
        let ask = |address: &String| -> std::io::Result<bool> {
            let mut peer = Socket::connect(address)?;
            write!(
                peer,
                "GET /v2/health/ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer)?;
            Ok(answer.starts_with(b"HTTP/1.1 200"))
        };
        // Any of them: some may speak TLS only.
        let ports = [&self.operator, &self.http, &self.grpc];
        ports.into_iter().filter(|a| *a != "off").any(|address| ask(address).unwrap_or(false))
    }

    /// Everything it wrote to standard error so far.
    pub fn said(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and exit code 0 in time.
    pub fn stop(mut self) {
        self.terminate();
        self.ended_well();
    }

    /// Waits for the end that somebody asked for: exit code 0 in time.
    pub fn ended_well(&mut self) {
        let Some(status) = wait(&mut self.child, STOP) else {
            panic!("onnxd did not end:\n{}", self.said());
        };
        assert!(status.success(), "onnxd ended with {status}:\n{}", self.said());
    }

    pub fn terminate(&self) {
        signal(&self.child, libc::SIGTERM);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            if wait(&mut self.child, Duration::from_millis(500)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// How a command ended that is to end by itself.
pub struct Ended {
    /// `None`: it did not, and was killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, for `START` at most. Its output goes through files: no pipe can fill.
pub fn run_to_end(command: &mut Command) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
    let (out, err) = (file("out"), file("err"));
    let mut child =
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().expect("onnxd starts");
    let status = wait(&mut child, START);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |name: &str| {
        String::from_utf8_lossy(&fs::read(folder.path().join(name)).expect("readable")).into_owned()
    };
    Ended { code: status.and_then(|s| s.code()), stdout: text("out"), stderr: text("err") }
}

/// `onnxd rollout` on a server.
pub fn rollout(server: &Server, args: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    run_to_end(command.arg("rollout").args(args).args(["--operator", &server.operator]))
}

/// Sends a signal to a child that is not waited for yet.
pub fn signal(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a process id fits pid_t");
    // SAFETY: kill takes no pointer; the child is not waited for yet, so that its id is still its own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Has a child hang, or go on.
pub fn pause(child: &Child, pause: bool) {
    signal(child, if pause { libc::SIGSTOP } else { libc::SIGCONT });
}

/// What `versioned` adds to its input, which is the number of the version that answers; `None` where none does.
pub fn answering(server: &Server) -> Option<f64> {
    let answer = http::infer(&server.http, "versioned", "", &http::four(0.0));
    (answer.status == 200).then(|| answer.output(0)[0])
}

/// Each server is told of another canary of `versioned` at once, again where another was first.
pub fn canaries_at_once(servers: &[Server; 2]) {
    thread::scope(|scope| {
        for (server, weight) in servers.iter().zip(["2=10", "2=20"]) {
            scope.spawn(move || {
                let mut refused = 0;
                while rollout(server, &["set", "versioned", "--canary", weight]).code != Some(0) {
                    refused += 1;
                    assert!(refused < 50, "it is never written");
                }
            });
        }
    });
}

/// Puts the files of a log together by hand, and waits until the server's store is as the disk is: so many objects are gone.
pub fn compact(server: &Server, log: &Path, replaced: f64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd"));
    let ended = run_to_end(command.args(["log", "compact", "--dir"]).arg(log));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    watch::until("the store is as the disk is", || {
        watch::metric(server, "onnxd_predlog_upload_objects_removed_total", &[]) == replaced
            && watch::to_upload(server) == 0.0
    });
}
