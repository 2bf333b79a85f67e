//! The one layer below both protocols: who asks, whether they may, and within which quota. Every request of every
//! listener passes it first, and what it refuses costs no byte of the body.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{
    answer::Answer,
    auth::{
        callers::{Callers, Known},
        keys,
        live::Auth,
        policy::{self, Seen, Who},
        roles::{self, Access, Asked, Port},
    },
    body::Body,
    errors, grpc, path,
    peer::Peer,
};
use crate::{
    serving::caller::Caller,
    telemetry::{clock::now, registry::registry, request},
    types::error::{Code, Error},
};

/// Who answers what the gate lets through.
pub trait Behind: Clone + Send + Sync + 'static {
    /// As `Answer::RUNS_MODELS`.
    const RUNS_MODELS: bool;

    fn gate(&self) -> &Gate;

    /// As `Answer::answer`; `caller`: who asks, where callers are configured and the route is not open to anyone.
    fn answer(
        self,
        request: Request<Incoming>,
        caller: Option<Arc<Caller>>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<Self>;
}

/// What answers behind its gate: the only thing that listeners are given.
#[derive(Clone)]
pub struct Gated<B>(pub B);

impl<B: Behind> Answer for Gated<B> {
    const RUNS_MODELS: bool = B::RUNS_MODELS;

    fn answer(
        self,
        request: Request<Incoming>,
        peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<B> {
        match self.0.gate().admit(&request, peer) {
            Ok(pass) => {
                let caller = pass.0.clone();
                Answering::Passed { answer: self.0.answer(request, caller), pass }
            }
            Err(error) => Answering::Refused { answer: Some(refusal(&request, &error)) },
        }
    }
}

/// The gate of one kind of port.
pub struct Gate {
    auth: Arc<Auth>,
    port: Port,
}

impl Gate {
    pub fn new(auth: Arc<Auth>, port: Port) -> Gate {
        Gate { auth, port }
    }

    /// Decides from the head alone.
    fn admit<B>(&self, request: &Request<B>, peer: &Peer) -> Result<Pass, Error> {
        // Nothing to decide, but for what a page in a browser sends.
        if self.port == Port::Data
            && self.auth.callers().is_none()
            && !request.headers().contains_key(header::ORIGIN)
        {
            return Ok(Pass(None));
        }
        self.decide(request, peer)
    }

    fn decide<B>(&self, request: &Request<B>, peer: &Peer) -> Result<Pass, Error> {
        let asked = roles::asked(self.port, request.method().as_str(), request.uri().path());
        let callers = self.auth.callers().map(|callers| callers.load());
        let sender = match &callers {
            // What anyone may ask costs no look at who asks.
            Some(callers) if asked.access != Access::Open => identify(callers, request, peer),
            Some(_) => Sender::Nobody { wrong: false },
            None => Sender::Anyone,
        };
        let seen = self.seen(request, peer);
        let passed = policy::decide(&asked, sender.who(), &seen)
            .and_then(|()| sender.known().map_or(Ok(Pass(None)), |known| enter(known, &asked)));
        passed.inspect_err(|error| {
            registry().refused(error.code);
            let counts = match sender.known() {
                Some(known) => known.caller.account.counts.as_deref(),
                None => self.auth.unknown(),
            };
            if let Some(counts) = counts {
                counts.ended(Some(error.code));
            }
        })
    }

    fn seen<'a, B>(&'a self, request: &'a Request<B>, peer: &Peer) -> Seen<'a> {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        Seen {
            port: self.port,
            method: request.method().as_str(),
            local: peer.is_local(),
            socket: peer.ip.is_none(),
            host: authority.or_else(|| text(request, header::HOST)),
            origin: text(request, header::ORIGIN),
            hosts: self.auth.hosts(),
        }
    }
}

/// A header's text; what is no text is no host or origin of ours.
fn text<B>(request: &Request<B>, name: HeaderName) -> Option<&str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or(""))
}

/// Who sent a request.
enum Sender<'a> {
    Anyone,
    Nobody { wrong: bool },
    Known { known: &'a Known, by_key: bool },
}

impl<'a> Sender<'a> {
    fn who(&self) -> Who<'a> {
        match *self {
            Sender::Anyone => Who::Anyone,
            Sender::Nobody { wrong } => Who::Nobody { wrong },
            Sender::Known { known, by_key } => {
                Who::Known { name: &known.caller.name, roles: known.roles, by_key }
            }
        }
    }

    fn known(&self) -> Option<&'a Known> {
        match *self {
            Sender::Known { known, .. } => Some(known),
            _ => None,
        }
    }
}

