//! Logs: structured lines to standard error, through a bounded queue and a thread of its own, so that nobody who logs
//! ever waits for a slow pipe. What does not fit is dropped and counted.

use std::{
    io::{self, Write},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, layer::SubscriberExt};

use super::registry::{self, Registry};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// `log:` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogOptions {
    /// `text` (default: people read it first) or `json` (for a collector).
    pub format: Format,
    /// What is logged: `error`, `warn`, `info` (default: what an operator needs), `debug` or `trace`, also by room, as
    /// in `info,onnxd::batcher=debug`.
    pub level: String,
    /// Which requests get a line of their own, with target `access`: `none` (default: a line a request would be most of what
    /// a small model costs), `errors` or `all`. Lines that do not fit the log's queue are dropped and counted; no request
    /// waits.
    pub access: Access,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { format: Format::Text, level: "info".into(), access: Access::None }
    }
}

/// Which requests the access log has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    #[default]
    None,
    /// Those that failed, whoever is to blame.
    Errors,
    All,
}

impl Access {
    /// Whether a request that ended like this gets a line.
    pub fn takes(self, failed: bool) -> bool {
        match self {
            Access::None => false,
            Access::Errors => failed,
            Access::All => true,
        }
    }
}

/// Lines that may wait for the writer. 1024 covers a burst (a repository of hundreds of models reporting at once).
const QUEUE_LINES: usize = 1024;

/// Bytes of the longest line kept: with the queue's length, the bound on what waiting lines may hold (64 MiB).
const LINE_BYTES: usize = 64 << 10;

/// How long the end of the process waits for the last lines: a blocked pipe must not hold it up.
const FINISH: Duration = Duration::from_secs(1);

/// Writes what is left when dropped, for a second at most. Keep it until the very end of the process.
pub struct LogGuard {
    queue: Sender<Item>,
}

/// Makes this the process's log. The error names a `level` that cannot be read.
pub fn install(options: &LogOptions) -> Result<LogGuard, String> {
    let filter = EnvFilter::try_new(&options.level)
        .map_err(|error| format!("log.level: '{}' is no log level: {error}", options.level))?;
    let (queue, items) = bounded(QUEUE_LINES);
    let format = options.format;
    thread::Builder::new()
        .name("onnxd-log".into())
        .spawn(move || write_out(&items, &mut io::stderr(), format, registry::registry()))
        .map_err(|error| format!("the log's thread could not be started: {error}"))?;
    let lines = Lines { queue: queue.clone(), registry: registry::registry() };
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines);
    let base = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Text => tracing::subscriber::set_global_default(base.with(layer)),
        Format::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            tracing::subscriber::set_global_default(base.with(layer.with_span_list(false)))
        }
    };
    set.map_err(|error| format!("the log was set up twice: {error}"))?;
    Ok(LogGuard { queue })
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let until = Instant::now() + FINISH;
        let (done, written) = bounded(1);
        if self.queue.send_deadline(Item::Flush(done), until).is_ok() {
            let _ = written.recv_deadline(until);
        }
    }
}

enum Item {
    Line(Vec<u8>),
    /// Answered once every line before it is written.
    Flush(Sender<()>),
}

