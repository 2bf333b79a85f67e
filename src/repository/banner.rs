//! What a start says of its models, as text and as values.

use std::path::Path;

use super::table::{Model, State, Table};

/// One line of the banner: a model, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub model: String,
    /// The version that answers a request which names none.
    pub current: Option<u64>,
    /// Every version that serves.
    pub serving: Vec<u64>,
    /// Of the current version; empty where none serves, as is `mode`.
    pub backend: String,
    pub mode: String,
    /// Why the current version has its mode; else why none serves.
    pub why: String,
    /// Versions that failed, with the reason.
    pub failed: Vec<(u64, String)>,
}

/// The banner's part about models: a table with a row for each, and a line for each version that failed.
pub fn banner(table: &Table, models: &Path) -> String {
    let lines = summary(table);
    let serving = lines.iter().filter(|l| l.current.is_some()).count();
    let mut text = format!("serving {serving} of {} models in {}", lines.len(), models.display());
    let rows: Vec<[String; 4]> = lines.iter().map(cells).collect();
    let head = ["model", "versions", "runtime", "mode"];
    let width = |at: usize| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        cells.max().unwrap_or(0).max(head[at].len())
    };
    let [model, versions, runtime, mode] = [0, 1, 2, 3].map(width);
    let mut row = |mark: char, [a, b, c, d]: [&str; 4], why: &str| {
        text.push_str(&format!(
            "\n {mark} {a:<model$}  {b:<versions$}  {c:<runtime$}  {d:<mode$}  {}",
            on_one_line(why)
        ));
    };
    if !rows.is_empty() {
        row(' ', head, "why");
    }
    for (line, cells) in lines.iter().zip(&rows) {
        let mark = if line.current.is_some() { '+' } else { '-' };
        row(mark, cells.each_ref().map(String::as_str), &line.why);
        for (number, why) in line.failed.iter().filter(|(_, why)| *why != line.why) {
            let what = format!("version {number} cannot serve: {why}");
            row(' ', ["", "", "", ""], &what);
        }
    }
    text
}

/// Model, versions, runtime and mode.
fn cells(line: &Line) -> [String; 4] {
    let or_dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_string() };
    let versions: Vec<String> = line.serving.iter().map(u64::to_string).collect();
    [line.model.clone(), or_dash(&versions.join(",")), or_dash(&line.backend), or_dash(&line.mode)]
}

/// Reasons quote runtimes, and those quote model files: none may break the table or move a terminal's cursor.
pub fn on_one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(plain).collect()
}

/// What serves and what does not, by name of the model.
pub fn summary(table: &Table) -> Vec<Line> {
    let mut lines: Vec<Line> = table.models.values().map(|model| line(model)).collect();
    lines.sort_by(|a, b| a.model.cmp(&b.model));
    lines
}

fn line(model: &Model) -> Line {
    let of = |wanted: fn(&State) -> bool| {
        model.versions.iter().filter(move |(_, s)| wanted(s)).map(|(n, s)| (*n, s))
    };
    let current = model.current.as_deref();
    let field = |key: &str| {
        let value = current.and_then(|version| version.explanation[key].as_str());
        value.unwrap_or_default().to_string()
    };
    let why = match current {
        Some(_) => field("mode_reason"),
        None => match (&model.failed, model.versions.values().next_back()) {
            (Some(why), _) => why.clone(),
            (None, Some(State::Loading | State::Warming)) => "loading".into(),
            (None, Some(state)) => state.reason().to_string(),
            (None, None) => "it has no version".into(),
        },
    };
    Line {
        model: model.name.to_string(),
        current: current.map(|v| v.number),
        serving: of(|s| matches!(s, State::Ready(_))).map(|(n, _)| n).collect(),
        backend: current.map_or("", |v| v.backend).to_string(),
        mode: field("mode"),
        why,
        failed: of(|s| matches!(s, State::Failed(_)))
            .filter(|_| model.failed.is_none())
            .map(|(n, s)| (n, s.reason().to_string()))
            .collect(),
    }
}