/// The key counts where there is one; else the certificate of the connection. Two keys are none: which of them a proxy
/// would have looked at is not known.
fn identify<'a, B>(callers: &'a Callers, request: &Request<B>, peer: &Peer) -> Sender<'a> {
    let mut headers = request.headers().get_all(header::AUTHORIZATION).iter();
    let (known, by_key) = match (headers.next(), headers.next()) {
        (Some(header), None) => {
            (keys::bearer(header.as_bytes()).and_then(|key| callers.by_key(key)), true)
        }
        (Some(_), Some(_)) => (None, true),
        (None, _) => match &peer.identity {
            Some(identity) => (callers.by_certificate(identity), false),
            None => return Sender::Nobody { wrong: false },
        },
    };
    known.map_or(Sender::Nobody { wrong: true }, |known| Sender::Known { known, by_key })
}

/// Holds the request against the caller's models, as far as its path names one, and takes it into the quota.
fn enter(known: &Known, asked: &Asked) -> Result<Pass, Error> {
    let caller = &known.caller;
    if let Some(model) = asked.model {
        caller.may_use(&path::decode(model)?)?;
    }
    request::note(|known| known.caller = caller.shown.clone());
    caller.enter(now())?;
    Ok(Pass(Some(caller.clone())))
}

/// A request that was let through: counted for its caller, and out of the quota, when it ends.
pub struct Pass(Option<Arc<Caller>>);

impl Pass {
    /// Takes one request of a stream in, whose call as a whole has passed.
    ///
    /// # Errors
    /// As `Caller::enter`.
    pub fn enter(caller: Option<&Arc<Caller>>) -> Result<Pass, Error> {
        caller.map_or(Ok(()), |caller| caller.enter(now()))?;
        Ok(Pass(caller.cloned()))
    }

    /// `code`: why it failed; `None`: it went well.
    pub fn ended(&mut self, code: Option<Code>) {
        let Some(caller) = self.0.take() else { return };
        caller.account.usage.leave();
        if let Some(counts) = &caller.account.counts {
            counts.ended(code);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.ended(Some(Code::Cancelled));
    }
}

pin_project! {
    /// An answer on its way.
    #[project = Way]
    enum Answering<F> {
        Passed {
            #[pin]
            answer: F,
            pass: Pass,
        },
        /// Boxed: it is rare, and every future has room for the larger one.
        Refused { answer: Option<Box<Response<Body>>> },
    }
}

impl<F> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Way::Passed { answer, pass } => {
                let answer = ready!(answer.poll(cx));
                if pass.0.is_some()
                    && let Ok(answer) = &answer
                {
                    pass.ended(code_of(answer));
                }
                Poll::Ready(answer)
            }
            Way::Refused { answer } => match answer.take() {
                Some(answer) => Poll::Ready(Ok(*answer)),
                None => Poll::Pending,
            },
        }
    }
}

/// How a request ended, as far as the head of its answer says; `None`: well. Where several codes look the same on the wire,
/// the first of them.
pub fn code_of(answer: &Response<Body>) -> Option<Code> {
    let status = answer.status().as_u16();
    if status >= 400 {
        return Some(first(|code| code.http() == status));
    }
    let grpc = answer.headers().get("grpc-status")?.to_str().ok()?.parse::<u8>().ok()?;
    match grpc {
        0 => None,
        // An overload says when to come back.
        8 if answer.headers().contains_key("grpc-status-details-bin") => Some(Code::Overloaded),
        12 => Some(Code::Unimplemented),
        _ => Some(first(|code| code.grpc() == grpc)),
    }
}

fn first(fits: impl Fn(Code) -> bool) -> Code {
    Code::ALL.into_iter().find(|code| fits(*code)).unwrap_or(Code::Internal)
}

/// A refusal in the words of the caller's protocol.
fn refusal<B>(request: &Request<B>, error: &Error) -> Box<Response<Body>> {
    if grpc::spoken(request.headers()) {
        return Box::new(errors::grpc_status(error).into_http());
    }
    let mut answer = errors::http_response(error).map(Body::Routed);
    if error.code == Code::Unauthenticated {
        let scheme = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    Box::new(answer)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
