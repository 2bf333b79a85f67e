//! Who gets what of a model's requests, as `traffic.yaml` says it: primary, arms, shadows, sticky key, fallback.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::buckets::{self, BUCKETS, Buckets};

/// The header of a request that names its route, where a model lets it, and of an answer that says which one it was; the
/// parameter of a stream's answer that does.
pub const ROUTE: &str = "x-onnxd-route";
/// The name of what is no arm.
pub const PRIMARY: &str = "primary";
/// Names that say something else in the header of the route.
const TAKEN: [&str; 4] = [PRIMARY, "fallback", "shadow", "version"];
const MOST_ARMS: usize = 16;
pub const MOST_SHADOWS: usize = 4;
const MOST_NAME: usize = 64;
/// So many hundredths of a per cent are all requests.
const PER_CENT: f64 = BUCKETS as f64 / 100.0;

/// `traffic.yaml` of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Of this file; 1.
    #[serde(default = "one")]
    pub format: u32,
    /// Grows by one with every change: two who change it at once are told apart by it.
    #[serde(default)]
    pub generation: u64,
    /// The version that gets what no arm takes. `None`: the newest that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<u64>,
    /// The primary before this one: where `rollback` leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<u64>,
    /// Versions beside the primary, each with a share of the requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<Arm>,
    /// Versions that get copies of the primary's requests, and whose answers nobody gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shadows: Vec<Shadow>,
    /// What decides the arm of a request, so that the same user stays where they are. `None`: chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Whether the header `x-onnxd-route` of a request chooses its arm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Who answers where the primary cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Everything goes to the primary, and nothing to shadows; the rest stays written down.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The generation with which arms or shadows first came to the primary: since then, one rollout. `None`: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<u64>,
    /// The change that led here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// A share of the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    pub version: u64,
    /// Per cent of the requests, in hundredths at the finest.
    pub weight: f64,
    /// Which of the 10,000 buckets are its own. Written down so that a change of one arm's weight moves nobody of another's.
    #[serde(default, skip_serializing_if = "Buckets::is_empty")]
    pub buckets: Buckets,
}

/// Copies of requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    pub version: u64,
    /// Per cent of the primary's requests that are copied.
    #[serde(default = "all")]
    pub sample: f64,
}

/// What decides the arm of a request: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// A header over HTTP, metadata over gRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A parameter of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
}

/// Who answers where the primary fails, refuses for its load, is late, or has failed so often that it is not asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Another model; `None`: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A version of it; `None`: its current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Milliseconds after which the primary counts as late; 0: never.
    #[serde(default)]
    pub after_ms: u64,
}

/// Who changed it, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// As in `set`, `promote`.
    pub action: String,
    pub by: String,
    /// RFC 3339, in UTC.
    pub at: String,
    #[serde(default)]
    pub why: String,
}

const fn one() -> u32 {
    1
}

const fn all() -> f64 {
    100.0
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic {
            format: 1,
            generation: 0,
            primary: None,
            previous: None,
            arms: Vec::new(),
            shadows: Vec::new(),
            sticky: None,
            force: false,
            fallback: None,
            paused: false,
            rollout: None,
            change: None,
        }
    }
}

impl Arm {
    /// Its share, in buckets of `BUCKETS`.
    pub fn share(&self) -> usize {
        (self.weight * PER_CENT).round() as usize
    }
}

impl Shadow {
    /// Of so many numbers below `BUCKETS` those that are copied.
    pub fn share(&self) -> usize {
        (self.sample * PER_CENT).round() as usize
    }
}

impl Traffic {
    /// Whether it says anything beyond what goes without saying.
    pub fn is_plain(&self) -> bool {
        *self
            == Traffic {
                generation: self.generation,
                change: self.change.clone(),
                ..Traffic::default()
            }
    }

    /// The rollout that is under way, by the generation with which it began. Of a file that does not say it, that is its own.
    pub fn rolling(&self) -> Option<u64> {
        let idle = self.arms.is_empty() && self.shadows.is_empty();
        (!idle).then(|| self.rollout.unwrap_or(self.generation))
    }

