//! When what lies in a model's directory is complete: once it has stayed as it is for a while, or says so itself.

use std::{collections::BTreeMap, time::Duration};

use super::store::FoundModel;

/// The models of a repository, by name.
pub type Models = BTreeMap<String, FoundModel>;

/// Holds back what is still changing: in its place stands what was there before.
pub struct Settle {
    /// For so long nothing may change.
    time: Duration,
    shown: Models,
    /// How each model looks that differs from what is shown (`None`: it is gone), and since when.
    changing: BTreeMap<String, (Option<FoundModel>, Duration)>,
}

impl Settle {
    /// Takes what was there at the start for complete.
    pub fn new(time: Duration, start: &Models) -> Settle {
        Settle { time, shown: start.clone(), changing: BTreeMap::new() }
    }

    /// Takes over what was found, as of `now` (since any fixed moment), as far as it is complete. Says whether anything
    /// that is shown has changed.
    pub fn see(&mut self, found: &Models, now: Duration) -> bool {
        let before = self.shown.clone();
        let gone: Vec<String> =
            self.shown.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        self.changing.retain(|name, _| found.contains_key(name) || before.contains_key(name));
        for name in gone {
            self.look(&name, None, now);
        }
        for (name, model) in found {
            self.look(name, Some(model), now);
        }
        self.shown != before
    }

    fn look(&mut self, name: &str, found: Option<&FoundModel>, now: Duration) {
        let shown = self.shown.get(name);
        if shown == found {
            self.changing.remove(name);
            return;
        }
        let since = match self.changing.get(name) {
            Some((before, since)) if before.as_ref() == found => *since,
            _ => now,
        };
        if now.saturating_sub(since) < self.time && !found.is_some_and(|f| says_so(f, shown)) {
            self.changing.insert(name.to_owned(), (found.cloned(), since));
            return;
        }
        self.changing.remove(name);
        match found {
            Some(found) => drop(self.shown.insert(name.to_owned(), found.clone())),
            None => drop(self.shown.remove(name)),
        }
    }

    /// What is complete.
    pub fn shown(&self) -> &Models {
        &self.shown
    }

    /// When the first of what is changing will be complete, if it changes no more.
    pub fn next(&self) -> Option<Duration> {
        self.changing.values().map(|(_, since)| *since + self.time).min()
    }
}

/// Whether all that is new is versions with a manifest, which are checked by its digests when they are read.
fn says_so(found: &FoundModel, shown: Option<&FoundModel>) -> bool {
    let before = |number: &u64| shown.and_then(|shown| shown.prints.get(number));
    let new = |(number, print): &(&u64, &u64)| before(number) != Some(*print);
    let mut changed = found.prints.iter().filter(new).peekable();
    let options = shown.map_or(found.options_print, |shown| shown.options_print);
    changed.peek().is_some()
        && changed.all(|(number, _)| found.manifests.contains(number))
        && found.options_print == options
        && found.problem.is_none()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn model(prints: &[(u64, u64)], manifests: &[u64]) -> FoundModel {
        FoundModel {
            versions: prints.iter().map(|(n, _)| (*n, format!("m/{n}/model.onnx"))).collect(),
            prints: prints.iter().copied().collect(),
            manifests: manifests.iter().copied().collect::<BTreeSet<u64>>(),
            ..FoundModel::default()
        }
    }

    fn models(model: Option<FoundModel>) -> Models {
        model.into_iter().map(|model| ("m".to_owned(), model)).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_copy_in_progress_is_not_shown() {
        let start = models(Some(model(&[(1, 7)], &[])));
        let mut settle = Settle::new(SECOND * 2, &start);
        let growing = |print| models(Some(model(&[(1, 7), (2, print)], &[])));
        for n in 0..5 {
            assert!(!settle.see(&growing(n), SECOND * n as u32));
            assert_eq!(settle.shown(), &start);
            assert_eq!(settle.next(), Some(SECOND * (n as u32 + 2)));
        }
        assert!(!settle.see(&growing(4), SECOND * 5));
        assert!(settle.see(&growing(4), SECOND * 6));
        assert_eq!((settle.shown(), settle.next()), (&growing(4), None));
        // Gone for a moment, as a rename over it shows.
        assert!(!settle.see(&Models::new(), SECOND * 7));
        assert!(!settle.see(&growing(4), SECOND * 8));
        assert_eq!((settle.shown(), settle.next()), (&growing(4), None));
        assert!(!settle.see(&Models::new(), SECOND * 9));
        assert!(settle.see(&Models::new(), SECOND * 11));
        assert!(settle.shown().is_empty());
    }

    #[test]
    fn a_manifest_says_that_a_version_is_complete() {
        let start = models(Some(model(&[(1, 7)], &[])));
        let mut settle = Settle::new(SECOND, &start);
        let listed = models(Some(model(&[(1, 7), (2, 1)], &[2])));
        assert!(settle.see(&listed, Duration::ZERO));
        assert_eq!(settle.shown(), &listed);
        // Not where something else changed that has none.
        let other = models(Some(model(&[(1, 8), (2, 2)], &[2])));
        assert!(!settle.see(&other, Duration::ZERO));
        let mut yaml = model(&[(1, 7), (2, 2)], &[2]);
        yaml.options_print = Some(1);
        assert!(!settle.see(&models(Some(yaml)), Duration::ZERO));
        let mut new = Settle::new(SECOND, &Models::new());
        assert!(new.see(&models(Some(model(&[(1, 1)], &[1]))), Duration::ZERO));
    }

    proptest! {
        /// Whatever happens on disk: what is shown was there, unchanged, for as long as it takes; and what stays is shown.
        #[test]
        fn what_is_shown_has_stayed(steps in vec((0u64..4, 0u64..3), 1..30)) {
            let found = |print: u64| models((print > 0).then(|| model(&[(1, print)], &[])));
            let mut settle = Settle::new(SECOND * 2, &found(0));
            let (mut now, mut history) = (0u64, vec![(0u64, 0u64)]);
            for (print, later) in steps {
                now += later;
                settle.see(&found(print), Duration::from_secs(now));
                if history.last().is_some_and(|(_, last)| *last != print) {
                    history.push((now, print));
                }
                let shown = settle.shown().get("m").map_or(0, |m| m.prints[&1]);
                let stayed = history.iter().enumerate().any(|(at, (from, print))| {
                    let until = history.get(at + 1).map_or(now, |(until, _)| *until);
                    *print == shown && (at == 0 || until - from >= 2)
                });
                prop_assert!(stayed, "{shown} in {history:?} at {now}");
                let (since, last) = history[history.len() - 1];
                if now - since >= 2 {
                    prop_assert_eq!(shown, last);
                }
            }
        }
    }
}
