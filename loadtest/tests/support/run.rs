//! One call of the harness: its flags, how it ended, the report that it wrote.

use std::path::{Path, PathBuf};

use onnxd_loadtest::{
    echo::{self, Handle},
    report::json::Report,
};
use tempfile::TempDir;

use super::process::{Ended, loadtest, run_to_end};

/// An echo server in this process.
pub fn echo(latency: &str) -> Handle {
    echo_with(latency, |_| {})
}

pub fn echo_with(latency: &str, more: impl FnOnce(&mut echo::Options)) -> Handle {
    let latency = latency.parse().expect("a distribution");
    let mut options = echo::Options { latency, ..echo::Options::default() };
    more(&mut options);
    echo::serve(options).expect("the echo server starts")
}

/// A place for the files of a test, and calls that write there.
pub struct Home(TempDir);

impl Home {
    pub fn new() -> Home {
        Home(tempfile::tempdir().expect("a temporary directory"))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).expect("it can be written");
        path
    }

    /// Runs the harness with these words, and more flags that have spaces in them.
    pub fn call(&self, words: &str, more: &[&str]) -> Ended {
        let mut command = loadtest();
        command.args(words.split_whitespace()).args(more).current_dir(self.0.path());
        run_to_end(&mut command)
    }

    /// As `call`, with the report that is written; the exit code is held against `code`.
    #[track_caller]
    pub fn report(&self, code: i32, words: &str, more: &[&str]) -> (Report, Ended) {
        let file = self.file("report.json");
        let mut with = vec!["--json", file.to_str().expect("UTF-8")];
        with.extend(more);
        let ended = self.call(words, &with);
        assert_eq!(ended.code, Some(code), "{}\n{}", ended.stdout, ended.stderr);
        (read(&file), ended)
    }

    /// A call that fails with this code and says these things on standard error, in one line.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &str, more: &[&str], says: &[&str]) {
        let ended = self.call(words, more);
        assert_eq!(ended.code, Some(code), "{}\n{}", ended.stdout, ended.stderr);
        let complaint = ended.stderr.lines().find(|line| line.starts_with("onnxd loadtest: "));
        let complaint = complaint.unwrap_or_else(|| panic!("no complaint: {}", ended.stderr));
        for word in says {
            assert!(complaint.contains(word), "no {word:?} in {complaint}");
        }
    }
}

#[track_caller]
pub fn read(path: &Path) -> Report {
    Report::read(path).unwrap_or_else(|e| panic!("{e}"))
}
