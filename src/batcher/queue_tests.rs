//! Properties of the queue, against a plain list that does the same slowly.

use std::{cell::Cell, rc::Rc};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
struct Item {
    id: usize,
    left: Rc<Cell<bool>>,
}

impl Abandoned for Item {
    fn abandoned(&self) -> bool {
        self.left.get()
    }
}

fn item(id: usize) -> Item {
    Item { id, left: Rc::default() }
}

fn waiting(id: usize, now: u64) -> Waiting<Item> {
    Waiting {
        rows: 1,
        bytes: 1,
        bucket: 0,
        enqueued: Tick(now),
        deadline: None,
        priority: 0,
        favoured: false,
        item: item(id),
    }
}

fn limits() -> Limits {
    Limits { max_batch_rows: 8, max_delay: Duration::ZERO, max_requests: 100, max_bytes: 1000 }
}

fn ids(members: &[Waiting<Item>]) -> Vec<usize> {
    members.iter().map(|w| w.item.id).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push { rows: usize, bytes: usize, bucket: u64, deadline: Option<u64>, rank: Rank },
    Poll { cap: usize, alone: usize, run: u64 },
    Advance(u64),
    Abandon(usize),
    Sweep,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let push = (
        0usize..7,
        0usize..60,
        0u64..4,
        prop_oneof![2 => Just(None), 1 => (1u64..300).prop_map(Some)],
        prop_oneof![4 => Just(0), 1 => 0u16..6],
    );
    prop_oneof![
        8 => push.prop_map(|(rows, bytes, bucket, deadline, rank)| Step::Push {
            rows, bytes, bucket, deadline, rank
        }),
        4 => (1usize..10, prop_oneof![3 => Just(usize::MAX), 1 => 1usize..5], 0u64..50)
            .prop_map(|(cap, alone, run)| Step::Poll { cap, alone, run }),
        3 => (0u64..120).prop_map(Step::Advance),
        1 => any::<usize>().prop_map(Step::Abandon),
        1 => Just(Step::Sweep),
        1 => Just(Step::Close),
    ]
}

/// The queue beside a list of what should be in it.
struct Pair {
    queue: Queue<Item>,
    list: Vec<Waiting<Item>>,
    ended: Vec<usize>,
    taken: Taken<Item>,
    now: u64,
    next_id: usize,
    closed: bool,
    /// The rank of what is being pushed.
    pushing: Option<Rank>,
}

impl Pair {
    fn new(limits: Limits) -> Pair {
        Pair {
            queue: Queue::new(QueueId(7), limits),
            list: Vec::new(),
            ended: Vec::new(),
            taken: Taken::default(),
            now: 0,
            next_id: 0,
            closed: false,
            pushing: None,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Push { rows, bytes, bucket, deadline, rank } => {
                let deadline = deadline.map(|d| Tick(self.now + d));
                let entry = waiting(self.next_id, self.now);
                self.next_id += 1;
                let (priority, favoured) = (priority(rank), rank % 2 == 1);
                self.push(Waiting { rows, bytes, bucket, deadline, priority, favoured, ..entry });
            }
            Step::Poll { cap, alone, run } => self.poll(cap, alone, run),
            Step::Advance(by) => self.now += by,
            Step::Abandon(which) => {
                if !self.list.is_empty() {
                    self.list[which % self.list.len()].item.left.set(true);
                }
            }
            Step::Sweep => {
                self.queue.sweep(Tick(self.now), &mut self.taken.gone);
                self.gone();
                assert!(self.list.iter().all(|w| !w.item.abandoned() && !self.expired(w)));
            }
            Step::Close => {
                if self.next_id > 40 {
                    self.queue.close();
                    self.closed = true;
                }
            }
        }
        self.agree();
    }

    fn agree(&self) {
        assert_eq!(self.queue.len(), self.list.len());
        assert_eq!(self.queue.bytes(), self.list.iter().map(|w| w.bytes).sum::<usize>());
        assert_eq!(self.queue.rows(), self.list.iter().map(|w| w.rows.max(1)).sum::<usize>());
        assert!(self.queue.len() <= self.queue.limits().max_requests);
        assert!(self.queue.bytes() <= self.queue.limits().max_bytes);
    }

