//! Distributions of service times: as text, as samples, as the quantiles that a measurement is held against.

use std::{fmt, str::FromStr, time::Duration};

use rand_pcg::{Pcg64Mcg, rand_core::Rng};
use statrs::distribution::{ContinuousCDF, Normal};

use crate::units::{Share, Span};

/// How long services take.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// `constant:2ms`
    Constant(Duration),
    /// `uniform:1ms..5ms`
    Uniform(Duration, Duration),
    /// `exponential:4ms`, of this mean.
    Exponential(Duration),
    /// `lognormal:4ms,0.5`: of this median, the logarithm spread by this standard deviation.
    Lognormal(Duration, f64),
    /// `bimodal:2ms,20ms,1%`: the first, but for this share the second.
    Bimodal(Duration, Duration, f64),
}

const FORMS: &str = "expected constant:2ms, uniform:1ms..5ms, exponential:4ms, lognormal:4ms,0.5 or bimodal:2ms,20ms,1%";

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let wrong = || format!("'{text}' is no distribution; {FORMS}");
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let span = |text: &str| text.trim().parse().map(|Span(span)| span);
        let parts: Vec<&str> = rest.split(',').collect();
        Ok(match (kind, &parts[..]) {
            ("constant", [value]) => Distribution::Constant(span(value)?),
            ("uniform", [range]) => {
                let (from, to) = range.split_once("..").ok_or_else(wrong)?;
                let (from, to) = (span(from)?, span(to)?);
                if from > to {
                    return Err(wrong());
                }
                Distribution::Uniform(from, to)
            }
            ("exponential", [mean]) => Distribution::Exponential(span(mean)?),
            ("lognormal", [median, sigma]) => {
                let sigma: f64 = sigma.trim().parse().map_err(|_| wrong())?;
                if !(0.0..=5.0).contains(&sigma) {
                    return Err(wrong());
                }
                Distribution::Lognormal(span(median)?, sigma)
            }
            ("bimodal", [first, second, share]) => {
                let Share(share) = share.trim().parse()?;
                Distribution::Bimodal(span(first)?, span(second)?, share)
            }
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |span: &Duration| Span(*span).to_string();
        match self {
            Distribution::Constant(value) => write!(f, "constant:{}", span(value)),
            Distribution::Uniform(from, to) => write!(f, "uniform:{}..{}", span(from), span(to)),
            Distribution::Exponential(mean) => write!(f, "exponential:{}", span(mean)),
            Distribution::Lognormal(median, sigma) => {
                write!(f, "lognormal:{},{sigma}", span(median))
            }
            Distribution::Bimodal(first, second, share) => {
                write!(f, "bimodal:{},{},{}%", span(first), span(second), share * 100.0)
            }
        }
    }
}

impl Distribution {
    /// The value that a share `quantile` (0 to 1) of all services do not exceed.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let q = quantile.clamp(0.0, 1.0 - 1e-15);
        match self {
            Distribution::Constant(value) => *value,
            Distribution::Uniform(from, to) => *from + (*to - *from).mul_f64(q),
            Distribution::Exponential(mean) => mean.mul_f64(-(1.0 - q).ln()),
            Distribution::Lognormal(median, sigma) => {
                let z = Normal::standard().inverse_cdf(q.max(1e-15));
                median.mul_f64((sigma * z).exp())
            }
            Distribution::Bimodal(first, second, share) => {
                if q < 1.0 - share {
                    *first
                } else {
                    *second
                }
            }
        }
    }

    pub fn sample(&self, rng: &mut Pcg64Mcg) -> Duration {
        // 53 random bits; never 1.
        self.quantile((rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use rand_pcg::rand_core::SeedableRng;

    use super::*;
    use crate::record::{Times, histogram};

    #[test]
    fn they_are_written_as_they_are_read() {
        for text in [
            "constant:2ms",
            "uniform:1ms..5ms",
            "exponential:4ms",
            "lognormal:4ms,0.5",
            "bimodal:2ms,20ms,1%",
        ] {
            let distribution: Distribution = text.parse().unwrap();
            assert_eq!(distribution.to_string(), text);
        }
        for wrong in
            ["", "constant", "constant:2", "uniform:5ms..1ms", "lognormal:1ms,x", "normal:1ms"]
        {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn samples_have_the_stated_percentiles() {
        for text in
            ["uniform:1ms..5ms", "exponential:4ms", "lognormal:4ms,0.5", "bimodal:2ms,20ms,1%"]
        {
            let distribution: Distribution = text.parse().unwrap();
            let mut rng = Pcg64Mcg::seed_from_u64(5);
            let mut sampled = histogram();
            for _ in 0..400_000 {
                let nanos = distribution.sample(&mut rng).as_nanos() as u64;
                sampled.saturating_record(nanos.max(1));
            }
            let times = Times::of(&sampled);
            for quantile in [0.1, 0.5, 0.9, 0.95, 0.985, 0.995, 0.999] {
                let stated = distribution.quantile(quantile).as_nanos() as f64;
                let found = times.quantile(quantile) as f64;
                assert!((found / stated - 1.0).abs() < 0.02, "{text} {quantile}: {found} {stated}");
            }
        }
    }
}
