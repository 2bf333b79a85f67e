//! Requests of several lengths share a run where padding is set, and get what they would get alone.

use std::{collections::BTreeSet, sync::Barrier, thread};

use serde_json::{Value, json};

use crate::support::{
    files::Home,
    http::{self, Http, infer, infer_path},
    server::Server,
    watch,
};

const TEXTS: [&str; 12] = [
    "Bitte geben Sie ein Datum ein.",
    "Enter a valid date.",
    "Saisissez une date valide.",
    "Inserisci una data valida, per favore.",
    "No",
    "Seleccione un archivo",
    "Tallenna ja lisää toinen",
    "Välj ett alternativ",
    "Zaloguj się ponownie",
    "Kullanıcı adı",
    "Vul een geldig getal in.",
    "OK",
];

fn tokens(text: &str) -> Value {
    let bytes = text.as_bytes();
    http::inputs(&[("tokens", "INT64", &[1, bytes.len()], json!(bytes))])
}

/// Everybody asks at the same moment; the label and the probabilities of each.
fn all_at_once(server: &Server, model: &str) -> Vec<(Vec<f64>, Vec<f64>)> {
    let start = &Barrier::new(TEXTS.len());
    thread::scope(|scope| {
        let ask = |text: &'static str| {
            scope.spawn(move || {
                let mut client = Http::connect(&server.http);
                let body = tokens(text).to_string();
                start.wait();
                let answer = client.ask("POST", &infer_path(model), "", body.as_bytes());
                (answer.output(0), answer.output(1))
            })
        };
        let asked: Vec<_> = TEXTS.into_iter().map(ask).collect();
        asked.into_iter().map(|thread| thread.join().expect("answered")).collect()
    })
}

#[test]
fn mixed_lengths_share_a_run_and_answer_as_they_do_alone() {
    let wait = "mode: batch, max_queue_delay_us: 100000";
    let padding = "padding: {tokens: {value: 0, multiple_of: 64}}";
    let home = Home::new()
        .model("padded", "language")
        .yaml("padded", &format!("batching: {{{wait}, {padding}}}\n"))
        .model("plain", "language")
        .yaml("plain", &format!("batching: {{{wait}}}\n"));
    let server = Server::start(home.path(), &home.repository());
    let alone: Vec<(Vec<f64>, Vec<f64>)> = TEXTS
        .iter()
        .map(|text| {
            let answer = infer(&server.http, "plain", "", &tokens(text));
            (answer.output(0), answer.output(1))
        })
        .collect();
    let lengths: BTreeSet<usize> = TEXTS.iter().map(|text| text.len()).collect();
    let lengths_of_all: usize = TEXTS.iter().map(|text| text.len()).sum();
    for (model, most) in [("padded", TEXTS.len() / 2), ("plain", TEXTS.len())] {
        let before = watch::executions(&server, model);
        let together = all_at_once(&server, model);
        let runs = watch::executions(&server, model) - before;
        assert!(runs as usize <= most, "{model}: {runs} runs");
        if model == "plain" {
            assert!(runs as usize >= lengths.len(), "{runs} runs for {lengths:?}");
        }
        for (text, ((label, scores), (expected, close))) in
            TEXTS.iter().zip(together.iter().zip(&alone))
        {
            assert_eq!(label, expected, "{text}");
            assert_eq!(scores.len(), close.len());
            let off = scores.iter().zip(close).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-4, "{text}: {off}");
        }
    }
    let of = |name: &str, model: &str| {
        watch::metric(&server, name, &[&format!("model=\"{model}\"")]) as usize
    };
    let all = of("onnxd_padded_input_elements_total", "padded");
    let padding = of("onnxd_padding_elements_total", "padded");
    assert_eq!(all - padding, lengths_of_all, "what was sent is what is not padding");
    assert!(padding > 0);
    assert_eq!(of("onnxd_padded_input_elements_total", "plain"), 0);
    server.stop();
}
