//! The report as a file: everything that a run was, in JSON with a version, so that it can be shown, compared and merged later.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::environment::Environment;
use crate::{
    compare::Comparison,
    knee::Curve,
    mlperf,
    pattern::Pattern,
    plan::{Protocol, Shard},
    prepare::{entry::Entry, log::Replayed},
    record::{Cell, Measured},
    search::Found,
    slo::{Slo, Verdict},
    summary::{Frame, Summary},
    units::Span,
    watch::Seen,
};

/// The version of this schema. A reader refuses others; a key that is added raises nothing, one that changes its meaning raises it.
pub const SCHEMA: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    /// What the scenario calls it.
    pub name: Option<String>,
    /// What was asked for.
    pub plan: Plan,
    /// Of `plan`, without what may differ between generators of one load: results merge where these are equal.
    pub digest: String,
    /// What was found in the logs that requests come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replayed: Vec<Replayed>,
    /// The generators that put the load on together: one, or those of the reports that were merged, by shard.
    pub parts: Vec<Part>,
    /// What the figures stand under.
    pub frame: Frame,
    /// By phase.
    pub slos: Vec<Slo>,
    pub summary: Summary,
    pub verdict: Verdict,
    /// Everything that was measured, each tenth of a second apart.
    pub stretches: Vec<Stretch>,
    /// How long each phase took, nanoseconds.
    pub took_ns: Vec<u64>,
    /// When each phase began, nanoseconds since the run did.
    pub began_ns: Vec<u64>,
    pub interrupted: bool,
    /// The first wrong or failed answers, in words.
    pub examples: Vec<String>,
    /// The highest rate that holds; each rate that was tried is a phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Found>,
    /// Latency against offered load; each rate is a phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub knee: Option<Curve>,
    /// Beside another server. Each round is a phase, and what is measured here is the server that was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlperf: Option<mlperf::Report>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub url: String,
    /// The other server, where two were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    pub protocol: Protocol,
    pub mix: Vec<Entry>,
    pub phases: Vec<PhasePlan>,
    pub seed: u64,
    pub connections: usize,
    pub streams: usize,
    pub threads: usize,
    pub timeout: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhasePlan {
    pub name: String,
    pub arrivals: Pattern,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    pub warm_up: bool,
}

/// One generator of a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub shard: Shard,
    /// Seconds since 1970 (UTC).
    pub begun_unix_s: f64,
    pub command: Vec<String>,
    pub environment: Environment,
    /// What was seen beside it: the server's own figures, and what came of events.
    #[serde(default)]
    pub seen: Seen,
}

/// What was measured of one variant in a tenth of a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    pub phase: usize,
    /// Tenths of a second since the phase began, by the moment requests were due.
    pub tenth: u64,
    pub variant: usize,
    #[serde(flatten)]
    pub cell: Cell,
}

impl Plan {
    /// A digest of what generators of one load have in common: not the server's address, nor how many connections and threads
    /// each has.
    pub fn digest(&self) -> String {
        let common = (&self.protocol, &self.mix, &self.phases, self.seed, self.timeout);
        let text = serde_json::to_vec(&common).unwrap_or_default();
        hex::encode(&Sha256::digest(text)[..16])
    }
}

impl Report {
    /// What was measured, as a value to compute with.
    pub fn measured(&self) -> Measured {
        let mut stretches: BTreeMap<_, BTreeMap<usize, Cell>> = BTreeMap::new();
        for Stretch { phase, tenth, variant, cell } in &self.stretches {
            let cells = stretches.entry((*phase, *tenth)).or_default();
            cells.entry(*variant).or_default().merge(cell);
        }
        Measured {
            stretches,
            began: self.began_ns.clone(),
            took: self.took_ns.clone(),
            interrupted: self.interrupted,
            examples: self.examples.clone(),
        }
    }

    /// Puts what was measured in place of what is here; summary and verdict stay as they are.
    pub fn set_measured(&mut self, measured: &Measured) {
        let stretch = |((phase, tenth), cells): (&(usize, u64), &BTreeMap<usize, Cell>)| {
            let (phase, tenth) = (*phase, *tenth);
            let one = move |(variant, cell): (&usize, &Cell)| Stretch {
                phase,
                tenth,
                variant: *variant,
                cell: cell.clone(),
            };
            cells.iter().map(one).collect::<Vec<_>>()
        };
        self.stretches = measured.stretches.iter().flat_map(stretch).collect();
        self.took_ns = measured.took.clone();
        self.began_ns = measured.began.clone();
        self.interrupted = measured.interrupted;
        self.examples = measured.examples.clone();
    }

    /// Reads a report. The error names the file.
    pub fn read(path: &Path) -> Result<Report, String> {
        let name = path.display();
        let bytes = fs::read(path).map_err(|e| format!("{name}: cannot be read: {e}"))?;
        Report::parse(&bytes).map_err(|e| format!("{name}: {e}"))
    }

    fn parse(bytes: &[u8]) -> Result<Report, String> {
        #[derive(Deserialize)]
        struct Head {
            schema_version: u32,
        }
        // Before the rest: a report of another version has other keys.
        let head: Head = serde_json::from_slice(bytes)
            .map_err(|e| format!("this is no report of onnxd loadtest: {e}"))?;
        if head.schema_version != SCHEMA {
            return Err(format!(
                "schema_version {} is not known here, expected {SCHEMA}",
                head.schema_version
            ));
        }
        let report: Report = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        report.check()?;
        Ok(report)
    }

    /// Whether its parts fit each other: what was written by hand may not.
    fn check(&self) -> Result<(), String> {
        let (phases, variants) = (self.frame.phases.len(), self.frame.variants.len());
        let outside = self.stretches.iter().find(|s| s.phase >= phases || s.variant >= variants);
        match outside {
            Some(s) => Err(format!(
                "a stretch is of phase {} and variant {}; expected below {phases} and {variants}",
                s.phase, s.variant
            )),
            None if self.slos.len() > phases => {
                Err(format!("{} objectives for {phases} phases", self.slos.len()))
            }
            None => Ok(()),
        }
    }

    /// Writes it; `-` is standard output.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let name = path.display();
        let mut text = serde_json::to_vec(self).map_err(|e| format!("{name}: {e}"))?;
        text.push(b'\n');
        let written = if path == Path::new("-") {
            let mut out = std::io::stdout().lock();
            out.write_all(&text).and_then(|()| out.flush())
        } else {
            fs::write(path, text)
        };
        written.map_err(|e| format!("{name}: cannot be written: {e}"))
    }
}
