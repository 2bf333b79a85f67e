//! What a step of a rollout makes of a model's traffic rules: pure, from what is written to what is to be.

use serde::{Deserialize, Serialize};

use crate::types::traffic::{Arm, Fallback, Shadow, Sticky, Traffic};

/// The arm that is meant where none is named.
pub const CANARY: &str = "canary";

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Step {
    /// Change what is given, and nothing else.
    Set(Box<Settings>),
    /// An arm's version becomes the primary; the primary is where `rollback` leads.
    Promote {
        /// `None`: the only arm, or the one named `canary`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arm: Option<String>,
    },
    /// Arms and shadows go; where there are none, the primary before this one comes back.
    Rollback,
    /// Everything to the primary for now.
    Pause,
    Resume,
    /// No rules any more.
    Clear,
}

/// What `set` changes. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<u64>,
    /// By name: a new one, or another version or weight for one that is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<Arm>,
    /// Arms that go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    /// All there are to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadows: Option<Vec<Shadow>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// `sticky: none`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_sticky: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_fallback: bool,
}

impl Step {
    /// For the audit file.
    pub const fn name(&self) -> &'static str {
        match self {
            Step::Set(_) => "set",
            Step::Promote { .. } => "promote",
            Step::Rollback => "rollback",
            Step::Pause => "pause",
            Step::Resume => "resume",
            Step::Clear => "clear",
        }
    }
}

/// The rules after `step`. `current`: the version that answers now, which is the primary where none is named yet. Whether
/// the repository has the versions is for whoever loads them.
///
/// # Errors
/// Why the step cannot be made.
pub fn apply(before: &Traffic, step: &Step, current: Option<u64>) -> Result<Traffic, String> {
    let mut after = before.clone();
    match step {
        Step::Set(settings) => set(&mut after, settings, current)?,
        Step::Promote { arm } => promote(&mut after, arm.as_deref())?,
        Step::Rollback => rollback(&mut after)?,
        Step::Pause if before.paused => return Err("it is paused already".into()),
        Step::Pause if before.is_plain() => return Err("there is nothing to pause".into()),
        Step::Resume if !before.paused => return Err("it is not paused".into()),
        Step::Pause | Step::Resume => after.paused = !after.paused,
        Step::Clear => after = Traffic { generation: before.generation, ..Traffic::default() },
    }
    after.generation = before.generation + 1;
    after.rollout = before.rolling();
    after.rollout = after.rolling();
    after.settled()
}

fn set(after: &mut Traffic, settings: &Settings, current: Option<u64>) -> Result<(), String> {
    if *settings == Settings::default() {
        return Err("nothing to set was given".into());
    }
    let primary = settings.primary.or(after.primary).or(current);
    if primary != after.primary {
        lead(after, primary);
    }
    for name in &settings.remove {
        let before = after.arms.len();
        after.arms.retain(|arm| arm.name != *name);
        if after.arms.len() == before {
            return Err(format!("there is no arm '{name}': {}", arms(after)));
        }
    }
    for arm in &settings.arms {
        match after.arms.iter_mut().find(|known| known.name == arm.name) {
            // Its buckets are its own, whatever version answers them.
            Some(known) => (known.version, known.weight) = (arm.version, arm.weight),
            None => after.arms.push(arm.clone()),
        }
    }
    if let Some(shadows) = &settings.shadows {
        after.shadows = shadows.clone();
    }
    match (&settings.sticky, settings.not_sticky) {
        (Some(_), true) => return Err("sticky: it is both given and taken away".into()),
        (Some(sticky), _) => after.sticky = Some(sticky.clone()),
        (None, true) => after.sticky = None,
        (None, false) => {}
    }
    match (&settings.fallback, settings.no_fallback) {
        (Some(_), true) => return Err("fallback: it is both given and taken away".into()),
        (Some(fallback), _) => after.fallback = Some(fallback.clone()),
        (None, true) => after.fallback = None,
        (None, false) => {}
    }
    after.force = settings.force.unwrap_or(after.force);
    Ok(())
}

/// Another primary; the one that was is remembered.
fn lead(after: &mut Traffic, primary: Option<u64>) {
    after.previous = after.primary.filter(|previous| Some(*previous) != primary);
    after.primary = primary;
}

fn promote(after: &mut Traffic, name: Option<&str>) -> Result<(), String> {
    let place = match (name, &after.arms[..]) {
        (Some(name), all) => all.iter().position(|arm| arm.name == name),
        (None, [_]) => Some(0),
        (None, all) => all.iter().position(|arm| arm.name == CANARY),
    };
    let Some(place) = place else {
        return Err(match name {
            Some(name) => format!("there is no arm '{name}': {}", arms(after)),
            None => format!("there is no arm to promote: {}", arms(after)),
        });
    };
    let arm = after.arms.remove(place);
    lead(after, Some(arm.version));
    let primary = after.primary;
    // What is the primary now is nobody's rival or shadow.
    after.arms.retain(|arm| Some(arm.version) != primary);
    after.shadows.retain(|shadow| Some(shadow.version) != primary);
    after.fallback = after
        .fallback
        .take()
        .filter(|fallback| fallback.model.is_some() || fallback.version != primary);
    after.paused = false;
    Ok(())
}

