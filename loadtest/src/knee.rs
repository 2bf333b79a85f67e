//! Latency and goodput against offered load, to beyond saturation: which rates to measure, and what the curve says. No clock, no server.
//!
//! First upwards by doubling, until the server answers fewer than nine tenths of what is offered in good time, or the generator cannot keep
//! up; the most that it answered is its capacity. Then at shares of it, closer together around the bend and beyond it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    summary::{Figures, Percentiles},
    trial::LATE_NS,
    units::{self, Span},
};

/// Where to measure, as shares of the capacity.
const SHARES: [f64; 14] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.25, 1.5];

/// What answers less of the offered load than this is saturated.
const SATURATED: f64 = 0.9;

/// A rate this close to one that was measured needs no measurement of its own.
const NEAR: f64 = 0.02;

/// How to draw the curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// The first rate, a second.
    pub start: f64,
    /// No higher rate is offered.
    pub highest: f64,
    /// Rates to measure, instead of looking for the capacity.
    pub rates: Vec<f64>,
}

/// What was measured at one rate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Asked for, a second.
    pub rate: f64,
    /// What came to be due, a second.
    pub offered: f64,
    /// Good answers a second.
    pub throughput: f64,
    /// Good answers in time, a second, where the objectives say what that is.
    pub goodput: Option<f64>,
    /// Shares of what ended, 0 to 1.
    pub error_rate: f64,
    pub shed_rate: f64,
    /// From the scheduled moment, nanoseconds.
    pub latency: Percentiles,
    /// The generator's schedule error at p99, nanoseconds.
    pub lag_p99: u64,
    /// The generator could not keep its schedule: what is here says little of the server.
    pub generator_late: bool,
}

impl Point {
    /// What a run at `rate` came to.
    pub fn of(rate: f64, figures: &Figures) -> Point {
        Point {
            rate,
            offered: figures.offered,
            throughput: figures.throughput,
            goodput: figures.goodput,
            error_rate: figures.error_rate,
            shed_rate: figures.shed_rate,
            latency: figures.latency,
            lag_p99: figures.lag.p99,
            generator_late: figures.lag.p99 > LATE_NS,
        }
    }

    /// In a line.
    pub fn words(&self) -> String {
        let time = |nanos| units::short(Span(Duration::from_nanos(nanos)));
        let goodput = self.goodput.map_or(String::new(), |g| format!(", {g:.0}/s in time"));
        let late = if self.generator_late { "; the generator was late" } else { "" };
        format!(
            "{:.0}/s offered: {:.0}/s answered{goodput}, p50 {}, p99 {}{late}",
            self.offered,
            self.throughput,
            time(self.latency.p50),
            time(self.latency.p99)
        )
    }

    fn is_saturated(&self) -> bool {
        self.generator_late || self.throughput < self.offered * SATURATED
    }
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Measure(f64),
    Done,
}

/// A curve in the making, and the curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    pub options: Options,
    /// By rate, ascending.
    pub points: Vec<Point>,
}

impl Curve {
    pub fn new(options: Options) -> Curve {
        Curve { options, points: Vec::new() }
    }

    pub fn record(&mut self, point: Point) {
        let at = self.points.partition_point(|p| p.rate < point.rate);
        self.points.insert(at, point);
    }

    /// The rate to measure next.
    pub fn next(&self) -> Step {
        if !self.options.rates.is_empty() {
            return self.first_missing(self.options.rates.iter().copied());
        }
        match self.points.last() {
            None => Step::Measure(self.options.start.min(self.options.highest)),
            Some(last) if !self.saturates() && last.rate < self.options.highest => {
                Step::Measure((last.rate * 2.0).min(self.options.highest))
            }
            Some(_) => {
                let capacity = self.capacity();
                self.first_missing(SHARES.iter().map(|share| share * capacity))
            }
        }
    }

    fn first_missing(&self, mut rates: impl Iterator<Item = f64>) -> Step {
        let limit = self.limit();
        let missing = rates.find(|rate| *rate > 0.0 && *rate < limit && !self.has(*rate));
        missing.map_or(Step::Done, Step::Measure)
    }

    /// About how many rates are still to be measured.
    pub fn left(&self) -> u32 {
        let missing = |rates: &[f64]| rates.iter().filter(|rate| !self.has(**rate)).count() as u32;
        if !self.options.rates.is_empty() {
            return missing(&self.options.rates);
        }
        if !self.saturates() {
            // On the way up nobody knows how far it is.
            return 2 + SHARES.len() as u32;
        }
        let limit = self.limit();
        let capacity = self.capacity();
        let rates: Vec<f64> =
            SHARES.iter().map(|share| share * capacity).filter(|rate| *rate < limit).collect();
        missing(&rates)
    }

