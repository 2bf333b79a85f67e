//! The report of a replay as a page for people: one file, no scripts, nothing from the network. Pure.

use serde_json::Value;

/// Text within HTML.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => escaped(text),
        other => escaped(&other.to_string()),
    }
}

fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let body: String = rows
        .map(|row| row.iter().map(|cell| format!("<td>{cell}</td>")).collect::<String>())
        .map(|row| format!("<tr>{row}</tr>\n"))
        .collect();
    format!("<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>\n")
}

fn pairs(object: &Value) -> String {
    let rows = object.as_object().into_iter().flatten();
    table(&["", ""], rows.map(|(name, value)| vec![escaped(&name.replace('_', " ")), cell(value)]))
}

/// The page of a report (`report.json`).
pub fn page(report: &Value) -> String {
    let columns = report["columns"].as_object().into_iter().flatten().map(|(name, c)| {
        let mut row = vec![escaped(name)];
        row.extend(
            ["compared", "exact", "within_tolerance", "beyond", "max_abs", "mean_abs"]
                .map(|k| cell(&c[k])),
        );
        row
    });
    let columns = table(
        &[
            "column",
            "rows",
            "the same",
            "within tolerance",
            "beyond",
            "largest difference",
            "mean difference",
        ],
        columns,
    );
    let worst = report["worst"].as_array().into_iter().flatten();
    let worst = worst.map(|e| {
        ["request_id", "row", "column", "logged", "now", "distance"].map(|k| cell(&e[k])).to_vec()
    });
    let worst = table(&["request", "row", "column", "logged", "now", "difference"], worst);
    let title = format!("Replay of {}", cell(&report["model"]));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>{title}</h1>\n<p>{}</p>\n<h2>Rows</h2>\n{}\n<h2>Asked</h2>\n{}\n<h2>Columns</h2>\n{columns}\n\
         <h2>Furthest apart</h2>\n{worst}\n<h2>Not asked</h2>\n{}\n<h2>Refused</h2>\n{}\n</body></html>\n",
        escaped(report["verdict"].as_str().unwrap_or("")),
        pairs(&report["rows"]),
        pairs(&report["target"]),
        pairs(&report["skipped"]),
        pairs(&report["refused"]),
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1d2430;background:#fff}\
table{border-collapse:collapse}th,td{text-align:left;padding:.25rem .8rem;border-bottom:1px solid #d5dae2;vertical-align:top;\
overflow-wrap:anywhere}td{font-variant-numeric:tabular-nums}@media(prefers-color-scheme:dark){body{color:#dde3ec;background:#151a21}\
th,td{border-color:#333c49}}";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_clients_chose_is_text_on_the_page() {
        let report = json!({
            "model": "<script>",
            "verdict": "1 of 2 rows differ",
            "rows": {"rows": 2},
            "worst": [{"request_id": "<img src=x>", "logged": [1, 2], "now": null}],
            "skipped": {"a & b": 1},
        });
        let page = page(&report);
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(page.contains("&lt;img src=x&gt;") && page.contains("a &amp; b"), "{page}");
        assert!(page.contains("1 of 2 rows differ"));
    }
}