fn rollback(after: &mut Traffic) -> Result<(), String> {
    if !after.arms.is_empty() || !after.shadows.is_empty() {
        after.arms.clear();
        after.shadows.clear();
        after.paused = false;
        return Ok(());
    }
    let Some(previous) = after.previous else {
        return Err(
            "there is nothing to roll back: no arm, no shadow, and no primary before this one"
                .into(),
        );
    };
    lead(after, Some(previous));
    after.fallback = after
        .fallback
        .take()
        .filter(|fallback| fallback.model.is_some() || fallback.version != Some(previous));
    Ok(())
}

fn arms(traffic: &Traffic) -> String {
    let names: Vec<&str> = traffic.arms.iter().map(|arm| arm.name.as_str()).collect();
    match names.is_empty() {
        true => "there are none".into(),
        false => format!("there are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, version: u64, weight: f64) -> Arm {
        Arm { name: name.into(), version, weight, buckets: Default::default() }
    }

    fn step(before: &Traffic, step: &Step) -> Result<Traffic, String> {
        apply(before, step, Some(1))
    }

    fn canary(weight: f64) -> Step {
        Step::Set(Box::new(Settings { arms: vec![arm(CANARY, 2, weight)], ..Settings::default() }))
    }

    #[test]
    fn a_canary_from_beginning_to_end() {
        let first = step(&Traffic::default(), &canary(10.0)).unwrap();
        assert_eq!((first.generation, first.primary), (1, Some(1)));
        assert_eq!(first.arms[0].buckets.to_string(), "0-999");
        assert_eq!((Traffic::default().rolling(), first.rollout), (None, Some(1)));
        let more = step(&first, &canary(25.0)).unwrap();
        assert_eq!((more.rollout, more.generation), (Some(1), 2));
        assert_eq!(more.arms[0].buckets.to_string(), "0-2499");
        let paused = step(&more, &Step::Pause).unwrap();
        assert!(paused.paused && paused.arms == more.arms);
        assert!(!step(&paused, &Step::Resume).unwrap().paused);
        let done = step(&paused, &Step::Promote { arm: None }).unwrap();
        assert_eq!((done.primary, done.previous, done.paused), (Some(2), Some(1), false));
        assert!(done.arms.is_empty() && done.rollout.is_none());
        let back = step(&done, &Step::Rollback).unwrap();
        assert_eq!((back.primary, back.previous), (Some(1), Some(2)));
        let dropped = step(&more, &Step::Rollback).unwrap();
        assert_eq!((dropped.primary, dropped.arms.len()), (Some(1), 0));
        assert_eq!(step(&back, &canary(1.0)).unwrap().rollout, Some(back.generation + 1));
        assert!(step(&back, &Step::Clear).unwrap().is_plain());
    }

    #[test]
    fn what_cannot_be_done_says_why() {
        let plain = Traffic::default();
        let nothing = Step::Set(Box::default());
        let gone =
            Step::Set(Box::new(Settings { remove: vec!["x".into()], ..Settings::default() }));
        for (made, why) in [
            (&nothing, "nothing to set"),
            (&gone, "there is no arm 'x': there are none"),
            (&Step::Promote { arm: None }, "no arm to promote"),
            (&Step::Promote { arm: Some("x".into()) }, "no arm 'x'"),
            (&Step::Rollback, "nothing to roll back"),
            (&Step::Pause, "nothing to pause"),
            (&Step::Resume, "it is not paused"),
        ] {
            let error = step(&plain, made).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn what_is_promoted_is_nobodys_shadow() {
        let settings = Settings {
            arms: vec![arm("a", 2, 10.0), arm("b", 3, 10.0)],
            shadows: Some(vec![Shadow { version: 2, sample: 100.0 }]),
            fallback: Some(Fallback { model: None, version: Some(2), after_ms: 0 }),
            ..Settings::default()
        };
        let before = step(&Traffic::default(), &Step::Set(Box::new(settings))).unwrap();
        assert!(step(&before, &Step::Promote { arm: None }).is_err(), "which of the two");
        let after = step(&before, &Step::Promote { arm: Some("a".into()) }).unwrap();
        assert_eq!((after.primary, after.arms.len(), after.shadows.len()), (Some(2), 1, 0));
        assert!(after.fallback.is_none());
    }
}
