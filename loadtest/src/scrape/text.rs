//! Prometheus' text format, read: pure, total, and tolerant of what it does not know.

use std::borrow::Cow;

/// One line of a page: a name, its labels, a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    pub name: &'a str,
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    pub value: f64,
}

impl Sample<'_> {
    /// The value of a label; none where the sample does not have it.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| *key == name).map(|(_, value)| &**value)
    }
}

/// A page, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page<'a> {
    pub samples: Vec<Sample<'a>>,
    /// Lines that are neither a sample nor a comment.
    pub skipped: usize,
}

/// Reads the samples whose name is wanted. A line that is none is counted and left out: one exporter's mistake is no
/// reason to lose the rest of the page.
pub fn parse<'a>(page: &'a str, wanted: impl Fn(&str) -> bool) -> Page<'a> {
    let mut read = Page::default();
    for line in page.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match name(line) {
            Some((name, _)) if !wanted(name) => {}
            Some((name, rest)) => match sample(name, rest) {
                Some(sample) => read.samples.push(sample),
                None => read.skipped += 1,
            },
            None => read.skipped += 1,
        }
    }
    read
}

fn in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

/// The name that a line opens with, and what comes after it.
fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// What comes after the name: labels, where there are any, then the value. A timestamp and an exemplar may follow.
fn sample<'a>(name: &'a str, rest: &'a str) -> Option<Sample<'a>> {
    let rest = rest.trim_start();
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// The labels up to the closing brace, and what comes after it.
type Labels<'a> = (Vec<(&'a str, Cow<'a, str>)>, &'a str);

fn labels(mut text: &str) -> Option<Labels<'_>> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let (key, rest) = name(text)?;
        let rest = rest.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, rest) = quoted(rest)?;
        found.push((key, value));
        text = rest;
    }
}

/// A value up to its closing quote, and what comes after it. Copied only where something is escaped.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut value = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let at = rest.find(['"', '\\'])?;
        let (plain, after) = rest.split_at(at);
        if value.is_empty() {
            value = Cow::Borrowed(plain);
        } else {
            value.to_mut().push_str(plain);
        }
        let mut after = after.chars();
        if after.next() == Some('"') {
            return Some((value, after.as_str()));
        }
        value.to_mut().push(match after.next()? {
            'n' => '\n',
            other => other,
        });
        rest = after.as_str();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(page: &str) -> Page<'_> {
        parse(page, |_| true)
    }

    #[test]
    fn a_page_as_servers_write_it() {
        let page = all(concat!(
            "# HELP nv_inference_count Number of inferences\n",
            "# TYPE nv_inference_count counter\n",
            "nv_inference_count{model=\"a\\\"b\\\\c\\nd\",version=\"1\",} 12 1700000000000\n",
            "\r\n",
            "process_cpu_seconds_total 0.25\r\n",
            "x_bucket{le=\"+Inf\"} 7 # {trace_id=\"a\"} 0.1\n",
            "nan NaN\n",
            "# EOF\n",
        ));
        assert_eq!(page.skipped, 0);
        assert_eq!(page.samples.len(), 4);
        assert_eq!(page.samples[0].label("model"), Some("a\"b\\c\nd"));
        assert_eq!(page.samples[0].label("version"), Some("1"));
        assert_eq!(page.samples[0].label("le"), None);
        assert_eq!(page.samples[0].value, 12.0);
        assert_eq!(
            (page.samples[1].name, page.samples[1].value),
            ("process_cpu_seconds_total", 0.25)
        );
        assert_eq!(page.samples[2].label("le"), Some("+Inf"));
        assert!(page.samples[3].value.is_nan());
    }

    #[test]
    fn what_is_no_sample_is_counted_and_the_rest_is_read() {
        let broken =
            ["{a=\"b\"} 1", "x{a=\"b\" 1", "x{a=b} 1", "x{a=\"b} 1", "x", "x y", "x{} ", "%"];
        let page = format!("good 1\n{}\ngood 2\n", broken.join("\n"));
        let page = all(&page);
        assert_eq!(page.skipped, broken.len());
        assert_eq!(page.samples.iter().map(|s| s.value).collect::<Vec<_>>(), [1.0, 2.0]);
    }

    #[test]
    fn only_what_is_wanted_is_kept() {
        let page = parse("a 1\nb 2\nb{ 3\n", |name| name == "a");
        assert_eq!((page.samples.len(), page.skipped), (1, 0));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(text in "\\PC*|[a-z_{}=\"\\\\, \\n0-9.#+-]*") {
            let page = all(&text);
            prop_assert!(page.samples.len() + page.skipped <= text.lines().count());
        }

        #[test]
        fn what_is_written_is_read_back(
            name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,20}",
            labels in proptest::collection::vec(("[a-z_]{1,8}", "\\PC{0,12}"), 0..4),
            value in prop_oneof![Just(f64::INFINITY), -1e18..1e18f64],
        ) {
            let escaped = |text: &str| {
                text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
            };
            let written: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
            let line = format!("{name}{{{}}} {value}", written.join(","));
            let page = all(&line);
            prop_assert_eq!(page.skipped, 0, "{}", line);
            let sample = &page.samples[0];
            prop_assert_eq!(sample.name, &name);
            prop_assert_eq!(sample.value, value);
            let read: Vec<(String, String)> = sample.labels.iter()
                .map(|(key, value)| ((*key).to_owned(), value.to_string())).collect();
            prop_assert_eq!(read, labels);
        }
    }
}
