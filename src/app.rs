//! The composition root: configuration to rooms, rooms to a running server, and the way down again.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    api::{
        self,
        body::BodyLimits,
        fast::Front,
        listen::{Address, ListenOptions, Listener, Network},
    },
    batcher::{
        executor::Executors,
        pool::{Pool, Threads},
    },
    config::Config,
    repository::manager::{Deps, Manager},
    serving::engine::{Engine, EngineOptions},
    shutdown::{self, Announcer, Phase},
};

/// Serves until a signal ends it; the error is one that ended the start.
pub fn serve(config: &Config) -> Result<(), String> {
    let server = Server::start(config)?;
    server.run()
}

/// Everything that runs, and in which order it stops.
struct Server {
    config: Config,
    announcer: Announcer,
    listener: shutdown::Listener,
    manager: Manager,
    engine: Arc<Engine>,
    executors: Executors,
    network: Network,
    operator: Option<thread::JoinHandle<()>>,
}