/// Hands each formatted event to the writer's queue.
#[derive(Clone)]
struct Lines {
    queue: Sender<Item>,
    registry: &'static Registry,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;

    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

impl Write for &Lines {
    /// The formatter writes one whole event a call. Never fails: a line that does not fit is counted as dropped.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let fits = line.len() <= LINE_BYTES;
        if !fits || self.queue.try_send(Item::Line(one_line(line))).is_err() {
            self.registry.log_dropped(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event as a single line without control characters: a client's text can neither forge a line nor move a
/// terminal's cursor. (In a JSON line only the characters beyond ASCII's are left to escape, and `\u` is JSON's way.)
fn one_line(line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Line and paragraph separators are line ends to some collectors.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out.into_bytes()
}

/// The writer's loop; ends when nobody can log any more. A failing write loses its line, which is counted.
fn write_out(items: &Receiver<Item>, out: &mut dyn Write, format: Format, registry: &Registry) {
    let mut told = registry.log_dropped_total();
    for item in items {
        match item {
            Item::Line(line) => {
                if out.write_all(&line).is_err() {
                    registry.log_dropped(1);
                }
            }
            Item::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
        let dropped = registry.log_dropped_total();
        if dropped > told && items.is_empty() {
            // Where the write fails, the metric still has the number.
            let _ = out.write_all(dropped_line(dropped - told, format).as_bytes());
            told = dropped;
        }
    }
}

fn dropped_line(lines: u64, format: Format) -> String {
    match format {
        Format::Text => format!(" WARN {}: dropped {lines} log lines\n", module_path!()),
        Format::Json => format!(
            "{{\"level\":\"WARN\",\"message\":\"dropped log lines\",\"lines\":{lines},\"target\":\"{}\"}}\n",
            module_path!()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(capacity: usize) -> (Lines, Receiver<Item>) {
        let (queue, items) = bounded(capacity);
        (Lines { queue, registry: Box::leak(Box::default()) }, items)
    }

    fn written(items: &Receiver<Item>, format: Format, registry: &Registry) -> String {
        let mut out = Vec::new();
        write_out(items, &mut out, format, registry);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_a_client_sends_stays_on_one_line() {
        let line =
            one_line("INFO name=a\nERROR forged \x1b[2J\u{9b}31m\u{2028}\x7f ä\n".as_bytes());
        let text = String::from_utf8(line).expect("text");
        assert_eq!(text, "INFO name=a\\nERROR forged \\u001b[2J\\u009b31m\\u2028\\u007f ä\n");
    }

    #[test]
    fn a_full_queue_drops_counts_and_says_so() {
        let (lines, items) = lines(2);
        for n in 0..5 {
            (&lines).write_all(format!("line {n}\n").as_bytes()).expect("never fails");
        }
        (&lines).write_all(&vec![b'x'; LINE_BYTES + 1]).expect("never fails");
        let registry = lines.registry;
        assert_eq!(registry.log_dropped_total(), 4);
        drop(lines);
        let fresh: &'static Registry = Box::leak(Box::default());
        assert_eq!(written(&items, Format::Text, fresh), "line 0\nline 1\n");

        let (lines, items) = super::tests::lines(2);
        (&lines).write_all(b"kept\n").expect("never fails");
        let registry = lines.registry;
        let writer = thread::spawn(move || {
            let mut slow = Slow(Vec::new(), registry);
            write_out(&items, &mut slow, Format::Json, registry);
            String::from_utf8(slow.0).expect("text")
        });
        drop(lines);
        let text = writer.join().expect("no panic");
        let last: serde_json::Value =
            serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
        assert_eq!(last["lines"], 3);
    }

    /// Takes so long for a line that three others are dropped meanwhile.
    struct Slow(Vec<u8>, &'static Registry);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                self.1.log_dropped(3);
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Both formats through tracing itself, on this thread only.
    #[test]
    fn events_come_out_as_text_and_as_json() {
        let (lines, items) = lines(8);
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || tracing::info!(model = "m\nx", "loaded"));
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(lines.clone());
        let subscriber = tracing_subscriber::registry().with(layer.json().flatten_event(true));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(model = "m\u{85}", "late"));
        let registry = lines.registry;
        drop(lines);
        let text = written(&items, Format::Text, registry);
        let [plain, json] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(plain.contains("INFO") && plain.contains("loaded model=\"m\\nx\""), "{plain}");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        assert_eq!((&json["message"], &json["model"]), (&"late".into(), &"m\u{85}".into()));
    }

    #[test]
    fn a_bad_level_is_named() {
        let options = LogOptions { level: "onnxd=loud".into(), ..LogOptions::default() };
        let error = install(&options).err().expect("refused");
        assert!(error.starts_with("log.level: 'onnxd=loud'"), "{error}");
    }
}
