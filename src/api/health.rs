//! The standard health service, `grpc.health.v1`: the server, the inference service and every model, each by its name.

use std::{
    future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status, codegen::tokio_stream::Stream};

use super::{
    errors::grpc_status,
    proto::health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    state::Api,
};
use crate::{
    shutdown::{self, Phase},
    types::error::{Code, Error},
};

/// The path that every method of the service begins with.
pub const PREFIX: &str = "/grpc.health.v1.Health/";

/// The other name of what "" is: the server as a whole.
const SERVICE: &str = "inference.GRPCInferenceService";

/// Watches open at once, of all clients together: a load balancer has one a backend, so that more are a mistake, and each holds
/// memory for as long as it likes.
const MAX_WATCHES: usize = 1024;

/// The service over what the handlers share.
pub fn service(api: Arc<Api>) -> HealthServer<Answers> {
    let places = Arc::new(Semaphore::new(MAX_WATCHES));
    HealthServer::new(Answers { api, places })
}

/// The methods of the service.
pub struct Answers {
    api: Arc<Api>,
    places: Arc<Semaphore>,
}

impl Api {
    /// Whether what goes by this name serves; `None` for what there is not.
    fn serving(&self, service: &str) -> Option<bool> {
        // Whoever asks a server that goes down is sent elsewhere, whichever model is meant.
        let going = self.shutdown.phase() != Phase::Serving;
        match service {
            "" | SERVICE => Some(self.ready()),
            model => {
                let table = self.table.load();
                let serves = table.model(model).ok()?.current.is_some();
                Some(serves && !going)
            }
        }
    }
}

fn message(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for Answers {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        match self.api.serving(service) {
            Some(serving) => Ok(Response::new(message(status(serving)))),
            None => {
                let shown: String =
                    service.chars().take(128).flat_map(char::escape_debug).collect();
                let error = Error::new(
                    Code::NotFound,
                    format!(
                        "there is no service '{shown}': expected \"\", {SERVICE} or a model's name"
                    ),
                );
                Err(grpc_status(&error))
            }
        }
    }

    async fn list(
        &self,
        _: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let table = self.api.table.load();
        let names = table.models.keys().map(AsRef::as_ref).chain(["", SERVICE]);
        let statuses = names.filter_map(|name| {
            let serving = self.api.serving(name)?;
            Some((name.to_owned(), message(status(serving))))
        });
        Ok(Response::new(HealthListResponse { statuses: statuses.collect() }))
    }

    type WatchStream = Watch;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let full = format!("{MAX_WATCHES} watches are open, as many as there may be");
            return Err(grpc_status(&Error::overloaded(full, Duration::from_secs(10))));
        };
        let watcher = Watcher {
            changes: self.api.ready.clone(),
            shutdown: self.api.shutdown.clone(),
            api: self.api.clone(),
            service: request.into_inner().service,
            told: None,
            _place: place,
        };
        Ok(Response::new(Watch(Some(Box::pin(watcher.next())))))
    }
}

/// One client that watches one service.
struct Watcher {
    api: Arc<Api>,
    service: String,
    told: Option<ServingStatus>,
    changes: watch::Receiver<bool>,
    shutdown: shutdown::Listener,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    /// Waits for the next status to tell; `None`: the server stops, and has said so.
    async fn next(mut self) -> Option<(ServingStatus, Watcher)> {
        loop {
            let phase = self.shutdown.phase();
            self.changes.mark_unchanged();
            let now = self.api.serving(&self.service);
            let now = now.map_or(ServingStatus::ServiceUnknown, status);
            if self.told.replace(now) != Some(now) {
                return Some((now, self));
            }
            if phase >= Phase::Draining {
                return None;
            }
            let changed = async {
                if self.changes.changed().await.is_err() {
                    // Nobody publishes any more: only the stop is left to come.
                    future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = self.shutdown.after(phase) => {}
            }
        }
    }
}

type Next = Pin<Box<dyn Future<Output = Option<(ServingStatus, Watcher)>> + Send>>;

/// What a watch sends. It waits and does not look around: who publishes wakes it.
pub struct Watch(Option<Next>);

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(next) = &mut self.0 else { return Poll::Ready(None) };
        let Poll::Ready(next) = next.as_mut().poll(cx) else { return Poll::Pending };
        let (told, further) = match next {
            Some((now, watcher)) => {
                (Some(Ok(message(now))), Some(Box::pin(watcher.next()) as Next))
            }
            None => (None, None),
        };
        self.0 = further;
        Poll::Ready(told)
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::{api::fixture, repository::table::Table};

