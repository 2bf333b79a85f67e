//! What of a model's traffic.yaml is in effect: whose each bucket is, and which version serves for them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    breaker::Breaker,
    table::{State, Version},
};
use crate::{
    telemetry::{
        registry::{RouteCount, registry},
        shadow::ShadowCounts,
    },
    types::{
        buckets::BUCKETS,
        error::{Code, Error},
        request::{Rollout, Sent},
        traffic::{PRIMARY, Traffic},
    },
};

/// The routes of one model, as published. Immutable, but for the breaker.
pub struct Routes {
    pub traffic: Arc<Traffic>,
    /// By bucket: 0 is the primary, n the arm n - 1.
    lanes: Box<[u8]>,
    /// The primary, and each arm.
    ways: Vec<Way>,
    /// Those that serve.
    pub shadows: Vec<Shadowing>,
    /// Who answers where the primary cannot: of this model, or as the table has it.
    pub fallback: Option<Falling>,
    /// Of the primary, as long as the model is there.
    pub breaker: Arc<Mutex<Breaker>>,
    /// What is under way.
    pub rollout: Option<Rollout>,
    /// How copies are sent.
    pub shadowed: Arc<Sent>,
}

/// Where requests go.
pub struct Way {
    /// As `x-onnxd-route` of a request names it.
    pub name: Arc<str>,
    /// `None`: it does not serve.
    pub version: Option<Arc<Version>>,
    /// As the answer's header says it, and the prediction log.
    pub sent: Arc<Sent>,
    pub count: Arc<RouteCount>,
}

/// A version that gets copies.
pub struct Shadowing {
    pub version: Arc<Version>,
    /// Of `BUCKETS` requests so many.
    pub share: usize,
    pub counts: Arc<ShadowCounts>,
}

/// Who answers in the primary's place.
pub struct Falling {
    /// Another model's name.
    pub model: Option<String>,
    /// Empty: the current one.
    pub version: String,
    /// `Duration::ZERO`: the primary is never late.
    pub after: std::time::Duration,
    pub count: Arc<RouteCount>,
}

impl Routes {
    /// Puts `traffic` into effect over the versions that serve. An arm that does not serve leaves its requests to the primary.
    pub fn new(
        model: &str,
        traffic: &Arc<Traffic>,
        current: Option<&Arc<Version>>,
        states: &BTreeMap<u64, State>,
        breaker: &Arc<Mutex<Breaker>>,
    ) -> Routes {
        let serves = |number: u64| match states.get(&number) {
            Some(State::Ready(version)) => Some(version.clone()),
            _ => None,
        };
        let step = i32::try_from(traffic.generation).unwrap_or(i32::MAX);
        let rollout = traffic.rolling().map(|began| (Arc::from(began.to_string()), step));
        let sent = |said: String| Arc::new(Sent { said: said.into(), rollout: rollout.clone() });
        let way = |name: &str, version: Option<Arc<Version>>| Way {
            name: name.into(),
            sent: sent(match &version {
                Some(version) => format!("{name};version={}", version.number),
                None => name.into(),
            }),
            count: registry().route(model, name),
            version,
        };
        let mut ways = vec![way(PRIMARY, current.cloned())];
        ways.extend(traffic.arms.iter().map(|arm| way(&arm.name, serves(arm.version))));
        let mut lanes = vec![0; BUCKETS].into_boxed_slice();
        if !traffic.paused {
            for (arm, lane) in traffic.arms.iter().zip(1u8..) {
                if ways[usize::from(lane)].version.is_some() {
                    arm.buckets.iter().for_each(|bucket| lanes[usize::from(bucket)] = lane);
                }
            }
        }
        let shadows = traffic.shadows.iter().filter(|_| !traffic.paused).filter_map(|shadow| {
            let version = serves(shadow.version)?;
            let counts = registry().shadow(model, &version.label);
            Some(Shadowing { share: shadow.share(), version, counts })
        });
        let fallback = traffic.fallback.as_ref().map(|fallback| Falling {
            model: fallback.model.clone(),
            version: fallback.version.map_or(String::new(), |number| number.to_string()),
            after: std::time::Duration::from_millis(fallback.after_ms),
            count: registry().route(model, "fallback"),
        });
        Routes {
            traffic: traffic.clone(),
            lanes,
            ways,
            shadows: shadows.collect(),
            fallback,
            breaker: breaker.clone(),
            shadowed: sent("shadow".into()),
            rollout,
        }
    }

    /// Whose the bucket is.
    pub fn of_bucket(&self, bucket: usize) -> &Way {
        &self.ways[usize::from(self.lanes[bucket])]
    }

    pub fn primary(&self) -> &Way {
        &self.ways[0]
    }

    /// The way that a request names.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none of that name, `Unavailable` where it does not serve.
    pub fn named(&self, name: &str) -> Result<&Way, Error> {
        let Some(way) = self.ways.iter().find(|way| *way.name == *name) else {
            let known: Vec<&str> = self.ways.iter().map(|way| &*way.name).collect();
            return Err(Error::invalid(format!(
                "x-onnxd-route: there is no '{}', expected one of {}",
                name.chars().take(64).flat_map(char::escape_debug).collect::<String>(),
                known.join(", ")
            )));
        };
        match way.version {
            Some(_) => Ok(way),
            None => Err(Error::new(
                Code::Unavailable,
                format!("x-onnxd-route: the version of '{name}' does not serve"),
            )),
        }
    }

    /// The share of the requests that a version gets, from 0 to 1.
    pub fn share_of(&self, number: u64) -> f64 {
        let own = |way: &&Way| way.version.as_ref().is_some_and(|version| version.number == number);
        self.ways.iter().filter(own).map(|way| self.share(way)).sum()
    }

    /// The share of the requests that go a way.
    pub fn share(&self, way: &Way) -> f64 {
        let Some(place) = self.ways.iter().position(|other| std::ptr::eq(way, other)) else {
            return 0.0;
        };
        let own = self.lanes.iter().filter(|lane| usize::from(**lane) == place).count();
        own as f64 / BUCKETS as f64
    }

    /// The requests that each way got since the model was first routed.
    pub fn counted(&self) -> impl Iterator<Item = (&Way, u64)> {
        self.ways.iter().map(|way| (way, way.count.total()))
    }
}
