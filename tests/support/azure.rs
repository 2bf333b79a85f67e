//! An Azure blob store as a child process: Azurite, Microsoft's emulator, filled over its own HTTP.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use super::{
    cloud::{Cloud, escaped},
    files::{script, target},
    server,
};

/// An account of our own, its key (base64 of "a-secret-of-the-test"), and what that key signed once: whatever may be done with blobs
/// there, until 2099 (an account SAS of version 2018-11-09).
const ACCOUNT: &str = "acme";
const KEY: &str = "YS1zZWNyZXQtb2YtdGhlLXRlc3Q=";
const SIGNED: &str = "sv=2018-11-09&ss=b&srt=sco&sp=rwdlac&se=2099-01-01&spr=https,http&\
                      sig=VIA0aFfk2Iw9l1PZcG8EwWjsyq9lrCd5nQ5hTKN3Zl0%3D";

/// A store with one container, `models`. It ends when this is dropped.
pub struct Azure {
    child: Child,
    /// Open as long as the child writes to it.
    _stdout: BufReader<ChildStdout>,
    /// HOST:PORT.
    address: String,
}

impl Azure {
    /// Status and body of an answer. In HTTP/1.0: its listings have no length otherwise.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let sign = if path.contains('?') { '&' } else { '?' };
        let head = format!(
            "{method} /{ACCOUNT}/{path}{sign}{SIGNED} HTTP/1.0\r\nhost: {}\r\nx-ms-blob-type: BlockBlob\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        let mut socket = TcpStream::connect(&self.address).expect("Azurite listens");
        socket.write_all(&[head.as_bytes(), body].concat()).expect("the request goes out");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        (status, answer.split_off(end + 4))
    }
}

impl Cloud for Azure {
    const SCHEME: &str = "az";
    const SECRET: &str = KEY;

    fn start() -> Azure {
        script("setup-tests.sh");
        let azurite = target().join("azurite");
        let mut child = Command::new(azurite.join("node/bin/node"))
            .arg(azurite.join("node_modules/azurite/dist/src/blob/main.js"))
            .args(["--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry", "--silent"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Azurite starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            let read = stdout.read_line(&mut line).expect("it says where it listens");
            assert!(read > 0, "Azurite ended before it listened");
            if let Some((_, address)) = line.trim().split_once("listens on http://") {
                break address.to_owned();
            }
        };
        let store = Azure { child, _stdout: stdout, address };
        assert_eq!(store.ask("PUT", "models?restype=container", b"").0, 201);
        store
    }

    fn put(&self, key: &str, body: &[u8]) {
        assert_eq!(self.ask("PUT", &format!("models/{}", escaped(key)), body).0, 201, "{key}");
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (status, body) = self.ask("GET", &format!("models/{}", escaped(key)), b"");
        (status == 200).then_some(body)
    }

    fn delete(&self, key: &str) {
        assert_eq!(self.ask("DELETE", &format!("models/{}", escaped(key)), b"").0, 202, "{key}");
    }

    fn fetch(&self, prefix: &str, folder: &Path) -> Vec<String> {
        let list = format!("models?restype=container&comp=list&prefix={}/", escaped(prefix));
        let (status, list) = self.ask("GET", &list, b"");
        assert_eq!(status, 200);
        let list = String::from_utf8(list).expect("text");
        let keys = list.split("<Name>").skip(1).filter_map(|rest| rest.split("</Name>").next());
        let keys: Vec<String> = keys.map(str::to_owned).collect();
        for key in &keys {
            let below = key.strip_prefix(prefix).expect("below the prefix").trim_start_matches('/');
            let path = folder.join(below);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, self.get(key).expect("it is listed")).expect("written");
        }
        keys
    }

    fn pause(&self, pause: bool) {
        server::pause(&self.child, pause);
    }

    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs([("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", KEY)]);
        command.env("AZURE_STORAGE_ENDPOINT", format!("http://{}/{ACCOUNT}", self.address))
    }
}

impl Drop for Azure {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
