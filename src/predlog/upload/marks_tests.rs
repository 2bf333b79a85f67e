//! Tests of what is to be done with objects: whatever happens in which order, the store ends with every row once.

use proptest::prelude::*;

use super::*;

/// A disk and a store, with rows as numbers; a file's content is its rows.
#[derive(Default)]
struct World {
    local: BTreeMap<String, BTreeSet<u32>>,
    store: BTreeMap<String, BTreeSet<u32>>,
    marks: Marks,
    next: u32,
    erased: BTreeSet<u32>,
}

fn digest(rows: &BTreeSet<u32>) -> String {
    format!("{rows:?}")
}

impl World {
    fn rotate(&mut self) {
        let name = format!("part-{}", self.next);
        self.local.insert(name, [self.next * 2, self.next * 2 + 1].into());
        self.next += 1;
    }

    /// The file at `at`, of those that are there.
    fn pick(&self, at: usize) -> Option<String> {
        self.local.keys().nth(at % self.local.len().max(1)).cloned()
    }

    fn compact(&mut self, a: usize, b: usize) {
        let (Some(a), Some(b)) = (self.pick(a), self.pick(b)) else { return };
        if a == b {
            return;
        }
        let by = format!("part-compact-({a}+{b})");
        let rows = [&a, &b].into_iter().flat_map(|file| self.local[file].clone()).collect();
        self.local.insert(by.clone(), rows);
        let files = vec![a, b];
        self.marks.add(Line::Replaced { files: files.clone(), by });
        files.iter().for_each(|file| drop(self.local.remove(file)));
    }

    /// The first row of a file is erased.
    fn erase(&mut self, at: usize) {
        let Some(file) = self.pick(at) else { return };
        let before = digest(&self.local[&file]);
        self.marks.add(Line::Erasing { file: file.clone(), sha256: before });
        let rows = self.local.get_mut(&file).expect("picked");
        self.erased.extend(rows.pop_first());
        if rows.is_empty() {
            self.local.remove(&file);
        }
    }

    /// Retention removes a file, if it is up.
    fn expire(&mut self, at: usize) {
        if let Some(file) = self.pick(at).filter(|file| self.marks.is_up(file)) {
            self.local.remove(&file);
        }
    }

    /// Nothing is left to do.
    fn settled(&self) -> bool {
        self.marks.plan(&self.local.keys().cloned().collect()).is_empty()
    }

    /// Does one thing; where `forgets`, the mark of what went up is lost in a crash.
    fn upload(&mut self, at: usize, forgets: bool) -> bool {
        let mut actions = self.marks.plan(&self.local.keys().cloned().collect());
        if actions.is_empty() {
            return false;
        }
        match actions.swap_remove(at % actions.len()) {
            Action::Put(file) | Action::Anew(file) => {
                let rows = self.local[&file].clone();
                if let Some(there) = self.store.get(&file) {
                    let erasing = self.marks.of(&file).and_then(|entry| entry.erasing.clone());
                    let ours = *there == rows || erasing.is_some();
                    assert!(ours, "{file} would be a conflict");
                }
                let sha256 = digest(&rows);
                self.store.insert(file.clone(), rows);
                if !forgets {
                    let content = Content { bytes: 0, sha256, etag: None, version: None };
                    self.marks.add(Line::Up { file, content });
                }
            }
            Action::Delete(file, _) => {
                self.store.remove(&file);
                if !forgets {
                    self.marks.add(Line::Gone { file });
                }
            }
        }
        true
    }
}

proptest! {
    #[test]
    fn the_store_ends_with_every_row_once(
        events in prop::collection::vec((0u8..8, any::<u16>(), any::<u16>()), 1..60)
    ) {
        let mut world = World::default();
        for (kind, a, b) in events {
            let (a, b) = (usize::from(a), usize::from(b));
            match kind {
                0 | 1 => world.rotate(),
                2 => world.compact(a, b),
                3 => world.erase(a),
                4 => world.expire(a),
                5 => assert!(world.upload(a, true) || world.settled()),
                _ => assert!(world.upload(a, false) || world.settled()),
            }
        }
        let mut steps = 0;
        while world.upload(0, false) {
            steps += 1;
            prop_assert!(steps < 1000, "it does not end");
        }
        let mut rows: Vec<u32> = world.store.values().flatten().copied().collect();
        rows.sort_unstable();
        let all: Vec<u32> = (0..world.next * 2).filter(|row| !world.erased.contains(row)).collect();
        prop_assert_eq!(rows, all);
    }

    #[test]
    fn lines_come_back_and_torn_ones_say_nothing(cut in 0usize..200) {
        let content = Content { bytes: 7, sha256: "s".into(), etag: Some("\"e\"".into()), version: None };
        let lines = [
            Line::Up { file: "a".into(), content },
            Line::Replaced { files: vec!["a".into()], by: "b".into() },
            Line::Gone { file: "a".into() },
        ];
        let text: String = lines.iter().map(|line| serde_json::to_string(line).expect("JSON") + "\n").collect();
        let mut marks = Marks::default();
        lines.into_iter().for_each(|line| marks.add(line));
        prop_assert_eq!(Marks::parse(&text), marks);
        Marks::parse(text.get(..cut).unwrap_or(&text));
    }
}

#[test]
fn what_only_the_store_has_is_known() {
    let mut marks = Marks::default();
    for file in ["kept", "expired", "old"] {
        let content = Content { bytes: 1, sha256: file.into(), etag: None, version: None };
        marks.add(Line::Up { file: file.into(), content });
    }
    let local: BTreeSet<String> = ["kept".to_owned(), "new".to_owned()].into();
    marks.add(Line::Replaced { files: vec!["old".into()], by: "new".into() });
    // Its rows are nowhere else in the store yet.
    assert_eq!(marks.only_up(&local).collect::<Vec<_>>(), ["expired", "old"]);
    marks.add(Line::Erasing { file: "kept".into(), sha256: "kept".into() });
    assert_eq!(marks.plan(&local), [Action::Anew("kept".into()), Action::Put("new".into())]);
    assert_eq!(marks.pending().collect::<Vec<_>>(), ["kept", "old"]);
    assert!(!marks.is_up("kept") && marks.is_up("expired"));
}
