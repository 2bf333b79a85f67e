//! For tests: a table with models in every state, without a runtime.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    body::BodyLimits,
    state::{Answer, Api, Infer},
};
use crate::{
    predlog::{options::StoreOptions, store::Logs},
    repository::{
        calls::{self, Call, Control},
        fake::version,
        table::{Model, State, Table},
        traffic::Place,
    },
    serving::{
        caller::Caller,
        memory::Budget,
        regions::{RegionOptions, Regions},
    },
    shutdown::{self, Announcer},
    telemetry::logs::Format,
    types::{
        error::{Code, Error},
        request::InferRequest,
    },
};

/// Refuses everything, as an overloaded engine does.
struct Full;

impl Infer for Full {
    fn infer(
        &self,
        request: InferRequest,
        _: Option<Duration>,
        _: Option<Arc<Caller>>,
    ) -> Answer<'_> {
        let message = format!("the queue of {} is full", request.model);
        Box::pin(async move { Err(Error::overloaded(message, Duration::from_secs(2))) })
    }
}

/// A server that nobody stops.
pub fn serving() -> shutdown::Listener {
    static FOR_EVER: OnceLock<(Announcer, shutdown::Listener)> = OnceLock::new();
    FOR_EVER.get_or_init(shutdown::channel).1.clone()
}

/// Handlers over `digits` (versions 1 and 2 serve, 3 loads, 4 failed), `broken` (no version serves) and `empty`.
pub fn api() -> Api {
    let digits = vec![
        (1, State::Ready(version("digits", 1))),
        (2, State::Ready(version("digits", 2))),
        (3, State::Loading),
        (4, State::Failed("the file is cut off".into())),
    ];
    let broken = vec![(1, State::Failed("unknown operator Foo".into()))];
    let mut empty = model("empty", vec![]);
    empty.failed = Some("model.yaml: unknown key 'speed'".into());
    let mut table = Table::default();
    for model in [model("digits", digits), model("broken", broken), empty] {
        table.models.insert(model.name.clone(), Arc::new(model));
    }
    Api {
        table: Arc::new(ArcSwap::from_pointee(table)),
        infer: Arc::new(Full),
        ready: watch::channel(true).1,
        store: None,
        shutdown: serving(),
        control: false,
        calls: calls(),
        limits: BodyLimits { max_bytes: 1 << 20, timeout: Duration::from_secs(30) },
        budget: Budget::new(16 << 20),
        place: Place { models: "nowhere".into(), state: None, store: None },
        labels: Logs::idle(&StoreOptions::default()).unwrap().intake(),
        regions: Arc::new(Regions::new(RegionOptions::default(), 1 << 20)),
        log_format: Format::Text,
        traced: None,
    }
}

/// A manager's stand-in: knows the models of `api`, refuses `broken`, and does nothing.
fn calls() -> Control {
    let (control, calls) = calls::channel();
    std::thread::spawn(move || {
        for Call { command, reply } in calls {
            let models = command.models();
            let unknown = |m: &&String| !["digits", "broken", "empty"].contains(&&***m);
            let answer = match models.iter().find(unknown) {
                Some(model) => {
                    Err(Error::new(Code::NotFound, format!("there is no model '{model}'")))
                }
                None if models.contains(&"broken".into()) => Err(Error::invalid("version 1: no")),
                None => Ok(()),
            };
            let _ = reply.send(answer);
        }
    });
    control
}

fn model(name: &str, versions: Vec<(u64, State)>) -> Model {
    let versions: BTreeMap<u64, State> = versions.into_iter().collect();
    let current = versions.values().rev().find_map(|state| match state {
        State::Ready(version) => Some(version.clone()),
        _ => None,
    });
    Model { name: name.into(), versions, current, ..Model::default() }
}
