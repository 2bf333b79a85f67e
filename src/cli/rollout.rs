//! `onnxd rollout`: who gets what of a model's requests, one step at a time.

use std::{env, process::ExitCode};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Failure,
    client::{OperatorArgs, escaped},
    output::{self, Output},
};
use crate::{
    rollout::change::{CANARY, Settings, Step},
    types::traffic::{Arm, Fallback, Shadow, Sticky},
};

/// Send a share of a model's requests to another version, copy them to a shadow, promote it or go back
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  onnxd rollout set wine --canary 2=10 --shadow 3 --sticky header:x-user-id --why 'new features'\n  onnxd rollout status wine\n  onnxd rollout promote wine\n  onnxd rollout rollback wine --why 'too many errors'\n\nIt asks the operator's port. What it changes survives restarts: traffic.yaml beside the model, and traffic.audit.jsonl, which has every change.\n\nExit codes: 0 done, 1 refused, or nobody answers."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Change what is given and nothing else; everything named serves before it comes into effect
    #[command(
        after_help = "Examples:\n  onnxd rollout set wine --primary 1\n  onnxd rollout set wine --canary 2=10 --sticky header:x-user-id\n  onnxd rollout set wine --arm b=3:25 --drop canary\n  onnxd rollout set wine --shadow 3:50 --fallback 1 --late-ms 200"
    )]
    Set(Box<SetArgs>),
    /// The rules, what each route got, and how shadows compare
    #[command(after_help = "Example:\n  onnxd rollout status wine --output json")]
    Status(Named),
    /// An arm's version becomes the primary
    #[command(
        after_help = "Examples:\n  onnxd rollout promote wine\n  onnxd rollout promote wine --arm b"
    )]
    Promote {
        /// The arm, where there are several and none is called canary
        #[arg(long, value_name = "NAME")]
        arm: Option<String>,
        #[command(flatten)]
        step: StepArgs,
    },
    /// Take arms and shadows away; where there are none, the primary before this one comes back
    #[command(after_help = "Example:\n  onnxd rollout rollback wine --why 'too many errors'")]
    Rollback(StepArgs),
    /// Everything to the primary for now; the rest stays written down
    #[command(after_help = "Example:\n  onnxd rollout pause wine")]
    Pause(StepArgs),
    /// Go on after a pause
    #[command(after_help = "Example:\n  onnxd rollout resume wine")]
    Resume(StepArgs),
    /// No rules any more: the newest version answers
    #[command(after_help = "Example:\n  onnxd rollout clear wine")]
    Clear(StepArgs),
    /// Every change so far: who, when and why
    #[command(after_help = "Example:\n  onnxd rollout history wine")]
    History(Named),
}

#[derive(clap::Args, Debug)]
struct Named {
    /// The model
    #[arg(value_name = "MODEL")]
    model: String,
    /// For people or for machines
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(clap::Args, Debug)]
struct StepArgs {
    #[command(flatten)]
    named: Named,
    /// The reason, for the audit file
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// Who wants it [default: the user's name]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Only if the rules still have this generation
    #[arg(long, value_name = "N")]
    if_generation: Option<u64>,
}

