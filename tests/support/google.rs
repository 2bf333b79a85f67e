//! A store that is spoken to as Google's is: moto's S3 behind what Google's XML API has of its own (`gcs.py`).

use std::{path::Path, process::Command};

use super::{cloud::Cloud, s3::S3};

pub struct Google(S3);

impl Cloud for Google {
    const SCHEME: &str = "gs";
    const SECRET: &str = "a-key-of-the-test";

    fn start() -> Google {
        Google(S3::of("gcs.py"))
    }

    fn put(&self, key: &str, body: &[u8]) {
        self.0.put(key, body);
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn delete(&self, key: &str) {
        self.0.delete(key);
    }

    fn fetch(&self, prefix: &str, folder: &Path) -> Vec<String> {
        self.0.fetch(prefix, folder)
    }

    fn pause(&self, pause: bool) {
        self.0.pause(pause);
    }

    /// `disable_oauth`: there is nobody here who gives tokens for the key.
    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let account = serde_json::json!({
            "client_email": "onnxd@example.com", "private_key": Self::SECRET, "private_key_id": "1",
            "disable_oauth": true,
        });
        command.env("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_string());
        command.env("GOOGLE_BASE_URL", format!("http://{}", self.0.address))
    }
}
