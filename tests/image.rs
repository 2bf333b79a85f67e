//! The container image: hadolint passes, and where buildah is installed, the Dockerfile's last stage is built on a base
//! made here (no registry, no daemon), looked at, and run.

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
};

use serde_json::Value;
use support::{
    files::{copy, python, root, script, target},
    server::{START, STOP},
};
use tempfile::TempDir;

const DOCKERFILE: &str = include_str!("../Dockerfile");

#[test]
fn hadolint_passes() {
    script("setup-tests.sh");
    let hadolint = Path::new(python().get_program()).with_file_name("hadolint");
    let out = Command::new(hadolint).arg("--no-color").arg(root().join("Dockerfile")).output();
    let out = out.expect("hadolint starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_image_is_built_and_runs() {
    if Command::new("buildah").arg("--version").output().is_err() {
        println!("skipped: there is no buildah here to build the image with");
        return;
    }
    script("fetch-onnxruntime.sh");
    let buildah = Buildah::new();
    let added = buildah.images();
    buildah.last_stage();

    let image: Value = serde_json::from_str(&buildah.ok(&["inspect", "--type", "image", "onnxd"]))
        .expect("buildah describes the image");
    let config = &image["Docker"]["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"][0], "/usr/local/bin/onnxd");
    assert_eq!(config["Cmd"][0], "serve");
    let ports: Vec<&String> = config["ExposedPorts"].as_object().expect("ports").keys().collect();
    assert_eq!(ports, ["8000/tcp", "8001/tcp", "8002/tcp"]);
    let env: Vec<&str> =
        config["Env"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for bound in ["ONNXD_HTTP=0.0.0.0:8000", "ONNXD_GRPC=0.0.0.0:8001", "ONNXD_MODELS=/models"] {
        assert!(env.contains(&bound), "{env:?}");
    }
    let probe = config["Healthcheck"]["Test"].as_array().expect("a health check");
    assert_eq!(probe[1..], ["/usr/local/bin/onnxd", "health"]);

    let images: Value =
        serde_json::from_str(&buildah.ok(&["images", "--json", "onnxd"])).expect("JSON");
    let (size, base) = (bytes(&images[0]["size"]), buildah.base_bytes());
    // The library, the server and the load harness are all that the image adds (and licences of some hundred kilobytes).
    assert!(
        size < (base + added) * 1.05 + 2e6,
        "{size} bytes, of which {added} are meant and {base} the base"
    );

    buildah.ok(&["from", "--name", "box", "onnxd"]);
    let version = buildah.ok(&[
        "run",
        "--isolation",
        "chroot",
        "box",
        "--",
        "/usr/local/bin/onnxd",
        "--version",
    ]);
    assert_eq!(version.trim(), concat!("onnxd ", env!("CARGO_PKG_VERSION")));
    let help = buildah.ok(&[
        "run",
        "--isolation",
        "chroot",
        "box",
        "--",
        "/usr/local/bin/onnxd",
        "loadtest",
        "--help",
    ]);
    assert!(help.contains("onnxd loadtest"), "{help}");
    buildah.serves_and_is_healthy();
}

/// A size as buildah prints it: `12.3 MB`.
fn bytes(size: &Value) -> f64 {
    let text = size.as_str().expect("a size");
    let (number, unit) = text.split_once(' ').expect("a number and a unit");
    let unit = match unit {
        "B" | "bytes" => 1.0,
        "KB" | "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        unit => panic!("a size in {unit}"),
    };
    number.parse::<f64>().expect("a number") * unit
}

/// buildah with a storage of its own, which goes with it.
struct Buildah(TempDir);

impl Buildah {
    fn new() -> Buildah {
        Buildah(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs"]);
        command.arg("--root").arg(self.path("storage")).arg("--runroot").arg(self.path("run"));
        command
    }

    /// What a call prints; it must end well.
    fn ok(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } =
            self.command().args(args).output().expect("buildah starts");
        let error = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "buildah {args:?}: {error}");
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Builds the images that the last stage is made of, and gives the bytes it takes from them.
    fn images(&self) -> f64 {
        let binary = Path::new(env!("CARGO_BIN_EXE_onnxd"));
        let sibling = binary.with_file_name("onnxd-loadtest");
        assert!(sibling.is_file(), "not there: cargo build -p onnxd-loadtest, in the same profile");
        let library = target().join("onnxruntime/lib");
        let context = self.path("build");
        for file in [binary, sibling.as_path()] {
            let name = file.file_name().expect("a name");
            put(file, &context.join("src/target/dist").join(name));
        }
        self.bud("build", "FROM scratch\nCOPY src /src\n", &context);
        let context = self.path("library");
        copy(&library, &context.join("onnxruntime/lib"));
        self.bud("onnxruntime", "FROM scratch\nCOPY onnxruntime /onnxruntime\n", &context);
        let context = self.path("base");
        for file in needed(&[binary, sibling.as_path(), &library.join("libonnxruntime.so")]) {
            put(&file, &context.join("root").join(file.strip_prefix("/").expect("absolute")));
        }
        fs::create_dir_all(context.join("root/models")).expect("a directory");
        self.bud("base", "FROM scratch\nCOPY root /\n", &context);
        [self.path("build"), self.path("library")].iter().map(|dir| tree_bytes(dir)).sum()
    }

    fn base_bytes(&self) -> f64 {
        tree_bytes(&self.path("base"))
    }

    /// The Dockerfile's last stage as it is, on the images that `images` made.
    fn last_stage(&self) {
        let at = DOCKERFILE.rfind("\nFROM ${BASE}").expect("the last stage is built on ${BASE}");
        let stages =
            "ARG BASE\nFROM localhost/build AS build\nFROM localhost/onnxruntime AS onnxruntime";
        let context = self.path("last");
        for name in ["LICENSE", "NOTICE"] {
            put(&root().join(name), &context.join(name));
        }
        self.bud("onnxd", &format!("{stages}{}", &DOCKERFILE[at..]), &context);
    }

    fn bud(&self, name: &str, dockerfile: &str, context: &Path) {
        let file = self.path(&format!("{name}.Dockerfile"));
        fs::write(&file, dockerfile).expect("a Dockerfile");
        let (file, context) = (file.to_str().expect("UTF-8"), context.to_str().expect("UTF-8"));
        // Docker's own format: the other one knows no health check.
        let how = ["bud", "--isolation", "chroot", "--format", "docker", "--pull-never"];
        let what = ["--build-arg", "BASE=localhost/base", "-t", name, "-f", file, context];
        self.ok(&[&how[..], &what[..]].concat());
    }

    /// The image's own command serves, as its own user, and the image's own probe says so.
    fn serves_and_is_healthy(&self) {
        let mut server = self.command();
        server.args([
            "run",
            "--isolation",
            "chroot",
            "box",
            "--",
            "/usr/local/bin/onnxd",
            "serve",
            "--load",
            "none",
        ]);
        server.args(["--http", "127.0.0.1:0", "--grpc", "off", "--operator", "off"]);
        let mut server = Running(
            server
                .process_group(0)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("buildah starts"),
        );
        let said = BufReader::new(server.0.stderr.take().expect("piped"));
        let (sender, found) = mpsc::channel();
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut lines = Vec::new();
        let address = loop {
            let line = found
                .recv_timeout(START)
                .unwrap_or_else(|_| panic!("it does not listen: {lines:?}"));
            if let Some((_, rest)) = line.split_once("listening http=") {
                break rest.split(' ').next().unwrap_or_default().to_owned();
            }
            lines.push(line);
        };
        let probe = [
            "run",
            "--isolation",
            "chroot",
            "box",
            "--",
            "/usr/local/bin/onnxd",
            "health",
            "--http",
            &address,
        ];
        let healthy = self.ok(&probe);
        assert!(healthy.contains("ready"), "{healthy}");
        server.terminate();
        // Everybody who could write to it has ended once the pipe is closed.
        loop {
            match found.recv_timeout(STOP) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the server in the image does not end"),
            }
        }
    }
}

/// buildah and what it runs, a process group of their own; told to stop when dropped.
struct Running(Child);

impl Running {
    fn terminate(&self) {
        let group = libc::pid_t::try_from(self.0.id()).expect("a process id fits pid_t");
        // SAFETY: kill takes no pointer; the child that leads the group is not waited for yet, so that the id is its own.
        unsafe { libc::kill(-group, libc::SIGTERM) };
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.terminate();
        let _ = self.0.wait();
    }
}

/// The shared libraries that these files are linked to, and the loader.
fn needed(files: &[&Path]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for file in files {
        let out = Command::new("ldd").arg(file).output().expect("ldd starts");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
        found.extend(paths.map(PathBuf::from));
    }
    assert!(found.len() >= 4, "{found:?}");
    found
}

/// Copies a file, what it is linked to rather than the link.
fn put(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a folder")).expect("a directory");
    fs::copy(from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

fn tree_bytes(dir: &Path) -> f64 {
    let entries = fs::read_dir(dir).expect("a readable directory").flatten();
    let each = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
        Ok(meta) => meta.len() as f64,
        Err(_) => 0.0,
    });
    each.sum()
}
