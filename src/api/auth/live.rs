//! The callers as they are now: from the configuration, and from a file that is read again when it changes.

use std::{fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{
    callers::{Callers, UNKNOWN},
    options::{AuthOptions, CallerOptions, Identity},
};
use crate::{
    repository::options::{explain_quietly, parse_yaml},
    serving::caller::Account,
    telemetry::registry::{CallerCounts, registry},
};

/// Who may ask, for every port of the process.
pub struct Auth {
    options: AuthOptions,
    /// `None`: nobody is asked who they are.
    callers: Option<ArcSwap<Callers>>,
    /// Counts requests without a valid key or certificate, where metrics tell callers apart.
    unknown: Option<Arc<CallerCounts>>,
    /// The file as it was when it was last read.
    seen: Mutex<Option<Stamp>>,
}

/// What changes when a file does, also where a name comes to mean another file.
type Stamp = (u64, i64, i64, u64);

impl Auth {
    /// # Errors
    /// What is wrong with the callers, or with their file. No key or hash is in it.
    pub fn open(options: &AuthOptions) -> Result<Arc<Auth>, String> {
        let seen = stamp(&options.file);
        let callers = options.on().then(|| read(options, None)).transpose()?;
        let counted = options.on() && options.identity != Identity::Off;
        Ok(Arc::new(Auth {
            options: options.clone(),
            callers: callers.map(ArcSwap::from_pointee),
            unknown: counted.then(|| registry().caller(UNKNOWN)),
            seen: Mutex::new(seen),
        }))
    }

    /// Nobody is asked who they are.
    pub fn off() -> Arc<Auth> {
        let (options, seen) = (AuthOptions::default(), Mutex::default());
        Arc::new(Auth { options, callers: None, unknown: None, seen })
    }

    pub fn callers(&self) -> Option<&ArcSwap<Callers>> {
        self.callers.as_ref()
    }

    pub fn unknown(&self) -> Option<&CallerCounts> {
        self.unknown.as_deref()
    }

    /// Names of ours, for browsers.
    pub fn hosts(&self) -> &[String] {
        &self.options.hosts
    }

    /// Whether there is a file to look after.
    pub fn follows(&self) -> bool {
        !self.options.file.as_os_str().is_empty()
    }

    /// Reads the file again if it is another than before. One that cannot be used changes nothing: a slip must neither
    /// lock everybody out nor let anybody in.
    pub fn refresh(&self) {
        let Some(callers) = &self.callers else { return };
        let mut seen = self.seen.lock();
        let now = stamp(&self.options.file);
        if *seen == now {
            return;
        }
        *seen = now;
        match read(&self.options, Some(&callers.load())) {
            Ok(fresh) => {
                tracing::info!(callers = fresh.len(), "the file of callers was read again");
                callers.store(Arc::new(fresh));
            }
            Err(error) => {
                tracing::error!(%error, "the file of callers cannot be used: those of before stay");
            }
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let of = fs::metadata(file).ok()?;
    Some((of.ino(), of.mtime(), of.mtime_nsec(), of.len()))
}

fn read(options: &AuthOptions, before: Option<&Callers>) -> Result<Callers, String> {
    let mut all = options.callers.clone();
    if !options.file.as_os_str().is_empty() {
        let name = options.file.display().to_string();
        let text = fs::read_to_string(&options.file)
            .map_err(|error| format!("{name}: cannot be read: {error}"))?;
        let more: Option<Vec<CallerOptions>> =
            parse_yaml(&text).map_err(|error| explain_quietly(&name, &error))?;
        all.extend(more.unwrap_or_default());
    }
    Callers::new(&all, options.identity, |name, shown| {
        before.and_then(|before| before.account(name)).unwrap_or_else(|| {
            let counts = shown.map(|shown| registry().caller(shown));
            Arc::new(Account { counts, ..Account::default() })
        })
    })
    .map_err(|error| format!("auth: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::keys::KeyHash;

    fn line(name: &str, key: &str) -> String {
        format!("- name: {name}\n  keys: {}\n", KeyHash::of(key.as_bytes()).text())
    }

    #[test]
    fn a_change_of_the_file_changes_the_callers_and_a_slip_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("callers.yaml");
        fs::write(&file, line("live-a", "old")).unwrap();
        let auth =
            Auth::open(&AuthOptions { file: file.clone(), ..AuthOptions::default() }).unwrap();
        let callers = auth.callers().unwrap();
        let known = |key: &str| {
            let callers = callers.load();
            callers.by_key(key.as_bytes()).map(|known| known.caller.clone())
        };
        let before = known("old").expect("the first key");
        auth.refresh();
        assert!(Arc::ptr_eq(&before, &known("old").unwrap()), "nothing changed");

        // As editors and orchestrators do: another file takes the name.
        let replace = |text: &str| {
            let fresh = folder.path().join("fresh");
            fs::write(&fresh, text).unwrap();
            fs::rename(&fresh, &file).unwrap();
            auth.refresh();
        };
        replace(&line("live-a", "new"));
        assert!(known("old").is_none());
        let after = known("new").expect("the second key");
        assert!(Arc::ptr_eq(&before.account, &after.account), "what was used goes on");

        for slip in ["- name: live-a\n  keys: new\n", "live-a: {", "- nam: live-a\n", "\u{0}"] {
            replace(slip);
            assert!(known("new").is_some(), "{slip}");
        }
        fs::remove_file(&file).unwrap();
        auth.refresh();
        assert!(known("new").is_some());
        replace("# nobody\n");
        assert!(known("new").is_none() && auth.callers().is_some(), "and nobody gets in");
    }

    #[test]
    fn errors_name_the_file_and_line_and_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("callers.yaml");
        let secret = "onnxd_s3cr3t";
        for text in [
            format!("- name: a\n  keys: {secret}\n"),
            format!("- name: a\n  keys: [{secret}]\n"),
            format!("- name: a\n  keys:\n  - {secret}\n"),
            format!("- name: a\n  key: {secret}\n"),
            format!("- name: a\n  {secret}: 1\n"),
            format!("- name: a\n  roles: [{secret}]\n"),
            format!("- name: a\n  roles: {secret}\n"),
            format!("- name: a\n  max_requests: {secret}\n"),
            format!("- {secret}\n"),
            secret.to_string(),
            format!("- name: a\n  keys: {secret}: {secret}\n"),
            format!("- name: a\n  name: {secret}\n"),
        ] {
            fs::write(&file, &text).unwrap();
            let options = AuthOptions { file: file.clone(), ..AuthOptions::default() };
            let Err(error) = Auth::open(&options) else { panic!("{text} was taken") };
            assert!(error.contains("callers.yaml") && !error.contains("s3cr3t"), "{text}: {error}");
            assert!(error.contains("line "), "{text}: {error}");
        }
    }
}
