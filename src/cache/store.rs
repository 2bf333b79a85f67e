//! The answers that one model's versions keep, and the runs under way that several requests wait for.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::Mutex;

use super::{
    door::{Door, Resident},
    flight::Flights,
    key::{Key, Secret},
    options::CacheOptions,
};
use crate::{
    runtime::session::Outputs,
    telemetry::registry::{Kept, registry},
    types::tensor::Tensor,
};

/// What an entry takes beside its bytes: what a process grows by for each of many entries of two small tensors.
const ENTRY_OVERHEAD: usize = 512;

/// The kept answers of one model. Its versions share it, and its budget.
pub struct Store {
    /// Keys are hashes already.
    answers: Cache<Key, Arc<Answer>, foldhash::fast::FixedState>,
    door: Arc<Door>,
    pub flights: Flights,
    pub secret: Secret,
    options: CacheOptions,
    /// How often it was emptied. Part of every key: what a run that began before then puts in is never found.
    epoch: AtomicU64,
}

/// What is kept under a key.
struct Answer {
    outputs: Outputs,
    /// Counted for as long as it is kept.
    _resident: Resident,
}

impl Store {
    pub fn new(options: CacheOptions) -> Store {
        let weight = |_: &Key, answer: &Arc<Answer>| {
            u32::try_from(weight(&answer.outputs)).unwrap_or(u32::MAX)
        };
        // Why not moka's own policy, which judges by how often a key was asked for: the door does, of keys that the table never
        // heard of as well; what is let in takes the place of what was asked for the longest ago.
        let mut answers = Cache::builder()
            .max_capacity(options.max_bytes)
            .weigher(weight)
            .eviction_policy(EvictionPolicy::lru());
        let most = options.max_bytes / ENTRY_OVERHEAD as u64;
        if options.ttl_ms > 0 {
            answers = answers.time_to_live(Duration::from_millis(options.ttl_ms));
        }
        Store {
            answers: answers.build_with_hasher(foldhash::fast::FixedState::default()),
            door: Door::new(most),
            flights: Flights::default(),
            secret: Secret::random(),
            options,
            epoch: AtomicU64::new(0),
        }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn get(&self, key: Key) -> Option<Outputs> {
        if !self.door.may_hold(key) {
            return None;
        }
        self.answers.get(&key).map(|answer| answer.outputs.clone())
    }

    /// Whether this answer is to be kept. Where something else would have to go, only the second time that it comes: most of
    /// what it takes to keep one would be lost on answers that nobody asks for again.
    pub fn wants(&self, key: Key, outputs: &Outputs) -> bool {
        let (weight, most) = (weight(outputs), self.options.max_bytes);
        if weight as u64 > most || u32::try_from(weight).is_err() {
            return false;
        }
        // As of the last few dozen writes: what is above the budget for as long is soon let go of.
        let full = self.answers.weighted_size() + weight as u64 > most;
        !full || self.door.knock(key)
    }

    /// Keeps a copy: what the model gave may be a part of a batch's memory, and keep all of that, and its session.
    pub fn keep(&self, key: Key, outputs: &Outputs) {
        let copy = |tensor: &Tensor| Tensor {
            datatype: tensor.datatype,
            dims: tensor.dims.clone(),
            data: Bytes::copy_from_slice(&tensor.data),
        };
        let outputs = outputs.iter().map(copy).collect();
        let answer = Answer { outputs, _resident: self.door.enter(key) };
        self.answers.insert(key, Arc::new(answer));
    }

    /// Forgets every answer. What is under way when this returns is kept by nobody; what it held is told.
    pub fn purge(&self) -> Kept {
        let held = self.kept();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        self.answers.invalidate_all();
        self.answers.run_pending_tasks();
        held
    }

    /// What it holds now.
    pub fn kept(&self) -> Kept {
        self.answers.run_pending_tasks();
        Kept { answers: self.answers.entry_count(), bytes: self.answers.weighted_size() }
    }
}

fn weight(outputs: &Outputs) -> usize {
    outputs.iter().fold(ENTRY_OVERHEAD, |sum, tensor| sum.saturating_add(tensor.data.len()))
}

/// The living stores by model: a version that is loaded beside another one of its model shares that one's.
#[derive(Default)]
pub struct Stores(Mutex<HashMap<Arc<str>, Weak<Store>>>);

impl Stores {
    /// The model's store; a new one where none lives, or where `options` are not those of the one that does.
    pub fn of(&self, model: &Arc<str>, options: CacheOptions) -> Arc<Store> {
        let mut stores = self.0.lock();
        stores.retain(|_, store| store.strong_count() > 0);
        let living = stores.get(model).and_then(Weak::upgrade);
        living.filter(|store| store.options == options).unwrap_or_else(|| {
            let store = Arc::new(Store::new(options));
            stores.insert(model.clone(), Arc::downgrade(&store));
            let read = Arc::downgrade(&store);
            registry().show_cache(model, move || read.upgrade().map(|store| store.kept()));
            store
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{datatype::Datatype, tensor::Dims};

    fn outputs(bytes: usize) -> Outputs {
        let dims = Dims::from_slice(&[bytes as i64]);
        [Tensor { datatype: Datatype::Uint8, dims, data: vec![1; bytes].into() }]
            .into_iter()
            .collect()
    }

    fn store(max_bytes: u64) -> Store {
        Store::new(CacheOptions { max_bytes, ttl_ms: 0 })
    }

    fn offer(store: &Store, key: Key, outputs: &Outputs) {
        if store.wants(key, outputs) {
            store.keep(key, outputs);
        }
    }

    #[test]
    fn an_answer_is_a_copy() {
        let store = store(1 << 20);
        let given = outputs(100);
        store.keep(7, &given);
        let kept = store.get(7).expect("kept");
        assert_eq!(kept[0].data, given[0].data);
        assert_ne!(kept[0].data.as_ptr(), given[0].data.as_ptr());
        assert!(store.get(8).is_none());
    }

    #[test]
    fn the_budget_holds() {
        let store = store(10_000);
        for key in 0..1000 {
            offer(&store, key, &outputs(100));
        }
        let kept = store.kept();
        assert!(kept.bytes <= 10_000 && kept.answers > 10, "{kept:?}");
        offer(&store, 5000, &outputs(20_000));
        assert!(store.get(5000).is_none(), "an answer larger than the budget");
        assert!(store.kept().bytes <= 10_000);
    }

    #[test]
    fn a_full_store_lets_in_what_comes_again() {
        let store = store(10_000);
        for key in 0..1000 {
            offer(&store, key, &outputs(100));
            store.kept();
        }
        let full = store.kept();
        let fresh = |round: u128| (round + 1) << 70 | round;
        for round in 0..1000 {
            offer(&store, fresh(round), &outputs(100));
        }
        assert_eq!(store.kept(), full);
        assert!((0..1000).all(|round| store.get(fresh(round)).is_none()), "asked for once");
        // What is asked for again and again is found in the end, whoever was there before.
        let again = fresh(5000);
        for _ in 0..20 {
            if store.get(again).is_some() {
                return;
            }
            offer(&store, again, &outputs(100));
            store.kept();
        }
        panic!("twenty times asked for, and never kept");
    }

    #[test]
    fn what_is_asked_for_often_stays_in_a_flood_of_what_never_comes_again() {
        let store = store(200 * (ENTRY_OVERHEAD as u64 + 10));
        let spread = |n: u128| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let mut hits = 0;
        for n in 0..40_000u128 {
            // One in four is one of a hundred: between two of the same, more go by than the store holds.
            let key = spread(if n % 4 == 0 { n / 4 % 100 } else { n + 1000 });
            match store.get(key) {
                Some(_) => hits += 1,
                None => offer(&store, key, &outputs(10)),
            }
        }
        assert!((9_000..=10_000).contains(&hits), "{hits} of 10000");
    }

    #[test]
    fn purging_forgets_everything_and_what_comes_too_late() {
        let store = store(1 << 20);
        let inputs = Default::default();
        let key = |store: &Store| store.secret.key(0, store.epoch(), &inputs);
        let before = key(&store);
        store.keep(before, &outputs(10));
        assert_eq!(store.purge().answers, 1);
        assert!(store.get(before).is_none());
        // A run that had begun.
        store.keep(before, &outputs(10));
        assert!(store.get(key(&store)).is_none());
        assert_eq!(store.kept().answers, 1);
    }

    #[test]
    fn versions_of_a_model_share_a_store_while_the_options_are_the_same() {
        let stores = Stores::default();
        let model: Arc<str> = "stores-test".into();
        let options = CacheOptions { max_bytes: 1000, ttl_ms: 0 };
        let first = stores.of(&model, options);
        assert!(Arc::ptr_eq(&first, &stores.of(&model, options)));
        let other = stores.of(&model, CacheOptions { ttl_ms: 5, ..options });
        assert!(!Arc::ptr_eq(&first, &other));
        drop((first, other));
        stores.of(&"another".into(), options);
        assert_eq!(stores.0.lock().len(), 1);
    }
}
