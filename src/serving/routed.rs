//! Requests of models with traffic rules: sent their way, copied to shadows, and answered by the fallback where the primary cannot.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{
    caller::Caller,
    engine::{Engine, Pending},
    router,
    shadow::Copy,
};
use crate::{
    predlog::capture,
    repository::{
        routes::{Falling, Routes, Shadowing},
        table::{Model, Version},
    },
    telemetry::clock::now,
    types::{
        buckets::BUCKETS,
        error::{Blame, Code, Error},
        request::{InferRequest, InferResponse, Sent},
        time::Tick,
        traffic::MOST_SHADOWS,
    },
};

/// The way that a request took.
pub struct Taken {
    pub version: Arc<Version>,
    routes: Arc<Routes>,
    /// For the answer's header, and the prediction log.
    sent: Arc<Sent>,
    primary: bool,
}

/// Sends a request of a model with traffic rules its way.
///
/// # Errors
/// As `Model::resolve` and `router::choose`.
pub fn take(model: &Model, routes: &Arc<Routes>, request: &InferRequest) -> Result<Taken, Error> {
    if !request.version.is_empty() {
        let version = model.resolve(&request.version)?;
        let said = format!("version;version={}", version.number).into();
        let sent = Arc::new(Sent { said, rollout: None });
        return Ok(Taken { version, routes: routes.clone(), sent, primary: false });
    }
    let way = router::choose(&model.name, routes, request, random())?;
    let version = match &way.version {
        Some(version) => version.clone(),
        None => model.resolve("")?,
    };
    way.count.taken();
    let primary = std::ptr::eq(way, routes.primary());
    Ok(Taken { version, routes: routes.clone(), sent: way.sent.clone(), primary })
}

/// Chance, from this thread's own sequence.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(0));
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// A request on its way, and what else is to happen to it.
pub struct Routed<'a> {
    engine: &'a Engine,
    first: Result<Pending<'a>, Error>,
    /// The primary was asked, or would have been.
    asked: bool,
    taken: Taken,
    begun: Tick,
    /// For the shadows that get this one.
    copy: Option<Drawn>,
    /// For the fallback.
    spare: Option<Spare<'a>>,
}

/// A copy, and which of the shadows get it: a bit each.
struct Drawn {
    request: InferRequest,
    shadows: u8,
}

/// What it takes to ask somebody else.
struct Spare<'a> {
    request: InferRequest,
    received: Tick,
    timeout: Option<Duration>,
    caller: Option<&'a Caller>,
}

type Later<'a> = Pin<Box<dyn Future<Output = Result<InferResponse, Error>> + Send + 'a>>;

impl Engine {
    /// As `begin`, for a request that `take` sent its way.
    pub(super) fn begin_routed<'a>(
        &'a self,
        taken: Taken,
        mut request: InferRequest,
        received: Tick,
        timeout: Option<Duration>,
        caller: Option<&'a Caller>,
    ) -> Result<Box<Routed<'a>>, Error> {
        let Taken { routes, primary, .. } = &taken;
        let shadowed = *primary && request.regions.is_none();
        let shadows = if shadowed { draw(&routes.shadows) } else { 0 };
        let guarded = *primary && routes.fallback.is_some();
        if (shadows != 0 || guarded) && taken.version.log.is_some() {
            capture::name(&mut request);
        }
        request.sent = Some(taken.sent.clone());
        let copy = (shadows != 0).then(|| Drawn { request: request.clone(), shadows });
        let spare = guarded.then(|| Spare { request: request.clone(), received, timeout, caller });
        let begun = now();
        let asked = !guarded || routes.breaker.lock().passes(begun);
        let first = match asked {
            true => self.enter(taken.version.clone(), request, received, timeout, caller),
            false => Err(Error::new(
                Code::Unavailable,
                "the primary fails again and again: it is left alone",
            )),
        };
        match first {
            Err(error) if !guarded => Err(error),
            first => Ok(Box::new(Routed { engine: self, first, asked, taken, begun, copy, spare })),
        }
    }
}