    fn expired(&self, w: &Waiting<Item>) -> bool {
        w.deadline.is_some_and(|d| d <= Tick(self.now))
    }

    fn gone(&mut self) {
        for gone in std::mem::take(&mut self.taken.gone) {
            assert_eq!(gone.queue, QueueId(7));
            let at = self.list.iter().position(|w| w.item.id == gone.item.id).expect("in the list");
            let entry = self.list.remove(at);
            match gone.why {
                Why::Expired => assert!(self.expired(&entry)),
                Why::Abandoned => assert!(entry.item.abandoned()),
                Why::Displaced => {
                    assert!(self.pushing.is_some_and(|rank| rank > entry.rank()));
                    // The last of the lowest.
                    assert!(self.list.iter().all(|w| w.rank() >= entry.rank()));
                    assert!(self.list[at..].iter().all(|w| w.rank() > entry.rank()));
                }
                Why::Late => panic!("nobody gave up"),
            }
            self.ended.push(entry.item.id);
        }
    }

    fn push(&mut self, entry: Waiting<Item>) {
        let (id, bytes) = (entry.item.id, entry.bytes);
        self.pushing = Some(entry.rank());
        let result = self.queue.push(Tick(self.now), entry.clone(), &mut self.taken.gone);
        self.gone();
        self.pushing = None;
        let held: usize = self.list.iter().map(|w| w.bytes).sum();
        match result {
            Ok(()) => {
                assert!(!self.closed);
                self.list.push(entry);
            }
            Err((refusal, back)) => {
                assert_eq!(back.id, id);
                match refusal {
                    Refusal::Requests { limit } => assert_eq!(self.list.len(), limit),
                    Refusal::Bytes { limit } => assert!(held + bytes > limit),
                    Refusal::Closed => assert!(self.closed),
                    other => panic!("{other:?}"),
                }
                self.ended.push(id);
            }
        }
    }

    fn poll(&mut self, cap: usize, alone: usize, run: u64) {
        let run = Duration::from_nanos(run);
        let ask = Ask { alone, run, ..Ask::new(Tick(self.now), cap) };
        let cap = cap.min(self.queue.limits().max_batch_rows);
        let poll = self.queue.poll(ask, &mut self.taken);
        self.gone();
        assert!(self.list.iter().all(|w| !self.expired(w)), "what is expired is taken out");
        let delay = self.queue.limits().max_delay;
        let waits = !delay.is_zero() && !self.closed;
        match poll {
            Poll::Run { rows } => self.ran(cap, alone, rows, waits),
            Poll::WaitUntil(until) => {
                assert!(waits && until > Tick(self.now) && !self.list.is_empty());
                for w in &self.list {
                    assert!(until <= w.enqueued.after(delay));
                    assert!(w.deadline.is_none_or(|d| until.after(run) <= d));
                    let places: usize = self
                        .list
                        .iter()
                        .filter(|o| o.bucket == w.bucket)
                        .map(|o| o.rows.max(1))
                        .sum();
                    assert!(places < cap, "a full batch does not wait");
                }
            }
            Poll::TooLarge => assert!(self.list.iter().any(|w| w.rows.max(1) > alone)),
            Poll::Idle => assert!(self.list.is_empty() && !self.closed),
            Poll::Closed => assert!(self.list.is_empty() && self.closed),
        }
    }

