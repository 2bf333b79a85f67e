//! An object store as a child process: moto's S3, filled over its own HTTP.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{
    cloud::escaped,
    files::{python, root, script},
    http::{Answer, Http},
    server,
};

/// Any key will do for it.
const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIATEST"),
    ("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-test"),
    ("AWS_REGION", "us-east-1"),
];

/// What makes it take a request for the owner's, whose objects anybody may read.
const OWNER: &str = "authorization: AWS4-HMAC-SHA256 Credential=AKIATEST/20200101/us-east-1/s3/aws4_request, \
                     SignedHeaders=host, Signature=0\r\nx-amz-acl: public-read\r\n";

/// A store with one bucket, `models`. It ends when this is dropped.
pub struct S3 {
    child: Child,
    /// HOST:PORT.
    pub address: String,
}

impl S3 {
    pub fn start() -> S3 {
        S3::of("s3.py")
    }

    /// As the script beside this makes it.
    pub fn of(server: &str) -> S3 {
        script("setup-tests.sh");
        let mut child = python()
            .arg(root().join("tests/support").join(server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("moto starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let store = S3 { child, address: format!("127.0.0.1:{}", line.trim()) };
        assert_eq!(store.ask("PUT", "/models", b"").status, 200);
        store
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        Http::connect(&self.address).ask(method, path, OWNER, body)
    }

    fn object(&self, method: &str, key: &str, body: &[u8]) -> Answer {
        self.ask(method, &format!("/models/{}", escaped(key)), body)
    }

    /// Writes an object of the bucket.
    pub fn put(&self, key: &str, body: &[u8]) {
        assert_eq!(self.object("PUT", key, body).status, 200, "{key}");
    }

    /// An object of the bucket, where there is one.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let answer = self.object("GET", key, b"");
        (answer.status == 200).then(|| answer.body.to_vec())
    }

    pub fn delete(&self, key: &str) {
        assert_eq!(self.object("DELETE", key, b"").status, 204, "{key}");
    }

    /// Writes every file below a folder.
    pub fn put_all(&self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let key = format!("{prefix}/{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => self.put_all(&entry.path(), &key),
                false => self.put(&key, &fs::read(entry.path()).expect("readable")),
            }
        }
    }

    /// The keys below a prefix; their objects are fetched into a folder.
    pub fn fetch(&self, prefix: &str, folder: &Path) -> Vec<String> {
        let list = format!("/models?list-type=2&prefix={}/", escaped(prefix));
        let list = self.ask("GET", &list, b"");
        assert_eq!(list.status, 200);
        let list = String::from_utf8(list.body).expect("text");
        let keys = list.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        let keys: Vec<String> = keys.map(str::to_owned).collect();
        for key in &keys {
            let below = key.strip_prefix(prefix).expect("below the prefix").trim_start_matches('/');
            let path = folder.join(below);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, self.get(key).expect("it is listed")).expect("written");
        }
        keys
    }

    /// Has it hang, or go on.
    pub fn pause(&self, pause: bool) {
        server::pause(&self.child, pause);
    }

    /// Has a server read from here.
    pub fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let command = command.envs(KEYS);
        command.env("AWS_ENDPOINT_URL", format!("http://{}", self.address))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