    /// Every version that has to be there for it.
    pub fn versions(&self) -> BTreeSet<u64> {
        let fallback = self.fallback.as_ref().filter(|fallback| fallback.model.is_none());
        self.primary
            .into_iter()
            .chain(self.arms.iter().map(|arm| arm.version))
            .chain(self.shadows.iter().map(|shadow| shadow.version))
            .chain(fallback.and_then(|fallback| fallback.version))
            .collect()
    }

    /// The same with every arm's buckets decided: what an arm has stays its own, as far as its weight goes.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn settled(mut self) -> Result<Traffic, String> {
        self.check()?;
        let wanted: Vec<(usize, &Buckets)> =
            self.arms.iter().map(|arm| (arm.share(), &arm.buckets)).collect();
        let assigned = buckets::assign(&wanted).map_err(|(one, other, bucket)| {
            format!(
                "arms: '{}' and '{}' both have bucket {bucket}",
                self.arms[one].name, self.arms[other].name
            )
        })?;
        for (arm, buckets) in self.arms.iter_mut().zip(assigned) {
            arm.buckets = buckets;
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != 1 {
            return Err(format!("format: expected 1, got {}", self.format));
        }
        if self.primary.is_none() && !(self.arms.is_empty() && self.shadows.is_empty()) {
            return Err(
                "primary: arms and shadows need a version that is named as the primary".into()
            );
        }
        if self.primary == Some(0) {
            return Err("primary: expected a version's number, got 0".into());
        }
        self.check_arms()?;
        if self.shadows.len() > MOST_SHADOWS {
            return Err(format!(
                "shadows: expected {MOST_SHADOWS} at most, got {}",
                self.shadows.len()
            ));
        }
        let mut versions = BTreeSet::new();
        for Shadow { version, sample } in &self.shadows {
            per_cent(*sample).map_err(|why| format!("shadows: sample: {why}"))?;
            if Some(*version) == self.primary || !versions.insert(version) {
                return Err(format!("shadows: version {version} is the primary, or named twice"));
            }
        }
        self.check_ways()
    }

    fn check_arms(&self) -> Result<(), String> {
        if self.arms.len() > MOST_ARMS {
            return Err(format!("arms: expected {MOST_ARMS} at most, got {}", self.arms.len()));
        }
        let mut names = BTreeSet::new();
        for Arm { name, version, weight, .. } in &self.arms {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
            if name.is_empty() || name.len() > MOST_NAME || !name.bytes().all(plain) {
                return Err(format!(
                    "arms: '{}' is no name, expected 1 to {MOST_NAME} of A-Z a-z 0-9 _ - .",
                    name.escape_debug()
                ));
            }
            if TAKEN.contains(&name.as_str()) || !names.insert(name) {
                return Err(format!("arms: the name '{name}' is taken"));
            }
            per_cent(*weight).map_err(|why| format!("arms: the weight of '{name}': {why}"))?;
            if Some(*version) == self.primary {
                return Err(format!("arms: '{name}' has version {version}, which is the primary"));
            }
        }
        let total: usize = self.arms.iter().map(Arm::share).sum();
        match total <= BUCKETS {
            true => Ok(()),
            false => Err(format!(
                "arms: expected weights of 100 per cent together at most, got {}",
                total as f64 / PER_CENT
            )),
        }
    }

    fn check_ways(&self) -> Result<(), String> {
        if let Some(Sticky { header, parameter }) = &self.sticky {
            let token = |text: &String| {
                !text.is_empty()
                    && text.len() <= MOST_NAME
                    && text.bytes().all(|b| b.is_ascii_graphic())
            };
            match (header, parameter) {
                (Some(header), None) if token(header) && header.to_ascii_lowercase() == *header => {
                }
                (None, Some(parameter)) if token(parameter) => {}
                (Some(_), None) => {
                    return Err("sticky: header: expected a header's name in small letters".into());
                }
                (None, Some(_)) => {
                    return Err("sticky: parameter: expected a parameter's name".into());
                }
                _ => return Err("sticky: expected either a header or a parameter".into()),
            }
        }
        match &self.fallback {
            Some(Fallback { model: None, version: None, .. }) => {
                Err("fallback: expected a model, a version, or both".into())
            }
            Some(Fallback { model: None, version, .. }) if *version == self.primary => {
                Err("fallback: it is the primary itself".into())
            }
            _ => Ok(()),
        }
    }
}

