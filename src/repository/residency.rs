//! Which models stay in memory, where there is a budget for them: purely, by what they take and when they were used last.

/// A model that has something in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident<'a> {
    pub name: &'a str,
    /// Bytes of a predecessor that stays warm.
    pub kept: u64,
    /// Bytes of what serves.
    pub serving: u64,
    /// When it was used last: any clock, the smaller the longer ago.
    pub last_used: u64,
    /// Somebody waits for it, or something of it is being loaded: it stays.
    pub busy: bool,
}

/// What memory is used for now. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub budget: u64,
    /// All that serves or is kept.
    pub resident: u64,
    /// What is being loaded, by what its files say.
    pub coming: u64,
    /// What serves no longer and is not free yet.
    pub leaving: u64,
}

/// What to do before so many bytes more can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Load it.
    There,
    /// Wait for what is leaving or coming.
    Wait,
    /// Let these go, in this order, and wait.
    Free(Vec<Victim>),
    /// There is not enough even without all the others.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The predecessor that stays warm.
    Kept(String),
    /// The whole model: it is loaded again when somebody asks for it.
    Model(String),
}

/// Makes room for `need` bytes of the model `of`, which itself stays. Predecessors go first, then the models that were used
/// least lately.
pub fn room(usage: Usage, need: u64, of: &str, residents: &[Resident<'_>]) -> Room {
    let Usage { budget, resident, coming, leaving } = usage;
    let used = resident.saturating_add(coming).saturating_add(leaving);
    let short = used.saturating_add(need).saturating_sub(budget);
    if short == 0 {
        return Room::There;
    }
    let mut short = short.saturating_sub(leaving);
    if short == 0 {
        return Room::Wait;
    }
    let mut by_use: Vec<&Resident<'_>> = residents.iter().collect();
    by_use.sort_by_key(|resident| (resident.last_used, resident.name));
    let mut victims = Vec::new();
    for kept in by_use.iter().filter(|resident| resident.kept > 0) {
        if short == 0 {
            break;
        }
        short = short.saturating_sub(kept.kept);
        victims.push(Victim::Kept(kept.name.to_owned()));
    }
    for model in by_use.iter().filter(|r| r.serving > 0 && !r.busy && r.name != of) {
        if short == 0 {
            break;
        }
        short = short.saturating_sub(model.serving);
        victims.push(Victim::Model(model.name.to_owned()));
    }
    match short {
        0 => Room::Free(victims),
        // What is coming may turn out smaller, or go again.
        _ if coming > 0 || leaving > 0 => Room::Wait,
        _ => Room::Never,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn resident(name: &str, serving: u64, kept: u64, last_used: u64) -> Resident<'_> {
        Resident { name, kept, serving, last_used, busy: false }
    }

    fn usage(resident: u64) -> Usage {
        Usage { budget: 100, resident, ..Usage::default() }
    }

    #[test]
    fn predecessors_go_first_and_then_what_was_used_least_lately() {
        let all =
            [resident("new", 40, 10, 3), resident("old", 30, 0, 1), resident("mid", 20, 0, 2)];
        assert_eq!(room(usage(60), 40, "x", &all), Room::There);
        let kept = Victim::Kept("new".into());
        assert_eq!(room(usage(100), 10, "x", &all), Room::Free(vec![kept.clone()]));
        let old = Victim::Model("old".into());
        assert_eq!(room(usage(100), 11, "x", &all), Room::Free(vec![kept.clone(), old]));
        let (mid, new) = (Victim::Model("mid".into()), Victim::Model("new".into()));
        assert_eq!(room(usage(100), 70, "old", &all), Room::Free(vec![kept, mid, new]));
        assert_eq!(room(usage(100), 71, "old", &all), Room::Never);
        assert_eq!(room(Usage { leaving: 20, ..usage(80) }, 20, "x", &all), Room::Wait);
        assert_eq!(room(Usage { coming: 20, ..usage(100) }, 99, "x", &all), Room::Wait);
    }

    proptest! {
        /// Whatever is there: letting the victims go makes enough room, nobody who is busy goes, nor the model itself, and
        /// none goes that was used later than one that stays.
        #[test]
        fn victims_suffice_and_are_the_right_ones(
            models in vec((0u64..50, 0u64..20, 0u64..9, any::<bool>()), 0..8),
            coming in 0u64..20,
            leaving in 0u64..20,
            need in 0u64..120,
            of in 0usize..8,
        ) {
            let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
            let all: Vec<Resident<'_>> = models.iter().zip(&names)
                .map(|(&(serving, kept, last_used, busy), name)| Resident { name, kept, serving, last_used, busy })
                .collect();
            let resident = models.iter().map(|(serving, kept, ..)| serving + kept).sum();
            let usage = Usage { budget: 100, resident, coming, leaving };
            if let Room::Free(victims) = room(usage, need, &names[of], &all) {
                let find = |name: &String| all.iter().find(|r| r.name == *name).unwrap();
                let mut freed = 0;
                let mut gone = Vec::new();
                for victim in &victims {
                    match victim {
                        Victim::Kept(name) => freed += find(name).kept,
                        Victim::Model(name) => {
                            let model = find(name);
                            prop_assert!(!model.busy && *name != names[of]);
                            freed += model.serving;
                            gone.push(model);
                        }
                    }
                }
                prop_assert!(resident + coming + need <= 100 + freed, "{victims:?}");
                let stays = |r: &&Resident<'_>| {
                    !r.busy && r.serving > 0 && r.name != names[of] && !gone.iter().any(|g| g.name == r.name)
                };
                if let (Some(latest), Some(earliest)) = (
                    gone.iter().map(|r| r.last_used).max(),
                    all.iter().filter(stays).map(|r| r.last_used).min(),
                ) {
                    prop_assert!(latest <= earliest);
                }
            }
        }
    }
}