    /// The service, with what changes its answers.
    struct Set {
        answers: Answers,
        publishes: watch::Sender<bool>,
        announcer: shutdown::Announcer,
        api: Arc<Api>,
    }

    fn set() -> Set {
        let (publishes, ready) = watch::channel(true);
        let (announcer, listener) = shutdown::channel();
        let api = Arc::new(Api { ready, shutdown: listener, ..fixture::api() });
        let answers = Answers { api: api.clone(), places: Arc::new(Semaphore::new(2)) };
        Set { answers, publishes, announcer, api }
    }

    fn about(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.into() })
    }

    async fn told(watch: &mut Watch) -> Option<ServingStatus> {
        let next = future::poll_fn(|cx| Pin::new(&mut *watch).poll_next(cx)).await?;
        Some(next.expect("a status").status())
    }

    /// Whether nothing is told as things are.
    async fn silent(watch: &mut Watch) -> bool {
        future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *watch).poll_next(cx).is_pending())).await
    }

    #[tokio::test]
    async fn the_server_and_each_model_have_a_status() {
        let set = set();
        let check = async |service: &str| match set.answers.check(about(service)).await {
            Ok(answer) => Ok(answer.into_inner().status()),
            Err(status) => Err(status.code()),
        };
        for (service, expected) in [
            ("", Ok(ServingStatus::Serving)),
            (SERVICE, Ok(ServingStatus::Serving)),
            ("digits", Ok(ServingStatus::Serving)),
            ("broken", Ok(ServingStatus::NotServing)),
            ("nosuch", Err(tonic::Code::NotFound)),
        ] {
            assert_eq!(check(service).await, expected, "{service}");
        }
        let listed = set.answers.list(Request::new(HealthListRequest {})).await.unwrap();
        let listed = listed.into_inner().statuses;
        let mut names: Vec<&str> = listed.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["", "broken", "digits", "empty", SERVICE]);
        assert_eq!(listed["digits"].status(), ServingStatus::Serving);
        set.announcer.announce(Phase::Unready);
        for service in ["", SERVICE, "digits"] {
            assert_eq!(check(service).await, Ok(ServingStatus::NotServing), "{service}");
        }
    }

    #[tokio::test]
    async fn a_watch_tells_changes_and_ends_with_the_server() {
        let set = set();
        let watch = async |service| set.answers.watch(about(service)).await.unwrap().into_inner();
        let mut server = watch("").await;
        let mut model = watch("later").await;
        assert!(
            set.answers
                .watch(about(""))
                .await
                .is_err_and(|s| s.code() == tonic::Code::ResourceExhausted)
        );
        assert_eq!(told(&mut server).await, Some(ServingStatus::Serving));
        assert_eq!(told(&mut model).await, Some(ServingStatus::ServiceUnknown));
        set.publishes.send_replace(true);
        assert!(silent(&mut server).await && silent(&mut model).await, "nothing has changed");

        set.publishes.send_replace(false);
        assert_eq!(told(&mut server).await, Some(ServingStatus::NotServing));
        let digits = set.api.table.load().models["digits"].clone();
        let table: &ArcSwap<Table> = &set.api.table;
        table.store(Arc::new(Table {
            models: [("later".into(), digits)].into_iter().collect(),
            ..Table::default()
        }));
        set.publishes.send_replace(true);
        assert_eq!(told(&mut server).await, Some(ServingStatus::Serving));
        assert_eq!(told(&mut model).await, Some(ServingStatus::Serving));

        set.announcer.announce(Phase::Unready);
        assert_eq!(told(&mut server).await, Some(ServingStatus::NotServing));
        assert!(silent(&mut server).await);
        set.announcer.announce(Phase::Draining);
        assert_eq!(told(&mut server).await, None);
        // The one that has not heard yet hears first.
        assert_eq!(told(&mut model).await, Some(ServingStatus::NotServing));
        assert_eq!(told(&mut model).await, None);
        drop(server);
        assert!(set.answers.watch(about("")).await.is_ok(), "its place is free again");
    }
}