impl<'a> Routed<'a> {
    /// As a value of its own, so that nobody else's future is larger for it.
    pub fn answer(self) -> Later<'a> {
        Box::pin(self.ask())
    }

    async fn ask(self) -> Result<InferResponse, Error> {
        let Routed { engine, first, asked, taken, begun, copy, spare } = self;
        let late = taken.routes.fallback.as_ref().map(|fallback| fallback.after);
        let late = late.filter(|after| spare.is_some() && !after.is_zero());
        let outcome = match (first, late) {
            (Err(error), _) => Err(error),
            (Ok(pending), None) => pending.answer().await,
            (Ok(pending), Some(after)) => {
                let until = begun.after(after).instant().into();
                tokio::time::timeout_at(until, pending.answer())
                    .await
                    .unwrap_or_else(|_| Err(Error::new(Code::Unavailable, "the primary is late")))
            }
        };
        let fails = outcome.as_ref().is_err_and(may_fall_back);
        let blame = outcome.as_ref().err().map(|error| error.code.blame());
        let Taken { routes, sent, .. } = &taken;
        if let (Some(spare), Some(fallback)) = (spare, &routes.fallback) {
            if asked {
                let mut breaker = routes.breaker.lock();
                match blame {
                    None => breaker.succeeded(),
                    Some(Blame::Client) => breaker.told_nothing(),
                    // Nor can one that misses deadlines be relied on.
                    Some(Blame::Server | Blame::Load) => breaker.failed(now()),
                }
            }
            if fails {
                return engine.fall_back(&taken, fallback, spare).await;
            }
        }
        let mut response = outcome?;
        if let Some(drawn) = copy {
            engine.shadow(routes, drawn, &response, now().since(begun));
        }
        response.route = Some(sent.said.clone());
        Ok(response)
    }
}

/// Whether another may be able to answer what this error is about: not what is wrong with the request itself, nor what nobody waits
/// for any more.
fn may_fall_back(error: &Error) -> bool {
    error.code != Code::DeadlineExceeded && error.code.blame() != Blame::Client
}

impl Engine {
    async fn fall_back(
        &self,
        taken: &Taken,
        fallback: &Falling,
        spare: Spare<'_>,
    ) -> Result<InferResponse, Error> {
        let Spare { mut request, received, timeout, caller } = spare;
        // Another model has no part in this one's rollout.
        let mut rollout = taken.routes.rollout.clone();
        if let Some(other) = &fallback.model {
            request.model = other.as_str().into();
            rollout = None;
        }
        let name = fallback.model.as_deref().unwrap_or(&taken.version.model);
        let version = self.table.load().resolve(name, &fallback.version)?;
        fallback.count.taken();
        let said: Arc<str> = format!("fallback;version={}", version.number).into();
        request.sent = Some(Arc::new(Sent { said: said.clone(), rollout }));
        let pending = self.enter(version, request, received, timeout, caller)?;
        let mut response = Box::pin(pending.answer()).await?;
        response.route = Some(said);
        Ok(response)
    }

    /// Gives copies to the shadows that were drawn.
    fn shadow(&self, routes: &Routes, mut drawn: Drawn, response: &InferResponse, took: Duration) {
        drawn.request.sent = Some(routes.shadowed.clone());
        for (place, shadow) in routes.shadows.iter().enumerate() {
            if drawn.shadows & (1 << place) != 0 {
                self.shadows.offer(Copy {
                    request: drawn.request.clone(),
                    version: shadow.version.clone(),
                    counts: shadow.counts.clone(),
                    primary: response.outputs.clone(),
                    took,
                });
            }
        }
    }
}

// A bit for each.
const _: () = assert!(MOST_SHADOWS <= u8::BITS as usize);

/// Which shadows get the next request: drawn before anything is copied, so that a sampled shadow costs the others nothing.
fn draw(shadows: &[Shadowing]) -> u8 {
    let chosen = |shadow: &Shadowing| router::below(random(), BUCKETS) < shadow.share;
    let bits = shadows.iter().enumerate().map(|(place, shadow)| u8::from(chosen(shadow)) << place);
    bits.fold(0, |all, bit| all | bit)
}
