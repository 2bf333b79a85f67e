//! The wall clock jumps by days, ahead and back, while the server runs: nothing expires for it, and what is due still is.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::support::{
    files::{self, Home},
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

const ENDLESS: u64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// Sets the server's wall clock so many days off, whole at once.
fn jump(file: &Path, days: i64) {
    let next = file.with_extension("next");
    fs::write(&next, format!("{days:+}d\n")).expect("the offset is written");
    fs::rename(&next, file).expect("the offset is in place");
}

/// Makes a command's wall clock, and no other, that of `file`.
fn faked<'c>(command: &'c mut Command, library: &Path, file: &Path) -> &'c mut Command {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
}

/// How many days the clock is off for whoever runs like the server.
fn days_off(library: &Path, file: &Path) -> i64 {
    let said = faked(Command::new("date").arg("+%s"), library, file).output().expect("date runs");
    let said: i64 = String::from_utf8_lossy(&said.stdout).trim().parse().expect("seconds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    (said - now + DAY / 2).div_euclid(DAY)
}

/// The latest that the server has called now, in days from now: a clock that went back does not show here.
fn days_ahead(server: &Server) -> i64 {
    assert_eq!(infer(&server.http, "versioned", "", &http::four(1.0)).output(0), [4.0; 4]);
    let stats = http::get(&server.http, "/v2/models/versioned/versions/3/stats").json();
    let last = stats["model_stats"][0]["last_inference"].as_i64().expect("a time") / 1000;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    (last - now + DAY / 2).div_euclid(DAY)
}

#[test]
fn days_ahead_and_back_change_nothing() {
    let Some(library) = files::faketime() else {
        println!("skipped: no libfaketime here (scripts/setup-tests.sh says why)");
        return;
    };
    let home = Home::of(&["burn", "versioned"]).yaml("burn", "batching: {instances: 1}\n");
    let offset = home.path().join("offset");
    jump(&offset, 0);
    let mut command = Server::command(home.path(), &home.repository());
    let server = Server::launch(faked(&mut command, &library, &offset));
    let send = |headers: &str, x: f64, iters: u64| {
        let mut client = Http::connect(&server.http);
        let body = http::burn(x, iters).to_string();
        client.send(&http::request("POST", &infer_path("burn"), headers, body.as_bytes()));
        client
    };
    let mut idle = Http::connect(&server.http);
    assert_eq!(idle.ask("GET", "/v2/health/live", "", b"").status, 200);
    let mut latest = 0;
    for (n, days) in [3, -400, 900, 0].into_iter().enumerate() {
        let holder = send("", 1.0, ENDLESS);
        watch::until_busy(&server, "burn", 1, 0);
        let mut waiting = send("x-request-timeout-ms: 60000\r\n", 2.0, 1);
        watch::until_busy(&server, "burn", 1, 1);
        jump(&offset, days);
        assert_eq!(days_off(&library, &offset), days);
        latest = latest.max(days);
        assert_eq!(days_ahead(&server), latest, "the server's clock did jump");
        // What has a minute left still has it; what has little is late in time.
        infer(&server.http, "burn", "x-request-timeout-ms: 200\r\n", &http::burn(3.0, 1))
            .error(504);
        let late = watch::ended_with(&server, "burn", "deadline_exceeded");
        assert_eq!(late, n as u64 + 1, "nobody else expired");
        watch::until("the other one waits", || watch::in_flight(&server, "burn") == 2);
        drop(holder);
        assert_eq!(waiting.read().output(0), [2.0]);
        assert_eq!(idle.ask("GET", "/v2/health/live", "", b"").status, 200, "nobody was cut off");
    }
    assert_eq!(watch::ended_with(&server, "burn", "overloaded"), 0);
    server.stop();
}
