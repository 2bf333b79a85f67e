//! What a person can set about batching, per model.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

/// How a version executes; `auto` lets the probe decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Auto,
    /// On the network thread, gathered over one turn of its event loop: for models of microseconds.
    Turn,
    /// On the executors, in batches.
    Batch,
    /// On the executors, one request a run.
    Single,
}

/// The delay that may stand in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StandingDelay {
    /// From the learned cost.
    #[default]
    Auto,
    /// Any: only the queue's size and the clients' deadlines bound it.
    Off,
    Fixed(Duration),
}

impl Serialize for StandingDelay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            StandingDelay::Auto => serializer.serialize_str("auto"),
            StandingDelay::Off => serializer.serialize_str("off"),
            StandingDelay::Fixed(delay) => {
                serializer.serialize_u64(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl<'de> Deserialize<'de> for StandingDelay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = StandingDelay;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, off or a number of milliseconds")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<StandingDelay, E> {
                match word {
                    "auto" => Ok(StandingDelay::Auto),
                    "off" => Ok(StandingDelay::Off),
                    other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
                }
            }

            // What YAML 1.1 makes of `off`.
            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<StandingDelay, E> {
                self.visit_str(if on { "on" } else { "off" })
            }

            fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<StandingDelay, E> {
                match ms {
                    0 => Err(E::invalid_value(serde::de::Unexpected::Unsigned(0), &self)),
                    ms => Ok(StandingDelay::Fixed(Duration::from_millis(ms))),
                }
            }

            fn visit_i64<E: serde::de::Error>(self, ms: i64) -> Result<StandingDelay, E> {
                let unexpected = serde::de::Unexpected::Signed(ms);
                let ms = u64::try_from(ms).map_err(|_| E::invalid_value(unexpected, &self))?;
                self.visit_u64(ms)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// `batching:` of model.yaml and of the configuration's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchOptions {
    /// How the model executes: `auto` (default; the probe decides), `turn`, `batch` or `single`.
    pub mode: Mode,
    /// Rows a batch may hold. 64 bounds the memory of a run and the wait of the first in line.
    pub max_batch_size: usize,
    /// Rows at which a batch is full before it has `max_batch_size` (Triton's `preferred_batch_size`, the largest): it waits for
    /// no more company, and a run takes no more. 0: only `max_batch_size` counts.
    pub preferred_batch_size: usize,
    /// Microseconds a batch may wait for company. 0: a free executor takes what waits.
    pub max_queue_delay_us: u64,
    /// Requests that may wait; one more is refused (429).
    pub max_queue_requests: usize,
    /// Bytes of inputs that may wait; more are refused (429).
    pub max_queue_bytes: usize,
    /// Milliseconds that requests may wait for long before more are refused (429): `auto`, `off` or a number. Auto: six
    /// runs of one row or two efficient batches, whichever is longer, by the learned cost; 20 at least. A burst may wait
    /// longer: only a queue that stays above it is cut back to it.
    pub standing_delay_ms: StandingDelay,
    /// Priority of requests that ask for none (Triton's `default_priority_level`): 1 is the highest, 255 the lowest. 2: one
    /// level above for what is urgent, all others below for what can wait.
    pub default_priority: u8,
    /// Executors that the model may hold at once. 0: all of them.
    pub instances: usize,
    /// Milliseconds that a batch should take at most; the learned cost then chooses its size. 0: no target.
    pub latency_target_ms: u64,
    /// Inputs, by name, in which requests of several lengths are padded to share a batch. None by default: padding costs
    /// computing, and only the model's owner knows with which value it changes no answer. For a model's own model.yaml.
    pub padding: BTreeMap<String, PaddingOptions>,
}

/// One entry of `padding`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PaddingOptions {
    /// What stands where a request is shorter than its batch. Default: 0.
    pub value: f64,
    /// Axes that may be padded. Empty (default): every dynamic one behind the batch's.
    pub axes: Vec<usize>,
    /// Lengths share a batch where the next multiple of this is the same. Default: 16, which wastes little.
    pub multiple_of: usize,
    /// In place of `multiple_of`: lengths share a batch where the next of these, in rising order, is the same; longer
    /// ones are not padded. Empty by default.
    pub buckets: Vec<usize>,
}

impl Default for PaddingOptions {
    fn default() -> Self {
        PaddingOptions { value: 0.0, axes: Vec::new(), multiple_of: 16, buckets: Vec::new() }
    }
}

impl PaddingOptions {
    /// What is wrong with these options, if anything; for use before a model is loaded.
    pub fn check(&self) -> Result<(), String> {
        if self.multiple_of == 0 {
            return Err("multiple_of: expected at least 1, not 0".to_owned());
        }
        if self.buckets.first() == Some(&0) || self.buckets.windows(2).any(|b| b[0] >= b[1]) {
            return Err(format!(
                "buckets: expected rising lengths from 1 on, not {:?}",
                self.buckets
            ));
        }
        Ok(())
    }
}

impl Default for BatchOptions {
    fn default() -> Self {
        BatchOptions {
            mode: Mode::Auto,
            max_batch_size: 64,
            preferred_batch_size: 0,
            max_queue_delay_us: 0,
            max_queue_requests: 1024,
            max_queue_bytes: 256 << 20,
            standing_delay_ms: StandingDelay::Auto,
            default_priority: 2,
            instances: 0,
            latency_target_ms: 0,
            padding: BTreeMap::new(),
        }
    }
}

impl BatchOptions {
    /// Rows that a run takes of what waits.
    pub fn rows(&self) -> usize {
        match self.preferred_batch_size {
            0 => self.max_batch_size,
            preferred => preferred.min(self.max_batch_size),
        }
    }

    pub fn max_queue_delay(&self) -> Duration {
        Duration::from_micros(self.max_queue_delay_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standing_delay_is_a_word_or_a_number() {
        let read =
            |text: &str| serde_json::from_str::<StandingDelay>(text).map_err(|e| e.to_string());
        for (text, delay) in [
            (r#""auto""#, StandingDelay::Auto),
            (r#""off""#, StandingDelay::Off),
            ("250", StandingDelay::Fixed(Duration::from_millis(250))),
        ] {
            assert_eq!(read(text), Ok(delay));
            assert_eq!(serde_json::to_string(&delay).unwrap(), text);
        }
        assert_eq!(read("false"), Ok(StandingDelay::Off));
        for wrong in ["0", "-1", "1.5", "true", r#""soon""#, "null"] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains("auto, off or a number of milliseconds"), "{wrong}: {error}");
        }
    }
}
