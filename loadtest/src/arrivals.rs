//! When requests are due: each way of arriving as a stream of moments, the same for the same seed.

use std::{sync::Arc, time::Duration};

use rand_pcg::{
    Pcg64Mcg,
    rand_core::{Rng, SeedableRng},
};

use crate::{
    plan::{Arrivals, Recorded, Until},
    units::Speed,
};

/// The moments at which requests of one phase are due, in nanoseconds from its start, never decreasing.
///
/// Poisson arrivals of a changing rate are exact, not stepwise: a process of rate 1 is stretched by the inverse of the
/// integral of the rate. Of `Arrivals::Closed` these are the first requests of the callers (all at 0); when each asks
/// again depends on its answer, which only the generator knows.
#[derive(Clone, Debug)]
pub struct Schedule {
    way: Way,
    /// First moment that is past the end.
    end: u64,
    left: u64,
    /// The moment given last: rounding must not make time run backwards.
    last: u64,
    rng: Pcg64Mcg,
}

#[derive(Clone, Debug)]
enum Way {
    /// `mass` arrivals are expected up to the last moment that was given; the next one is where `Course` reaches more.
    Random {
        course: Course,
        mass: f64,
    },
    /// The n-th arrival is where `Course` reaches n.
    Even {
        course: Course,
        next: u64,
    },
    Bursts {
        size: u64,
        every: u64,
        next: u64,
    },
    Trace {
        at: Arc<[Duration]>,
        next: usize,
    },
    Recorded {
        asked: Arc<[Recorded]>,
        times: f64,
        next: usize,
    },
    Closed {
        left: usize,
    },
}

/// How many arrivals are expected up to a moment, as something that can be inverted. Seconds.
#[derive(Clone, Debug)]
enum Course {
    Flat(f64),
    Line { from: f64, to: f64, over: f64 },
    Steps { rates: Vec<f64>, hold: f64 },
}

impl Schedule {
    /// The schedule of a phase that arrives so and lasts until then. A ramp over no stated time takes what its number of
    /// requests takes on average; with neither it is flat.
    pub fn new(arrivals: &Arrivals, until: &Until, seed: u64) -> Schedule {
        let random = |course| Way::Random { course, mass: 0.0 };
        let even = |course| Way::Even { course, next: 0 };
        let way = match arrivals {
            Arrivals::Poisson { rate } => random(Course::Flat(*rate)),
            Arrivals::Constant { rate } => even(Course::Flat(*rate)),
            Arrivals::Bursts { size, every } => {
                Way::Bursts { size: (*size).max(1), every: nanos(*every), next: 0 }
            }
            Arrivals::Ramp { from, to, poisson } => {
                let course = ramp(*from, *to, until);
                if *poisson { random(course) } else { even(course) }
            }
            Arrivals::Steps { rates, hold, poisson } => {
                let course = Course::Steps { rates: rates.clone(), hold: hold.as_secs_f64() };
                if *poisson { random(course) } else { even(course) }
            }
            Arrivals::Trace { at } => Way::Trace { at: at.clone(), next: 0 },
            Arrivals::Recorded { asked, speed: Speed::Times(times) } => {
                Way::Recorded { asked: asked.clone(), times: *times, next: 0 }
            }
            // As many as there are connections ask it, which only the generator knows.
            Arrivals::Recorded { asked, speed: Speed::Max } => Way::Closed { left: asked.len() },
            Arrivals::Closed { callers, .. } => Way::Closed { left: *callers },
        };
        Schedule {
            way,
            end: until.duration.map_or(u64::MAX, nanos),
            left: until.requests.unwrap_or(u64::MAX),
            last: 0,
            rng: Pcg64Mcg::seed_from_u64(seed),
        }
    }
}

fn ramp(from: f64, to: f64, until: &Until) -> Course {
    let over = match (until.duration, until.requests) {
        (Some(duration), _) => duration.as_secs_f64(),
        (None, Some(requests)) => 2.0 * requests as f64 / (from + to),
        (None, None) => f64::INFINITY,
    };
    if over.is_finite() && over > 0.0 {
        Course::Line { from, to, over }
    } else {
        Course::Flat(from)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let due = match &mut self.way {
            Way::Random { course, mass } => {
                *mass += exponential(&mut self.rng);
                to_nanos(course.reach(*mass)?)?
            }
            Way::Even { course, next } => {
                let due = to_nanos(course.reach(*next as f64)?)?;
                *next += 1;
                due
            }
            Way::Bursts { size, every, next } => {
                let due = (*next / *size).checked_mul(*every)?;
                *next += 1;
                due
            }
            Way::Trace { at, next } => {
                let due = nanos(*at.get(*next)?);
                *next += 1;
                due
            }
            Way::Recorded { asked, times, next } => {
                let due = (asked.get(*next)?.at as f64 / *times).round();
                *next += 1;
                due as u64
            }
            Way::Closed { left } => {
                *left = left.checked_sub(1)?;
                0
            }
        };
        if due >= self.end {
            self.left = 0;
            return None;
        }
        self.left -= 1;
        self.last = self.last.max(due);
        Some(self.last)
    }
}

/// Of rate 1. 53 random bits: at most 36.7, never infinite.
fn exponential(rng: &mut Pcg64Mcg) -> f64 {
    let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    -(1.0 - uniform).ln()
}

/// Nothing where it is further away than `u64` reaches: five centuries.
fn to_nanos(seconds: f64) -> Option<u64> {
    let nanos = (seconds * 1e9).round();
    (nanos < u64::MAX as f64).then_some(nanos as u64)
}

impl Course {
    /// Seconds until `mass` arrivals are expected; none where there will never be so many.
    fn reach(&self, mass: f64) -> Option<f64> {
        match self {
            Course::Flat(rate) => (*rate > 0.0).then(|| mass / rate),
            Course::Line { from, to, over } => {
                let slope = (to - from) / over;
                // from t + slope t² / 2 = mass, solved in the form that keeps its digits when the slope is small.
                let root = from * from + 2.0 * slope * mass;
                let below = from + root.sqrt();
                match mass {
                    0.0 => Some(0.0),
                    _ => (root >= 0.0 && below > 0.0).then(|| 2.0 * mass / below),
                }
            }
            Course::Steps { rates, hold } => steps(rates, *hold, mass),
        }
    }
}

/// The last rate goes on for as long as the phase does.
fn steps(rates: &[f64], hold: f64, mut mass: f64) -> Option<f64> {
    let (last, before) = rates.split_last()?;
    let mut start = 0.0;
    for rate in before {
        // A step of rate 0 is passed over: nobody arrives in it.
        if *rate > 0.0 && mass < rate * hold {
            return Some(start + mass / rate);
        }
        mass -= rate * hold;
        start += hold;
    }
    (*last > 0.0).then(|| start + mass / last)
}

#[cfg(test)]
#[path = "arrivals_tests.rs"]
mod tests;