#[derive(clap::Args, Debug)]
struct SetArgs {
    /// The version that gets what no arm takes
    #[arg(long, value_name = "VERSION")]
    primary: Option<u64>,
    /// Per cent of the requests for a version, as in 2=10: the arm `canary`
    #[arg(long, value_name = "VERSION=PERCENT", value_parser = canary)]
    canary: Option<Arm>,
    /// A further arm, as in b=3:25
    #[arg(long, value_name = "NAME=VERSION:PERCENT", value_parser = arm)]
    arm: Vec<Arm>,
    /// Take an arm away
    #[arg(long, value_name = "NAME")]
    drop: Vec<String>,
    /// A version that gets copies, of all requests of the primary or so many per cent of them
    #[arg(long, value_name = "VERSION[:PERCENT]", value_parser = shadow, conflicts_with = "no_shadow")]
    shadow: Vec<Shadow>,
    /// Take all shadows away
    #[arg(long)]
    no_shadow: bool,
    /// What decides the arm, so that a user stays where they are
    #[arg(long, value_name = "header:NAME|parameter:NAME|none", value_parser = sticky)]
    sticky: Option<Stuck>,
    /// Whether the header x-onnxd-route of a request chooses its arm
    #[arg(long, value_name = "on|off", value_parser = on_off)]
    force: Option<bool>,
    /// Who answers where the primary cannot: a version, another model, or a version of one
    #[arg(long, value_name = "VERSION|MODEL|MODEL:VERSION|none", value_parser = fallback)]
    fallback: Option<Falling>,
    /// The primary counts as late after so many milliseconds, and the fallback answers
    #[arg(long, value_name = "MS", requires = "fallback", default_value_t = 0)]
    late_ms: u64,
    #[command(flatten)]
    step: StepArgs,
}

/// `--sticky`; `None`: nothing.
#[derive(Clone, Debug)]
struct Stuck(Option<Sticky>);

/// `--fallback`; `None`: nobody.
#[derive(Clone, Debug)]
struct Falling(Option<Fallback>);

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("expected {what}, got '{text}'"))
}

fn canary(text: &str) -> Result<Arm, String> {
    let (version, weight) = text.split_once('=').ok_or("expected VERSION=PERCENT, as in 2=10")?;
    named_arm(CANARY, version, weight)
}

fn arm(text: &str) -> Result<Arm, String> {
    let parts = text.split_once('=').and_then(|(name, rest)| Some((name, rest.split_once(':')?)));
    let (name, (version, weight)) = parts.ok_or("expected NAME=VERSION:PERCENT, as in b=3:25")?;
    named_arm(name, version, weight)
}

fn named_arm(name: &str, version: &str, weight: &str) -> Result<Arm, String> {
    Ok(Arm {
        name: name.into(),
        version: number(version, "a version's number")?,
        weight: number(weight.trim_end_matches('%'), "per cent")?,
        buckets: Default::default(),
    })
}

fn shadow(text: &str) -> Result<Shadow, String> {
    let (version, sample) = text.split_once(':').unwrap_or((text, "100"));
    Ok(Shadow {
        version: number(version, "a version's number")?,
        sample: number(sample.trim_end_matches('%'), "per cent")?,
    })
}

fn sticky(text: &str) -> Result<Stuck, String> {
    let own = |name: &str| Some(name.to_owned());
    match text.split_once(':') {
        None if text == "none" => Ok(Stuck(None)),
        Some(("header", name)) => {
            Ok(Stuck(Some(Sticky { header: own(&name.to_ascii_lowercase()), parameter: None })))
        }
        Some(("parameter", name)) => Ok(Stuck(Some(Sticky { header: None, parameter: own(name) }))),
        _ => Err(format!("expected header:NAME, parameter:NAME or none, got '{text}'")),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("expected on or off, got '{text}'")),
    }
}

fn fallback(text: &str) -> Result<Falling, String> {
    let of = |model: Option<&str>, version| Fallback {
        model: model.map(String::from),
        version,
        after_ms: 0,
    };
    Ok(Falling(match (text, text.split_once(':'), text.parse()) {
        ("none", ..) => None,
        (_, Some((model, version)), _) => {
            Some(of(Some(model), Some(number(version, "a version's number")?)))
        }
        (_, None, Ok(version)) => Some(of(None, Some(version))),
        (model, None, Err(_)) => Some(of(Some(model), None)),
    }))
}

