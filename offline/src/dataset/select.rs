//! Which rows of the log can be in a data set, and why the others cannot. The first pass: it reads few columns.

use std::collections::{BTreeMap, HashMap, HashSet, hash_map::Entry};

use arrow_array::{Array, RecordBatch, StringArray};
use onnxd::predlog::{
    erased::Ledger,
    labels::{Label, Resolved},
    reader::{Filter, LogFile, ReadError, failed, rows, times},
};

use super::split::{Cuts, Slice};
use crate::coverage::{column, numbers, texts};

/// What rows have to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub routes: Vec<String>,
    /// Labels that come later than this after their row are none, microseconds.
    pub horizon: i64,
    /// Rows younger than this at `as_of` may still get a label: they are left out, whether they have one or not, since
    /// early labels are not like late ones. Microseconds.
    pub maturity: i64,
    /// What came to be known later is not looked at, microseconds since 1970.
    pub as_of: i64,
}

/// Why a row is not in the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// It failed, or was refused.
    Status,
    Route,
    Immature,
    Unlabelled,
    /// What the label is about happened before the prediction: the features may tell of it.
    KnownBefore,
    /// Another row of the same label key came first.
    Repeated,
    Erased,
    /// Between two parts.
    Gap,
    /// Of a group that trains.
    Group,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Why::Status => "not_ok",
            Why::Route => "other_route",
            Why::Immature => "immature",
            Why::Unlabelled => "unlabelled",
            Why::KnownBefore => "outcome_before_prediction",
            Why::Repeated => "repeated_label_key",
            Why::Erased => "erased",
            Why::Gap => "in_a_gap",
            Why::Group => "group_in_train",
        }
    }
}

/// How many rows are left out, by reason.
pub type Dropped = BTreeMap<Why, u64>;

/// The columns of the first pass.
const COLUMNS: [&str; 4] = ["label_key", "status", "route", "event_id"];

/// The rows that are in, and where.
#[derive(Debug)]
pub struct Selection {
    /// By label key: the event whose row is in, its time and its group.
    pub chosen: HashMap<String, Chosen>,
    pub dropped: Dropped,
    pub seen: u64,
}

/// One row that is in.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub ts: i64,
    pub event_id: String,
    pub group: Option<String>,
}

/// Rows are chosen as they come: files are in the order of their hours, and of two rows of one key the earlier counts.
pub fn select(
    files: &[LogFile],
    filter: &Filter,
    (labels, ledger): (&Resolved, &Ledger),
    (wanted, group): (&Wanted, Option<&str>),
) -> Result<Selection, ReadError> {
    let mut names: Vec<String> = COLUMNS.map(str::to_owned).to_vec();
    names.push("subject_key".to_owned());
    names.extend(group.map(str::to_owned));
    let mut selection = Selection { chosen: HashMap::new(), dropped: Dropped::new(), seen: 0 };
    for file in files {
        for batch in rows(file, filter, Some(&names))? {
            let look = Look { labels, ledger, wanted, group };
            selection.add(&batch?, &look).map_err(|why| failed(&file.path, why))?;
        }
    }
    Ok(selection)
}

struct Look<'a> {
    labels: &'a Resolved,
    ledger: &'a Ledger,
    wanted: &'a Wanted,
    group: Option<&'a str>,
}

impl Selection {
    fn add(&mut self, batch: &RecordBatch, look: &Look<'_>) -> Result<(), String> {
        let (keys, events) = (texts(batch, "label_key")?, texts(batch, "event_id")?);
        let (routes, status) = (texts(batch, "route")?, numbers(batch, "status")?);
        let subjects: Option<&StringArray> = column(batch, "subject_key").ok();
        let groups: Option<&StringArray> =
            look.group.map(|name| column(batch, name)).transpose()?;
        let text = |array: Option<&StringArray>, row: usize| {
            array.filter(|array| array.is_valid(row)).map(|array| array.value(row).to_owned())
        };
        for (row, ts) in times(batch)?.values().iter().enumerate() {
            self.seen += 1;
            let key = keys.value(row);
            let erased = text(subjects, row).is_some_and(|subject| look.ledger.holds(&subject));
            let route = routes.value(row);
            let why = if status.value(row) != 200 {
                Some(Why::Status)
            } else if !look.wanted.routes.iter().any(|wanted| wanted == route) {
                Some(Why::Route)
            } else if erased {
                Some(Why::Erased)
            } else {
                look.why_not(key, *ts)
            };
            if let Some(why) = why {
                *self.dropped.entry(why).or_default() += 1;
                continue;
            }
            let chosen = Chosen {
                ts: *ts,
                event_id: events.value(row).to_owned(),
                group: text(groups, row),
            };
            self.choose(key, chosen);
        }
        Ok(())
    }

    fn choose(&mut self, key: &str, chosen: Chosen) {
        match self.chosen.entry(key.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(chosen);
            }
            Entry::Occupied(mut taken) => {
                *self.dropped.entry(Why::Repeated).or_default() += 1;
                let earlier =
                    (chosen.ts, &chosen.event_id) < (taken.get().ts, &taken.get().event_id);
                if earlier {
                    taken.insert(chosen);
                }
            }
        }
    }

    /// Which slice each key is in. Rows in gaps, and those of a group that trains, go.
    pub fn assign(&mut self, cuts: &Cuts) -> HashMap<String, (String, Slice)> {
        let mut slices = HashMap::with_capacity(self.chosen.len());
        let trained: HashSet<&String> = self
            .chosen
            .values()
            .filter(|row| cuts.of(row.ts) == Some(Slice::Train))
            .filter_map(|row| row.group.as_ref())
            .collect();
        for (key, row) in &self.chosen {
            let shared = row.group.as_ref().is_some_and(|group| trained.contains(group));
            match cuts.of(row.ts) {
                None => *self.dropped.entry(Why::Gap).or_default() += 1,
                Some(slice) if slice != Slice::Train && shared => {
                    *self.dropped.entry(Why::Group).or_default() += 1;
                }
                Some(slice) => {
                    slices.insert(key.clone(), (row.event_id.clone(), slice));
                }
            }
        }
        slices
    }
}

impl Look<'_> {
    fn why_not(&self, key: &str, ts: i64) -> Option<Why> {
        if ts > self.wanted.as_of.saturating_sub(self.wanted.maturity) {
            return Some(Why::Immature);
        }
        match self.labels.of(key, ts, self.wanted.horizon) {
            Some(label) if happened_before(label, ts) => Some(Why::KnownBefore),
            Some(_) => None,
            None => Some(Why::Unlabelled),
        }
    }
}

fn happened_before(label: &Label, ts: i64) -> bool {
    label.ts_event.is_some_and(|event| event < ts)
}
