//! The report's page of a real run in a real browser: every picture is there, nothing is fetched, nothing is complained of.

#[path = "support/mod.rs"]
mod support;

use std::{fs, path::Path, process::Command};

use onnxd_loadtest::echo;
use support::process::loadtest;

/// Where the page would have to look for something, were it to fetch anything.
const ELSEWHERE: [&str; 6] =
    ["http-equiv=\"refresh\"", "src=", "<link", "@import", "url(", "<script"];

fn browser() -> Option<&'static str> {
    let there = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(there)
}

/// A run of the harness on the echo server; gives the page.
fn page(folder: &Path, arguments: &[&str]) -> String {
    let latency = "lognormal:2ms,0.5".parse().expect("a distribution");
    let options = echo::Options { latency, failures: 0.05, ..echo::Options::default() };
    let server = echo::serve(options).expect("the echo server starts");
    let file = folder.join("report.html");
    let mut command = loadtest();
    command.args(["run", "--url", &format!("http://{}", server.address), "--model", "<b>&"]);
    command.args(["--warm-up", "0s", "--slo", "p99<1s", "--slo", "error_rate<1%"]);
    let ended = command.args(arguments).arg("--html").arg(&file).output().expect("it runs");
    assert!(file.is_file(), "{}", String::from_utf8_lossy(&ended.stderr));
    fs::read_to_string(file).expect("a page")
}

fn chromium(name: &str, home: &Path, arguments: &[&str]) -> (String, String) {
    let out = Command::new(name)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"])
        // Every name is unknown to it: whatever it would fetch fails, and is complained of.
        .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", home.display()))
        .args(arguments)
        .output()
        .expect("the browser runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&out.stdout), text(&out.stderr))
}

#[test]
fn the_page_of_a_run_shows_in_a_browser() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = page(folder.path(), &["--rate", "300", "--duration", "3s"]);
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
    for fetched in ELSEWHERE {
        assert!(!text.contains(fetched), "{fetched}");
    }
    assert!(!text.contains("<b>&"), "what a person named is no markup");
    let Some(browser) = browser() else {
        eprintln!("no browser here: not looked at (Debian: chromium)");
        return;
    };
    let home = folder.path().join("home");
    let url = format!("file://{}", folder.path().join("report.html").display());
    let (dom, complaints) = chromium(browser, &home, &["--dump-dom", &url]);
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
    for title in [
        "Latency over time",
        "Requests over time",
        "Latency by percentile",
        "Schedule error of the generator",
        "How requests ended",
    ] {
        let at = dom.find(&format!("<figcaption>{title}")).unwrap_or_else(|| panic!("no {title}"));
        let end = dom[at..].find("</figure>").expect("a figure ends");
        let drawn =
            ["<polyline", "<rect class=\"bar\""].map(|mark| dom[at..at + end].contains(mark));
        assert!(drawn.contains(&true), "{title} is empty");
    }
    assert!(dom.contains("broken") && dom.contains("&lt;b&gt;&amp;") || dom.contains("http_500"));
    for (size, name) in [("1200,2000", "wide"), ("390,2400", "narrow")] {
        let shot = folder.path().join(format!("{name}.png"));
        let (screenshot, window) =
            (format!("--screenshot={}", shot.display()), format!("--window-size={size}"));
        chromium(browser, &home, &[&screenshot, &window, &url]);
        let png = fs::read(&shot).expect("a picture");
        let word = |at: usize| u32::from_be_bytes([png[at], png[at + 1], png[at + 2], png[at + 3]]);
        let (width, height) = size.split_once(',').expect("two numbers");
        assert_eq!((word(16).to_string(), word(20).to_string()), (width.into(), height.into()));
        // A page without a picture packs to a tenth of it.
        assert!(png.len() > 20_000, "{name}: {} bytes", png.len());
    }
}
