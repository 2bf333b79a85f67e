//! What the tests do with an object store, whoever's it is.

use std::{path::Path, process::Command};

/// A store with one bucket (or container), `models`, as a child process. It ends when this is dropped.
pub trait Cloud {
    /// As URLs name it.
    const SCHEME: &str;
    /// What a server must know, and never say.
    const SECRET: &str;

    fn start() -> Self;

    /// Writes an object.
    fn put(&self, key: &str, body: &[u8]);

    /// An object, where there is one.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    fn delete(&self, key: &str);

    /// The keys below a prefix; their objects are fetched into a folder.
    fn fetch(&self, prefix: &str, folder: &Path) -> Vec<String>;

    /// Has it hang, or go on.
    fn pause(&self, pause: bool);

    /// Has a server read from here.
    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command;
}

/// A key as paths of URLs have it.
pub fn escaped(key: &str) -> String {
    key.replace('%', "%25").replace(' ', "%20")
}
