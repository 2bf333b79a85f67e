//! At a terminal a run is a view that is drawn again in place, and nothing of it stays; elsewhere it is lines.

use std::process::Command;

use crate::support::{
    process::loadtest,
    run::{Home, echo, echo_with},
    terminal::{Shown, at_terminal},
};

const SIZE: (u16, u16) = (24, 100);

fn command(words: &str) -> Command {
    let mut command = loadtest();
    command.args(words.split_whitespace());
    command
}

/// Pictures in which a line of the view stands.
fn with<'a>(shown: &'a Shown, words: &[&str]) -> Vec<&'a str> {
    let has = |picture: &&String| words.iter().all(|word| picture.contains(word));
    shown.pictures.iter().filter(has).map(String::as_str).collect()
}

#[test]
fn a_run_is_a_view_that_leaves_only_its_report() {
    let server = echo_with("constant:2ms", |options| options.failures = 0.2);
    let words = format!(
        "run --url grpc://{} --model m --rate 200 --duration 3s --slo error_rate<1%",
        server.address
    );
    let shown = at_terminal(command(&words), SIZE);
    assert_eq!(shown.code, Some(3), "{}", shown.last());
    let views =
        with(&shown, &["load [", " of 3s", "  now ", "  so far ", "/s due, p50 ", "grpc_13"]);
    assert!(views.len() >= 4, "drawn {} times: {}", views.len(), shown.last());
    for view in &views {
        // In place: never twice on the screen, never wider than it is.
        assert_eq!(view.matches("  so far ").count(), 1, "{view}");
    }
    let bars: Vec<usize> = views
        .iter()
        .filter_map(|view| view.lines().find(|line| line.starts_with("load [")))
        .map(|line| line.matches('#').count())
        .collect();
    assert!(bars.is_sorted() && bars.last() > bars.first(), "the bar grows: {bars:?}");
    let last = shown.last();
    assert!(!last.contains("  so far ") && !last.contains("load ["), "{last}");
    assert!(last.contains("verdict: broken"), "{last}");
    // Nobody's cursor is hidden, nobody's screen is wiped.
    let text = String::from_utf8_lossy(&shown.bytes);
    for never in ["\x1b[?25l", "\x1b[2J", "\x1b[H", "\x1b[?1049h"] {
        assert!(!text.contains(never), "{never:?}");
    }
}

#[test]
fn a_search_and_a_knee_have_a_bar_of_their_own() {
    let server = echo_with("constant:4ms", |options| options.servers = Some(1));
    let words =
        format!("run --url grpc://{} --model m --trial 1s --warm-up 0s --rate 100", server.address);
    let search = format!("{words} --search --slo p99<100ms --precision 20% --repeats 1");
    let shown = at_terminal(command(&search), SIZE);
    assert!(matches!(shown.code, Some(0 | 4)), "{}", shown.last());
    let views = with(&shown, &["search [", " done, about ", " to go (", "  so far "]);
    assert!(!views.is_empty(), "{}", shown.last());
    let done = |view: &str| {
        let line = view.lines().find(|line| line.starts_with("search ["));
        let line = line.unwrap_or_else(|| panic!("no bar: {view}"));
        let count = line.split("] ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let counts: Vec<u32> = views.iter().map(|view| done(view)).collect();
    assert!(counts.is_sorted() && counts.last() > counts.first(), "{counts:?}");
    // What a trial said stays above the bar.
    assert!(with(&shown, &["trial 1: ", "search ["]).len() > 1, "{}", shown.last());

    let knee = format!("{words} --knee --rates 50,100");
    let shown = at_terminal(command(&knee), SIZE);
    assert!(!with(&shown, &["knee [", "0 done, about 2 to go"]).is_empty(), "{}", shown.last());
    assert!(!with(&shown, &["knee [", "1 done, about 1 to go"]).is_empty(), "{}", shown.last());
    assert!(!shown.last().contains("knee ["), "{}", shown.last());
}

#[test]
fn a_view_fits_a_small_terminal_and_can_be_turned_off() {
    let server = echo("constant:2ms");
    let words = format!("run --url http://{} --model m --rate 200 --duration 2s", server.address);
    let shown = at_terminal(command(&words), (6, 40));
    assert_eq!(shown.code, Some(0), "{}", shown.last());
    let views = with(&shown, &["  now     ", "  so far  "]);
    assert!(!views.is_empty(), "{}", shown.last());
    assert!(views.iter().all(|view| view.matches("  so far  ").count() == 1));

    // A terminal that cannot move its cursor gets lines, and quiet is quiet.
    let mut dumb = Command::new("env");
    dumb.args(["TERM=dumb"]).arg(loadtest().get_program()).args(words.split_whitespace());
    let shown = at_terminal(dumb, SIZE);
    assert!(!shown.bytes.contains(&0x1b), "{}", shown.last());
    assert!(shown.last().contains("/s answered, p50 "), "{}", shown.last());
    let shown = at_terminal(command(&format!("{words} --quiet --output json")), SIZE);
    assert!(!shown.bytes.contains(&0x1b) && !shown.last().contains("  now "), "{}", shown.last());

    // In a pipe it stays as it was.
    let ended = Home::new().call(&words, &[]);
    assert!(!ended.stderr.contains('\x1b'), "{}", ended.stderr);
    assert!(ended.stderr.lines().any(|line| line.starts_with("load 1s: ")), "{}", ended.stderr);
}
