//! Latency mode: whether a lone run is faster with every thread of the budget, as far as was measured at load.

use std::time::Duration;

use serde_json::{Value, json};

/// A shorter run gains less than its threads cost one another.
pub const LONG_ENOUGH: Duration = Duration::from_millis(1);
/// A model with more weights is not opened a second time only to say what it would gain.
pub const OFFERED_WEIGHTS: u64 = 256 << 20;
/// It is worth it where a run takes at most this part of the time that it takes on one thread: above, the other threads
/// are held for next to nothing.
const WORTH: f64 = 0.8;

/// What a run of one row takes on one thread and on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    pub threads: usize,
    pub on_one: Duration,
    pub on_all: Duration,
    /// The version runs with all of them.
    pub in_effect: bool,
}

impl Latency {
    pub fn worth_it(&self) -> bool {
        self.on_all.as_secs_f64() <= self.on_one.as_secs_f64() * WORTH
    }

    /// For `onnxd explain`.
    pub fn explanation(&self) -> Value {
        let Latency { threads, on_one, on_all, in_effect } = *self;
        let part = on_all.as_secs_f64() / on_one.as_secs_f64();
        let measured = format!(
            "a lone run takes {on_one:.1?} on one thread and {on_all:.1?} on {threads}, {part:.2} of it (worth it from \
             {WORTH} down)"
        );
        let says = match (in_effect, self.worth_it()) {
            (true, _) => format!("{measured}; such a run holds {threads} executors"),
            (false, true) => format!(
                "{measured}; `session.intra_op_threads: 0` turns it on, for few callers: with many, one thread a run \
                 answers more of them"
            ),
            (false, false) => measured,
        };
        json!({ "in_effect": in_effect, "intra_op_threads": threads, "says": says })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_gained_is_said_with_the_way_to_turn_it_on() {
        let ms = Duration::from_millis;
        let latency =
            |all, in_effect| Latency { threads: 2, on_one: ms(12), on_all: ms(all), in_effect };
        let says =
            |latency: Latency| latency.explanation()["says"].as_str().unwrap_or("").to_owned();
        let gain = says(latency(7, false));
        assert!(gain.contains("12.0ms on one thread and 7.0ms on 2, 0.58 of it"), "{gain}");
        assert!(gain.contains("intra_op_threads: 0"), "{gain}");
        assert!(latency(7, false).worth_it() && !latency(11, false).worth_it());
        assert!(!says(latency(11, false)).contains("intra_op_threads"));
        assert!(says(latency(7, true)).contains("holds 2 executors"));
    }
}