pub fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Set(set) => {
            let (settings, step) = set.settings();
            step.ask(&Step::Set(Box::new(settings)))
        }
        Command::Status(named) => named.show(&named.ask("GET", "", None)?),
        Command::Promote { arm, step } => step.ask(&Step::Promote { arm }),
        Command::Rollback(step) => step.ask(&Step::Rollback),
        Command::Pause(step) => step.ask(&Step::Pause),
        Command::Resume(step) => step.ask(&Step::Resume),
        Command::Clear(step) => step.ask(&Step::Clear),
        Command::History(named) => {
            let said = named.ask("GET", "/history", None)?;
            match named.output {
                Output::Json => output::show(&said, Output::Json),
                Output::Text => output::say(&history(&said)),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl SetArgs {
    fn settings(self) -> (Settings, StepArgs) {
        let SetArgs { primary, canary, arm, drop, shadow, no_shadow, .. } = self;
        let shadows = (no_shadow || !shadow.is_empty()).then_some(shadow);
        let late = self.late_ms;
        let falling = |fallback: Fallback| Fallback { after_ms: late, ..fallback };
        let settings = Settings {
            primary,
            arms: canary.into_iter().chain(arm).collect(),
            remove: drop,
            shadows,
            not_sticky: matches!(self.sticky, Some(Stuck(None))),
            sticky: self.sticky.and_then(|Stuck(sticky)| sticky),
            force: self.force,
            no_fallback: matches!(self.fallback, Some(Falling(None))),
            fallback: self.fallback.and_then(|Falling(fallback)| fallback).map(falling),
        };
        (settings, self.step)
    }
}

impl StepArgs {
    fn ask(&self, step: &Step) -> Result<ExitCode, Failure> {
        let user = || env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_default();
        let body = json!({
            "step": step, "by": self.by.clone().unwrap_or_else(user), "why": self.why, "generation": self.if_generation,
        });
        self.named.show(&self.named.ask("POST", "", Some(&body))?)
    }
}

impl Named {
    fn ask(&self, method: &str, rest: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let path = format!("/admin/v1/models/{}/traffic{rest}", escaped(&self.model));
        self.operator.ask(method, &path, body)
    }

    fn show(&self, said: &Value) -> Result<ExitCode, Failure> {
        match self.output {
            Output::Json => output::show(said, Output::Json),
            Output::Text => output::say(&status(said)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reasons are other people's words: none may break a line or move a terminal's cursor.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), String::from);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn or_dash(value: &Value) -> String {
    if value.is_null() { "-".into() } else { plain(value) }
}

fn share(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |share| format!("{}%", (share * 1e4).round() / 1e2))
}

/// The rules for a person: one line a route, one a shadow, and what else holds.
fn status(said: &Value) -> String {
    let rules = &said["rules"];
    let mut lines = vec![match rules.is_null() {
        true => format!("{}: no traffic rules", plain(&said["model"])),
        false => {
            let change = &rules["change"];
            let mut line = format!("{}: generation {}", plain(&said["model"]), rules["generation"]);
            if !change.is_null() {
                let [action, by, at] = ["action", "by", "at"].map(|key| plain(&change[key]));
                line.push_str(&format!(", {action} by {by} at {at}"));
                if change["why"].as_str().is_some_and(|why| !why.is_empty()) {
                    line.push_str(&format!(": {}", plain(&change["why"])));
                }
            }
            line
        }
    }];
    if rules["paused"] == true {
        lines.push("paused: everything goes to the primary".into());
    }
    let mut rows = vec![["route", "version", "share", "requests", "state"].map(String::from)];
    for route in said["routes"].as_array().into_iter().flatten() {
        let version = match route["model"].as_str() {
            Some(model) => format!("{model} {}", or_dash(&route["version"])),
            None => or_dash(&route["version"]),
        };
        let state = match route["primary_left_alone"].as_bool() {
            Some(true) => "the primary is left alone".into(),
            Some(false) => "-".into(),
            None => plain(&route["state"]),
        };
        let requests = or_dash(&route["requests"]);
        rows.push([plain(&route["route"]), version, share(&route["share"]), requests, state]);
    }
    let widths: [usize; 5] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    lines.extend(rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }));
    for shadow in said["shadows"].as_array().into_iter().flatten() {
        lines.push(format!(
            "shadow {} ({}% of the primary's, {}): {} compared, {} dropped, {} failed; {} of {} rows disagree, numbers differ by {:.3e} \
             at most",
            shadow["version"], shadow["sample"], plain(&shadow["state"]), shadow["compared"], shadow["dropped"],
            shadow["failed"], shadow["disagreements"], shadow["rows"],
            shadow["max_difference"].as_f64().unwrap_or_default(),
        ));
    }
    let sticky = &rules["sticky"];
    for kind in ["header", "parameter"] {
        if let Some(name) = sticky[kind].as_str() {
            lines.push(format!("sticky by the {kind} {name}"));
        }
    }
    if rules["force"] == true {
        lines.push("x-onnxd-route chooses the arm".into());
    }
    if let Some(notice) = said["notice"].as_str() {
        lines.push(format!("notice: {}", plain(&json!(notice))));
    }
    lines.join("\n")
}

/// One line a change.
fn history(said: &Value) -> String {
    let entries = said.as_array().map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return "no changes".into();
    }
    let line = |entry: &Value| {
        let change = &entry["change"];
        let [at, action, by, why] = ["at", "action", "by", "why"].map(|key| plain(&change[key]));
        format!("{} {at} {action} by {by}: {why}", entry["generation"])
            .trim_end_matches([':', ' '])
            .to_owned()
    };
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flags_say() {
        assert_eq!(canary("2=10%").unwrap().weight, 10.0);
        let b = arm("b=3:0.5").unwrap();
        assert_eq!((b.name.as_str(), b.version, b.weight), ("b", 3, 0.5));
        assert_eq!(shadow("3").unwrap().sample, 100.0);
        assert_eq!(shadow("3:50").unwrap().sample, 50.0);
        assert!(matches!(sticky("none"), Ok(Stuck(None))));
        let Ok(Stuck(Some(by))) = sticky("header:X-User") else { panic!("no header") };
        assert_eq!(by.header.as_deref(), Some("x-user"));
        let model = |text| fallback(text).unwrap().0.map(|f| (f.model, f.version));
        assert_eq!(model("1"), Some((None, Some(1))));
        assert_eq!(model("small"), Some((Some("small".into()), None)));
        assert_eq!(model("small:2"), Some((Some("small".into()), Some(2))));
        assert_eq!(model("none"), None);
        for bad in ["2", "x=1", "2=x", ""] {
            assert!(canary(bad).is_err(), "{bad}");
        }
        assert!(arm("b=3").is_err() && shadow("x").is_err() && sticky("user").is_err());
    }

    #[test]
    fn a_status_for_a_person() {
        let said = json!({
            "model": "wine",
            "rules": {"generation": 3, "primary": 1, "sticky": {"header": "x-user-id"},
                "change": {"action": "set", "by": "ana", "at": "2026-01-01T00:00:00Z", "why": "try\nit"}},
            "notice": null,
            "routes": [
                {"route": "primary", "version": 1, "share": 0.9, "requests": 90, "state": "ready"},
                {"route": "canary", "version": 2, "share": 0.1, "requests": 10, "state": "ready"},
                {"route": "fallback", "model": "small", "version": null, "requests": 0, "primary_left_alone": false},
            ],
            "shadows": [{"version": 3, "sample": 50.0, "state": "ready", "compared": 4, "dropped": 1,
                "failed": 0, "rows": 8, "disagreements": 1, "max_difference": 0.25}],
        });
        let expected = "\
wine: generation 3, set by ana at 2026-01-01T00:00:00Z: try it
route     version  share  requests  state
primary   1        90%    90        ready
canary    2        10%    10        ready
fallback  small -  -      0         -
shadow 3 (50.0% of the primary's, ready): 4 compared, 1 dropped, 0 failed; 1 of 8 rows disagree, numbers differ by 2.500e-1 at most
sticky by the header x-user-id";
        assert_eq!(status(&said), expected);
        assert_eq!(
            status(&json!({"model": "m", "rules": null})).lines().next(),
            Some("m: no traffic rules")
        );
    }
}
