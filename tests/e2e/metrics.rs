//! The metrics page as Prometheus reads it: clean under promtool, and with Triton's names where they are asked for.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::support::{
    files::{Home, script, target},
    http::{self, infer},
    server::Server,
};

/// What promtool says of a page.
fn promtool(page: &[u8]) -> Output {
    script("setup-tests.sh");
    let mut child = Command::new(target().join("tools/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("piped").write_all(page).expect("promtool reads");
    child.wait_with_output().expect("promtool ends")
}

/// The page after an answer, a refusal and an unknown model.
fn page(server: &Server) -> Vec<u8> {
    assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).status, 200);
    assert_eq!(infer(&server.http, "versioned", "", &http::burn(1.0, 1)).status, 400);
    assert_eq!(infer(&server.http, "nosuch", "", &http::four(1.0)).status, 404);
    http::get(&server.operator, "/metrics").body
}

#[test]
fn the_page_is_clean_under_promtool() {
    let home = Home::of(&["versioned", "burn"]);
    let server = Server::start(home.path(), &home.repository());
    let page = page(&server);
    let said = promtool(&page);
    let text = [said.stdout, said.stderr].concat();
    assert!(said.status.success() && text.is_empty(), "{}", String::from_utf8_lossy(&text));
    // The tool complains where there is a reason to: of the same page without its types.
    let page = String::from_utf8(page).expect("text");
    assert!(!page.contains("nv_"));
    assert!(!promtool(page.replace("# HELP", "# ").as_bytes()).status.success());
    server.stop();
}

#[test]
fn tritons_names_on_request() {
    let home = Home::of(&["versioned"]);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(command.env("ONNXD_METRICS_NV_NAMES", "1"));
    let page = String::from_utf8(page(&server)).expect("text");
    for line in [
        "# TYPE nv_inference_request_success counter",
        "nv_inference_request_success{model=\"versioned\",version=\"3\"} 1",
        "nv_inference_request_failure{model=\"versioned\",version=\"3\",reason=\"OTHER\"} 1",
        "nv_inference_count{model=\"versioned\",version=\"3\"} 1",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
    }
    // Of these names it dislikes some (no _total, microseconds); the page itself is well-formed.
    let said = promtool(page.as_bytes());
    let text = [said.stdout, said.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!text.is_empty() && text.lines().all(|line| line.starts_with("nv_")), "{text}");
    server.stop();
}
