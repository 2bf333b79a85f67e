//! A caller as the request path knows it: which models it may use, what it has used of its quota, how it is counted.

use std::{sync::Arc, time::Duration};

use super::quota::{Over, Quota, Used};
use crate::{
    telemetry::registry::CallerCounts,
    types::{
        error::{Code, Error},
        time::Tick,
    },
};

/// One configured caller. A change of the configuration makes new ones; what was used and counted goes on in `account`.
#[derive(Debug)]
pub struct Caller {
    /// As configured, for what it is told itself.
    pub name: Arc<str>,
    /// Its place among the callers, by which versions count what it has under way.
    pub place: usize,
    /// How logs call it; `None` where they shall not.
    pub shown: Option<Arc<str>>,
    /// The highest priority that its requests have, in the protocol's numbers (1 is the highest); 0: whichever they ask for.
    pub priority: u8,
    /// Names of models, with `*` for any text; empty: every model.
    pub models: Vec<String>,
    pub quota: Quota,
    pub account: Arc<Account>,
}

/// What a caller has used, and how its requests ended.
#[derive(Debug, Default)]
pub struct Account {
    pub usage: Used,
    /// `None` where metrics shall not tell callers apart.
    pub counts: Option<Arc<CallerCounts>>,
}

impl Caller {
    /// Whether it may use this model, whether or not there is one of that name.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn may_use(&self, model: &str) -> Result<(), Error> {
        if self.models.is_empty() || self.models.iter().any(|pattern| fits(pattern, model)) {
            return Ok(());
        }
        let message = format!(
            "caller '{}' may not use model '{}'",
            self.name,
            shortened(model).escape_debug()
        );
        Err(Error::new(Code::PermissionDenied, message))
    }

    /// Takes one request in, within the quota; `account.usage.leave` must follow.
    ///
    /// # Errors
    /// `Overloaded`, with the time after which there is room.
    pub fn enter(&self, now: Tick) -> Result<(), Error> {
        self.account.usage.enter(self.quota, now).map_err(|over| match over {
            Over::Rate(wait) => Error::overloaded(
                format!("caller '{}' is above its rate of requests", self.name),
                wait,
            ),
            Over::AtOnce(limit) => Error::overloaded(
                format!("caller '{}' has {limit} requests under way, as many as it may", self.name),
                // When one of them ends is not known.
                Duration::from_secs(1),
            ),
        })
    }
}

fn shortened(name: &str) -> &str {
    &name[..name.floor_char_boundary(128)]
}

/// Whether the name fits the pattern: `*` stands for any text, also none.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut parts = tail.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        // The first place leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, slow and plain.
    fn slowly(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|at| slowly(rest, &name[at..])),
            Some((byte, rest)) => name.first() == Some(byte) && slowly(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_any_text(pattern in "[ab*]{0,7}", name in "[ab]{0,8}") {
            prop_assert_eq!(fits(&pattern, &name), slowly(pattern.as_bytes(), name.as_bytes()));
        }
    }

    fn caller(models: &[&str], quota: Quota) -> Caller {
        Caller {
            name: "search".into(),
            place: 0,
            shown: None,
            priority: 0,
            models: models.iter().map(|m| (*m).to_owned()).collect(),
            quota,
            account: Arc::default(),
        }
    }

    #[test]
    fn only_what_it_may_use() {
        let search = caller(&["rank-*", "iris"], Quota::default());
        assert!(search.may_use("rank-7").is_ok() && search.may_use("iris").is_ok());
        let error = search.may_use("iris2").unwrap_err();
        assert_eq!(error.code, Code::PermissionDenied);
        assert_eq!(error.message, "caller 'search' may not use model 'iris2'");
        assert!(caller(&[], Quota::default()).may_use("anything").is_ok());
        assert!(search.may_use(&"ü".repeat(100)).unwrap_err().message.len() < 200);
    }

    #[test]
    fn a_refusal_says_when_there_is_room() {
        use crate::serving::quota::Rate;
        let quota = Quota { rate: Some(Rate::new(4.0, 1)), at_once: Some(1) };
        let search = caller(&[], quota);
        search.enter(Tick(1)).expect("the first");
        let error = search.enter(Tick(1)).unwrap_err();
        assert_eq!(
            (error.code, error.retry_after),
            (Code::Overloaded, Some(Duration::from_secs(1)))
        );
        search.account.usage.leave();
        let error = search.enter(Tick(1)).unwrap_err();
        assert_eq!(error.retry_after, Some(Duration::from_millis(250)));
    }
}