fn per_cent(value: f64) -> Result<(), String> {
    let fine = (value * PER_CENT - (value * PER_CENT).round()).abs() < 1e-6;
    match (0.0..=100.0).contains(&value) && fine {
        true => Ok(()),
        false => Err(format!("expected per cent from 0 to 100 in hundredths, got {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, version: u64, weight: f64) -> Arm {
        Arm { name: name.into(), version, weight, buckets: Buckets::default() }
    }

    fn with(arms: Vec<Arm>) -> Traffic {
        Traffic { primary: Some(1), arms, ..Traffic::default() }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let shadow =
            |version, sample| Traffic { shadows: vec![Shadow { version, sample }], ..with(vec![]) };
        let sticky = |header: Option<&str>, parameter: Option<&str>| {
            let own = |text: Option<&str>| text.map(String::from);
            let sticky = Sticky { header: own(header), parameter: own(parameter) };
            Traffic { sticky: Some(sticky), ..with(vec![]) }
        };
        let fallback = |version| Traffic {
            fallback: Some(Fallback { model: None, version, after_ms: 0 }),
            ..with(vec![])
        };
        for (traffic, why) in [
            (Traffic { format: 2, ..Traffic::default() }, "format: expected 1, got 2"),
            (Traffic { primary: None, ..with(vec![arm("a", 2, 1.0)]) }, "need a version"),
            (Traffic { primary: Some(0), ..Traffic::default() }, "got 0"),
            (with(vec![arm("", 2, 1.0)]), "'' is no name"),
            (with(vec![arm("a b", 2, 1.0)]), "'a b' is no name"),
            (with(vec![arm("primary", 2, 1.0)]), "'primary' is taken"),
            (with(vec![arm("a", 2, 1.0), arm("a", 3, 1.0)]), "'a' is taken"),
            (with(vec![arm("a", 1, 1.0)]), "which is the primary"),
            (with(vec![arm("a", 2, -1.0)]), "got -1"),
            (with(vec![arm("a", 2, f64::NAN)]), "got NaN"),
            (with(vec![arm("a", 2, 0.001)]), "in hundredths, got 0.001"),
            (with(vec![arm("a", 2, 60.0), arm("b", 3, 50.0)]), "got 110"),
            (shadow(1, 100.0), "version 1 is the primary"),
            (shadow(2, 101.0), "got 101"),
            (sticky(None, None), "either a header or a parameter"),
            (sticky(Some("a"), Some("b")), "either a header or a parameter"),
            (sticky(Some("X-User"), None), "in small letters"),
            (fallback(None), "expected a model, a version"),
            (fallback(Some(1)), "the primary itself"),
        ] {
            let error = traffic.settled().unwrap_err();
            assert!(error.contains(why), "{error}: {why}");
        }
    }

    #[test]
    fn the_versions_that_are_needed() {
        let traffic = Traffic {
            shadows: vec![Shadow { version: 4, sample: 1.0 }],
            fallback: Some(Fallback { model: None, version: Some(5), after_ms: 0 }),
            ..with(vec![arm("a", 2, 1.0), arm("b", 2, 1.0)])
        };
        assert_eq!(traffic.versions(), BTreeSet::from([1, 2, 4, 5]));
        let other = Fallback { model: Some("m".into()), version: Some(9), after_ms: 0 };
        let traffic = Traffic { fallback: Some(other), ..with(vec![]) };
        assert_eq!(traffic.versions(), BTreeSet::from([1]));
        assert!(Traffic::default().is_plain() && !traffic.is_plain());
    }
}