    /// Where the generator is the limit, more of the same says nothing.
    fn limit(&self) -> f64 {
        let limit = self.points.iter().find(|p| p.generator_late).map_or(f64::INFINITY, |p| p.rate);
        limit.min(self.options.highest)
    }

    fn has(&self, rate: f64) -> bool {
        self.points.iter().any(|point| (point.rate / rate - 1.0).abs() < NEAR)
    }

    fn saturates(&self) -> bool {
        self.points.iter().any(Point::is_saturated)
    }

    /// The most good answers a second that were seen.
    pub fn capacity(&self) -> f64 {
        self.points.iter().map(|point| point.throughput).fold(0.0, f64::max)
    }

    /// The point with the most goodput, where goodput was measured.
    pub fn best(&self) -> Option<&Point> {
        let goodput = |point: &Point| point.goodput.unwrap_or(0.0);
        let best = self.points.iter().max_by(|a, b| goodput(a).total_cmp(&goodput(b)));
        best.filter(|point| point.goodput.is_some())
    }

    /// The first point that the server did not keep up at, if any was reached.
    pub fn saturation(&self) -> Option<&Point> {
        self.points.iter().find(|point| point.is_saturated() && !point.generator_late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        simulated::{self, Server, mdc},
        slo::Slo,
        summary::Summary,
    };

    fn measure(server: &Server, rate: f64, within_ms: u64) -> Point {
        let seconds = 5.0;
        let mut slo = Slo::default();
        slo.add(&format!("within={within_ms}ms")).unwrap();
        let mut frame = simulated::frame(seconds);
        frame.phases[0].within_ns = slo.within().map(|w| w.as_nanos() as u64);
        let summary = Summary::of(&server.run(rate, seconds, rate as u64), &frame);
        Point::of(rate, &summary.total)
    }

    fn draw(server: &Server, options: Options) -> Curve {
        let mut curve = Curve::new(options);
        while let Step::Measure(rate) = curve.next() {
            assert!(curve.points.len() < 60, "{curve:?}");
            curve.record(measure(server, rate, 20));
        }
        curve
    }

    fn options(start: f64) -> Options {
        Options { start, highest: 1e6, rates: Vec::new() }
    }

    #[test]
    fn the_bend_is_drawn_from_both_sides() {
        // Eight that take 4 ms: 2,000 a second.
        let curve = draw(&mdc(8, 4e6), options(100.0));
        assert!((1900.0..2050.0).contains(&curve.capacity()), "{}", curve.capacity());
        let rates: Vec<f64> = curve.points.iter().map(|p| p.rate / 2000.0).collect();
        assert!(rates.is_sorted());
        assert!(rates.iter().any(|r| *r < 0.15) && rates.iter().any(|r| *r > 1.4), "{rates:?}");
        assert!(rates.iter().filter(|r| (0.85..1.15).contains(*r)).count() >= 4, "{rates:?}");
        // An endless queue: in overload hardly an answer is in time, though as many come as ever.
        let best = curve.best().unwrap();
        assert!((1700.0..2050.0).contains(&best.rate), "{best:?}");
        let last = curve.points.last().unwrap();
        assert!(last.goodput.unwrap() < 0.3 * last.throughput, "{last:?}");
        assert!(curve.saturation().unwrap().rate > 2000.0);
    }

    #[test]
    fn a_server_that_sheds_keeps_its_goodput() {
        let curve = draw(&Server { room: 16, ..mdc(8, 4e6) }, options(100.0));
        let last = curve.points.last().unwrap();
        assert!(last.shed_rate > 0.2 && last.goodput.unwrap() > 1800.0, "{last:?}");
    }

    #[test]
    fn rates_that_are_given_are_the_ones_measured() {
        let given = Options { rates: vec![300.0, 100.0, 200.0], ..options(1.0) };
        let curve = draw(&mdc(8, 4e6), given);
        assert_eq!(curve.points.iter().map(|p| p.rate).collect::<Vec<_>>(), [100.0, 200.0, 300.0]);
        assert_eq!(curve.saturation(), None);
    }

    #[test]
    fn a_generator_at_its_limit_ends_the_way_up() {
        let mut curve = Curve::new(options(100.0));
        while let Step::Measure(rate) = curve.next() {
            assert!(rate <= 1600.0, "{rate}");
            let late = rate > 1000.0;
            let throughput = rate.min(900.0);
            let offered = rate;
            curve.record(Point {
                rate,
                offered,
                throughput,
                generator_late: late,
                ..Point::default()
            });
        }
        assert!(curve.points.len() > 8);
        assert_eq!(curve.saturation(), None);
    }

    #[test]
    fn a_server_that_answers_nothing_has_no_curve() {
        let mut curve = Curve::new(options(100.0));
        curve.record(Point { rate: 100.0, offered: 100.0, ..Point::default() });
        assert_eq!((curve.next(), curve.capacity()), (Step::Done, 0.0));
        assert_eq!(curve.best(), None);
    }
}