    fn ran(&mut self, cap: usize, alone: usize, rows: usize, waits: bool) {
        let members = std::mem::take(&mut self.taken.members);
        assert_eq!(rows, members.iter().map(|w| w.rows).sum::<usize>());
        let places: usize = members.iter().map(|w| w.rows.max(1)).sum();
        assert!(places <= cap || members.len() == 1);
        assert!(members[0].rows.max(1) <= alone);
        assert!(members.iter().all(|w| !w.item.abandoned() && !self.expired(w)));

        // In the list's order (age), highest rank first: who could run, and the bucket's part of them.
        let mut live: Vec<&Waiting<Item>> =
            self.list.iter().filter(|w| !w.item.abandoned()).collect();
        live.sort_by_key(|w| std::cmp::Reverse(w.rank()));
        let bucket = members[0].bucket;
        if !waits {
            // An abandoned entry at the head of a bucket was dropped on the way.
            assert_eq!(live[0].item.id, members[0].item.id);
        }
        let line: Vec<usize> =
            live.iter().filter(|w| w.bucket == bucket).map(|w| w.item.id).collect();
        assert_eq!(ids(&members), line[..members.len()], "first come, first served in its bucket");
        if let Some(next) = line.get(members.len()) {
            let next = live.iter().find(|w| w.item.id == *next).unwrap();
            assert!(places + next.rows.max(1) > cap, "room was left in the batch");
        }
        for member in members {
            self.list.retain(|w| w.item.id != member.item.id);
            self.ended.push(member.item.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_a_plain_list(
        steps in prop::collection::vec(step(), 1..150),
        max_batch_rows in 1usize..8,
        delay in prop_oneof![Just(0u64), 1u64..200],
        max_requests in 1usize..20,
        max_bytes in 30usize..400,
    ) {
        let max_delay = Duration::from_nanos(delay);
        let mut pair =
            Pair::new(Limits { max_batch_rows, max_delay, max_requests, max_bytes });
        for step in &steps {
            pair.step(step);
        }
        pair.queue.close();
        pair.closed = true;
        while !pair.list.is_empty() {
            pair.poll(4, usize::MAX, 0);
        }
        pair.poll(4, usize::MAX, 0);
        pair.ended.sort_unstable();
        prop_assert_eq!(pair.ended, (0..pair.next_id).collect::<Vec<_>>(), "each exactly once");
    }
}

#[test]
fn a_mixed_stream_batches_per_bucket_oldest_first() {
    let mut queue = Queue::new(QueueId(1), limits());
    let mut taken = Taken::default();
    for id in 0..9 {
        let w = Waiting { bucket: id as u64 % 3, ..waiting(id, id as u64) };
        queue.push(Tick(id as u64), w, &mut taken.gone).unwrap();
    }
    for batch in [[0, 3, 6], [1, 4, 7], [2, 5, 8]] {
        assert_eq!(queue.poll(Ask::new(Tick(10), 64), &mut taken), Poll::Run { rows: 3 });
        assert_eq!(ids(&taken.members), batch);
        taken.members.clear();
    }
    assert_eq!(queue.poll(Ask::new(Tick(10), 64), &mut taken), Poll::Idle);
}

#[test]
fn a_full_queue_makes_room_by_dropping_who_left() {
    let mut queue = Queue::new(QueueId(1), Limits { max_requests: 2, ..limits() });
    let mut gone = Vec::new();
    let first = waiting(0, 0);
    let left = first.item.left.clone();
    queue.push(Tick(0), first, &mut gone).unwrap();
    queue.push(Tick(0), waiting(1, 0), &mut gone).unwrap();
    let later = Tick(5_000_000);
    let refused = queue.push(later, waiting(2, 0), &mut gone).unwrap_err();
    assert_eq!(refused.0, Refusal::Requests { limit: 2 });
    left.set(true);
    let later = Tick(10_000_000);
    queue.push(later, waiting(3, 0), &mut gone).unwrap();
    assert_eq!((gone.len(), gone[0].why, gone[0].item.id), (1, Why::Abandoned, 0));
    assert_eq!(queue.drain().iter().map(|i| i.id).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_burst_does_not_keep_its_memory_and_stale_keys_do_not_pile_up() {
    let mut queue =
        Queue::new(QueueId(1), Limits { max_requests: 5000, max_bytes: 1 << 20, ..limits() });
    let mut taken = Taken::default();
    for round in 0..50u64 {
        for id in 0..1000usize {
            let deadline = Some(Tick(1 << 60));
            let w = Waiting { deadline, bucket: id as u64 % 7, ..waiting(id, round) };
            queue.push(Tick(round), w, &mut taken.gone).unwrap();
        }
        let keep = if round == 49 { 0 } else { 1 };
        while queue.len() > keep {
            queue.poll(Ask::new(Tick(round), 1), &mut taken);
            taken.members.clear();
        }
        let (keys, slots) = queue.lines.footprint();
        assert!(keys < 6200, "{keys} keys");
        assert!(slots <= 1001 && (round < 49 || slots == 0), "{slots} slots");
    }
}
