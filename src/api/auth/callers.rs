//! Everybody who may ask, and finding out who does: by key, or by client certificate.

use std::{collections::HashMap, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{
    keys::KeyHash,
    options::{CallerOptions, Identity},
    roles::Roles,
};
use crate::serving::{
    caller::{Account, Caller},
    quota::{Quota, Rate},
};

/// What metrics call those who are not known.
pub const UNKNOWN: &str = "unknown";

/// A caller with what it may do.
#[derive(Debug)]
pub struct Known {
    pub roles: Roles,
    pub caller: Arc<Caller>,
}

/// All callers of a configuration.
#[derive(Debug, Default)]
pub struct Callers {
    all: Vec<Known>,
    /// With the place in `all`.
    keys: Vec<(KeyHash, u32)>,
    certificates: HashMap<String, u32>,
}

impl Callers {
    /// Checks them and gets them ready. `account` is asked by the name that metrics show (`None`: none) and goes on where
    /// a caller had one before.
    ///
    /// # Errors
    /// What is wrong, without any key.
    pub fn new(
        options: &[CallerOptions],
        identity: Identity,
        mut account: impl FnMut(&str, Option<&str>) -> Arc<Account>,
    ) -> Result<Callers, String> {
        let mut callers = Callers::default();
        for option in options {
            let at = callers.all.len() as u32;
            check(option)?;
            let name = &option.name;
            if callers.all.iter().any(|known| *known.caller.name == **name) {
                return Err(format!("caller '{name}' is there twice"));
            }
            for hash in &option.keys.0 {
                if let Some((_, owner)) = callers.keys.iter().find(|(other, _)| other == hash) {
                    let owner = callers.all.get(*owner as usize).map(|known| &*known.caller.name);
                    let owner = owner.unwrap_or(name);
                    return Err(format!("callers '{owner}' and '{name}' have the same key"));
                }
                callers.keys.push((*hash, at));
            }
            for identity in &option.certificates {
                if callers.certificates.insert(identity.clone(), at).is_some() {
                    return Err(format!("the certificate identity '{identity}' is there twice"));
                }
            }
            let shown = shown(name, identity);
            let account = account(name, shown.as_deref());
            callers.all.push(Known {
                roles: Roles::of(&option.roles),
                caller: Arc::new(Caller {
                    name: name.as_str().into(),
                    place: at as usize,
                    shown: shown.map(Arc::from),
                    priority: option.priority,
                    models: option.models.clone(),
                    quota: quota(option),
                    account,
                }),
            });
        }
        Ok(callers)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What the caller of this name has used.
    pub fn account(&self, name: &str) -> Option<Arc<Account>> {
        let known = self.all.iter().find(|known| *known.caller.name == *name)?;
        Some(known.caller.account.clone())
    }

    /// Whose key this is. Every hash is looked at, whichever fits: the time tells nothing.
    pub fn by_key(&self, key: &[u8]) -> Option<&Known> {
        let hash = KeyHash::of(key);
        let mut found = u32::MAX;
        for (other, at) in &self.keys {
            found.conditional_assign(at, hash.same(other));
        }
        let none: bool = found.ct_eq(&u32::MAX).into();
        if none { None } else { self.all.get(found as usize) }
    }

    /// Whose certificate has this identity.
    pub fn by_certificate(&self, identity: &str) -> Option<&Known> {
        self.all.get(*self.certificates.get(identity)? as usize)
    }
}

fn check(option: &CallerOptions) -> Result<(), String> {
    let name = &option.name;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-@/:".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
        return Err("a caller's name has 1 to 64 letters, digits and _ . - @ / :".into());
    }
    if name == UNKNOWN {
        return Err(format!(
            "no caller can be called '{UNKNOWN}': metrics call those so who are none"
        ));
    }
    if option.keys.0.is_empty() && option.certificates.is_empty() {
        return Err(format!(
            "caller '{name}' has neither keys nor certificates: nobody could be it"
        ));
    }
    if option.roles.is_empty() {
        return Err(format!("caller '{name}' has no roles: leave the option out for infer"));
    }
    let rate = option.requests_per_second;
    if !rate.is_finite() || rate < 0.0 {
        return Err(format!(
            "caller '{name}': requests_per_second: expected 0 or more, got {rate}"
        ));
    }
    if rate == 0.0 && option.burst > 0 {
        return Err(format!("caller '{name}': burst says nothing without requests_per_second"));
    }
    Ok(())
}

fn quota(option: &CallerOptions) -> Quota {
    let per_second = option.requests_per_second;
    let burst = match option.burst {
        // Cast saturates.
        0 => per_second.ceil().max(1.0) as u32,
        n => n,
    };
    Quota {
        rate: (per_second > 0.0).then(|| Rate::new(per_second, burst)),
        at_once: (option.max_requests > 0).then_some(option.max_requests),
    }
}

fn shown(name: &str, identity: Identity) -> Option<String> {
    match identity {
        Identity::Named => Some(name.to_owned()),
        Identity::Hashed => Some(hex::encode(&Sha256::digest(name)[..6])),
        Identity::Off => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::{keys::KeyHashes, roles::Role};

    fn option(name: &str, keys: &[&str]) -> CallerOptions {
        let keys = KeyHashes(keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect());
        CallerOptions { name: name.into(), keys, ..CallerOptions::default() }
    }

    fn callers(options: &[CallerOptions]) -> Result<Callers, String> {
        Callers::new(options, Identity::Named, |_, _| Arc::default())
    }

    #[test]
    fn a_key_or_a_certificate_says_who_it_is() {
        let certified = CallerOptions {
            certificates: vec!["spiffe://house/batch".into()],
            roles: vec![Role::Operate],
            ..option("batch", &[])
        };
        let callers = callers(&[option("a", &["old", "new"]), option("b", &["x"]), certified]);
        let callers = callers.expect("these fit");
        let name = |known: Option<&Known>| known.map(|known| known.caller.name.to_string());
        for (key, expected) in [("old", "a"), ("new", "a"), ("x", "b")] {
            assert_eq!(name(callers.by_key(key.as_bytes())).as_deref(), Some(expected));
        }
        for key in ["", "X", "oldnew", "xx"] {
            assert!(callers.by_key(key.as_bytes()).is_none(), "{key}");
        }
        let batch = callers.by_certificate("spiffe://house/batch").expect("known");
        assert!(batch.roles.has(Role::Read) && !batch.roles.has(Role::Infer));
        assert!(callers.by_certificate("spiffe://house/batc").is_none());
        assert!(Callers::default().by_key(b"x").is_none());
    }

    #[test]
    fn what_cannot_be_is_refused_without_a_key_in_the_message() {
        let refused = |options: &[CallerOptions], part: &str| {
            let error = callers(options).unwrap_err();
            assert!(error.contains(part), "{error}");
            assert!(!error.contains("sha256:"), "{error}");
        };
        refused(&[option("", &["k"])], "1 to 64 letters");
        refused(&[option("a\nb", &["k"])], "1 to 64 letters");
        refused(&[option("unknown", &["k"])], "'unknown'");
        refused(&[option("a", &[])], "neither keys nor certificates");
        refused(&[option("a", &["k"]), option("a", &["l"])], "twice");
        refused(&[option("a", &["k"]), option("b", &["k"])], "'a' and 'b' have the same key");
        refused(&[option("a", &["k", "k"])], "'a' and 'a'");
        refused(&[CallerOptions { roles: vec![], ..option("a", &["k"]) }], "no roles");
        for rate in [-1.0, f64::NAN, f64::INFINITY] {
            let bad = CallerOptions { requests_per_second: rate, ..option("a", &["k"]) };
            refused(&[bad], "requests_per_second");
        }
        refused(&[CallerOptions { burst: 3, ..option("a", &["k"]) }], "burst");
        let certified =
            |name| CallerOptions { certificates: vec!["c".into()], ..option(name, &[]) };
        refused(&[certified("a"), certified("b")], "'c' is there twice");
    }

    #[test]
    fn names_are_shown_as_asked() {
        assert_eq!(shown("search", Identity::Named).as_deref(), Some("search"));
        let hashed = shown("search", Identity::Hashed).expect("a hash");
        assert!(hashed.len() == 12 && hashed != shown("rank", Identity::Hashed).expect("a hash"));
        assert_eq!(shown("search", Identity::Off), None);
    }
}
