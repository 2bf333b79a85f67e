//! Where the project's scripts, models and what they install lie, and how a test builds a repository of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Cargo's target directory, wherever it is.
pub fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory")
}

pub fn clients() -> PathBuf {
    root().join("tests/clients")
}

pub fn python() -> Command {
    let mut command = Command::new(target().join("venv-tests/bin/python"));
    command
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("CARGO_TARGET_DIR", target());
    command
}

/// Runs one of scripts/: quick where its work is done, and locked against another test that runs it too.
pub fn script(name: &str) {
    let path = root().join("scripts").join(name);
    succeed(Command::new("bash").arg(path).env("CARGO_TARGET_DIR", target()), name);
}

/// Runs it and gives what it wrote.
pub fn succeed(command: &mut Command, what: &str) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{what} does not start: {e}"));
    let text = [out.stdout, out.stderr].map(|b| String::from_utf8_lossy(&b).into_owned()).concat();
    assert!(out.status.success(), "{what} failed:\n{text}");
    text
}

pub fn copy(from: &Path, to: &Path) {
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

/// The library that fakes a process's clock, where setup-tests.sh could fetch it.
pub fn faketime() -> Option<PathBuf> {
    script("setup-tests.sh");
    Some(target().join("faketime/libfaketimeMT.so.1")).filter(|library| library.is_file())
}

/// The models of make_models.py and make_broken.py, made once a process.
fn zoo() -> &'static Path {
    static ZOO: OnceLock<PathBuf> = OnceLock::new();
    ZOO.get_or_init(|| {
        script("setup-tests.sh");
        let zoo = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-models");
        let _ = fs::remove_dir_all(&zoo);
        succeed(python().arg(clients().join("make_models.py")).arg(&zoo), "make_models.py");
        let broken = root().join("tests/support/make_broken.py");
        succeed(python().arg(broken).arg(&zoo), "make_broken.py");
        zoo
    })
}

/// A directory of a test's own, with a model repository in it.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Home {
        let home = Home(tempfile::tempdir().expect("a temporary directory"));
        fs::create_dir(home.repository()).expect("the repository's directory");
        home
    }

    /// A repository of these models, each under its own name.
    pub fn of(models: &[&str]) -> Home {
        models.iter().fold(Home::new(), |home, name| home.model(name, name))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn repository(&self) -> PathBuf {
        self.0.path().join("repository")
    }

    /// Adds `source`, of models/ or of the zoo, under the name `name`.
    #[must_use]
    pub fn model(self, name: &str, source: &str) -> Home {
        let example = root().join("models").join(source);
        let from = if example.is_dir() { example } else { zoo().join(source) };
        copy(&from, &self.repository().join(name));
        self
    }

    /// Writes a model's model.yaml.
    #[must_use]
    pub fn yaml(self, model: &str, text: &str) -> Home {
        self.file(&format!("{model}/model.yaml"), format!("format: 1\n{text}").as_bytes())
    }

    /// Writes a file of the repository.
    #[must_use]
    pub fn file(self, path: &str, bytes: &[u8]) -> Home {
        let path = self.repository().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the model's directory");
        fs::write(path, bytes).expect("the repository can be written");
        self
    }

    /// The bytes of one of the repository's files.
    pub fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

/// Every file below a directory; none where it is not there.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}
