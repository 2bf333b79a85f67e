//! What the batcher itself costs a request: queueing, choosing, stacking and splitting, without threads or a runtime.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use onnxd::{
    batcher::{
        assemble::{Scratch, bucket_of, split},
        cost::CostModel,
        entry::Lanes,
        options::StandingDelay,
        plan::{DEFAULT_WEIGHT, QueueConfig},
        queue::{Abandoned, Ask, Limits, Poll, Queue, QueueId, Taken, Waiting},
        schedule::{Lane, Next, Schedule},
    },
    runtime::session::Outputs,
    types::{
        datatype::Datatype,
        model::{Dim, Signature, TensorSpec},
        tensor::{Dims, Tensor},
        time::Tick,
    },
};

struct Job;

impl Abandoned for Job {
    fn abandoned(&self) -> bool {
        black_box(false)
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits { max_batch_rows: 64, max_delay: Duration::ZERO, max_requests: 1024, max_bytes: 1 << 30 }
}

fn waiting(now: Tick, bucket: u64) -> Waiting<Job> {
    let deadline = Some(now.after(SECOND));
    Waiting {
        rows: 1,
        bytes: 128,
        bucket,
        enqueued: now,
        deadline,
        priority: 0,
        favoured: false,
        item: Job,
    }
}

/// So many requests in and out again, in batches of their buckets.
fn queue(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue");
    for (requests, buckets) in [(1u64, 1), (32, 1), (32, 8), (1024, 64)] {
        let mut queue = Queue::new(QueueId(0), limits());
        let mut taken = Taken::default();
        let mut now = Tick(0);
        group.throughput(Throughput::Elements(requests));
        group.bench_function(format!("{requests} in {buckets} shapes"), |b| {
            b.iter(|| {
                now = now.after(Duration::from_micros(50));
                for i in 0..requests {
                    let pushed = queue.push(now, waiting(now, i % buckets), &mut taken.gone);
                    assert!(pushed.is_ok());
                }
                while let Poll::Run { rows } = queue.poll(Ask::new(now, 64), &mut taken) {
                    black_box(rows);
                    taken.members.clear();
                }
            });
        });
    }
}

/// One request in, chosen and finished, beside other models that are busy or idle.
fn schedule(c: &mut Criterion) {
    let mut group = c.benchmark_group("schedule");
    for (busy, idle) in [(0u64, 0u64), (8, 0), (8, 10_000), (1000, 10_000)] {
        let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
        let mut taken = Taken::default();
        let cost = Arc::new(CostModel::new());
        cost.seed(&[(1, Duration::from_micros(100)), (16, Duration::from_micros(400))], 100);
        for id in 0..=busy + idle {
            let config = QueueConfig {
                limits: limits(),
                batch: true,
                instances: 0,
                width: 1,
                weight: DEFAULT_WEIGHT,
                reserve: true,
                latency_target: None,
                standing: StandingDelay::Auto,
                cost: cost.clone(),
            };
            assert!(schedule.add(QueueId(id), config));
        }
        let now = Tick(0);
        let push = |schedule: &mut Schedule<Job>, id: QueueId, taken: &mut Taken<Job>| {
            assert!(schedule.push(id, now, waiting(now, 0), &mut taken.gone).is_ok());
        };
        for id in 1..=busy {
            push(&mut schedule, QueueId(id), &mut taken);
        }
        push(&mut schedule, QueueId(0), &mut taken);
        group.bench_function(format!("{busy} busy, {idle} idle"), |b| {
            b.iter(|| {
                let Next::Run(ticket) = schedule.next(now, Lane::Main, &mut taken) else {
                    panic!("nothing to run")
                };
                taken.members.clear();
                let id = ticket.id;
                schedule.finished(ticket, Duration::from_micros(100));
                push(&mut schedule, id, &mut taken);
            });
        });
    }
}

fn cost(c: &mut Criterion) {
    let model = CostModel::new();
    let us = Duration::from_micros;
    model.seed(&[(1, us(10)), (2, us(12)), (4, us(15)), (8, us(25)), (16, us(40))], 100);
    let mut group = c.benchmark_group("cost");
    group.bench_function("expect", |b| b.iter(|| model.expect(black_box(11))));
    group.bench_function("largest_within", |b| {
        b.iter(|| model.largest_within(black_box(us(33)), 64));
    });
    group.bench_function("observe", |b| b.iter(|| model.observe(black_box(4), 400, us(15))));
}

fn signature() -> Signature {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        datatype: Datatype::Fp32,
        dims: Some(vec![Dim::Symbol("N".into()), Dim::Any]),
        optional: false,
        labels: None,
    };
    Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], can_batch: true }
}

/// A row of so many floats, unaligned as the wire delivers it.
fn row(floats: usize) -> Tensor {
    let data = Bytes::from(vec![1u8; floats * 4 + 1]).slice(1..);
    Tensor { datatype: Datatype::Fp32, dims: Dims::from_slice(&[1, floats as i64]), data }
}

fn assemble(c: &mut Criterion) {
    let signature = signature();
    let mut group = c.benchmark_group("assemble");
    for (members, floats) in [(1usize, 32usize), (8, 32), (32, 32), (8, 150_528)] {
        let inputs: Vec<[Option<Tensor>; 1]> = (0..members).map(|_| [Some(row(floats))]).collect();
        let views: Vec<&[Option<Tensor>]> = inputs.iter().map(|i| &i[..]).collect();
        let mut scratch = Scratch::new();
        group.throughput(Throughput::Elements(members as u64));
        let id = format!("{members} of {floats} floats");
        group.bench_function(BenchmarkId::new("stack", &id), |b| {
            b.iter(|| {
                let stacked = scratch.stack(&signature, None, &views);
                black_box(stacked.map(|s| s.rows)).expect("the members fit together")
            });
        });
        let rows = vec![1usize; members];
        let whole = Tensor {
            dims: Dims::from_slice(&[members as i64, floats as i64]),
            data: Bytes::from(vec![1u8; members * floats * 4]),
            ..row(floats)
        };
        group.bench_function(BenchmarkId::new("split", &id), |b| {
            b.iter_batched(
                || -> Outputs { std::iter::once(whole.clone()).collect() },
                |outputs| {
                    split(outputs, &signature, &rows, |_, part| drop(black_box(part)))
                        .expect("the rows fit")
                },
                BatchSize::SmallInput,
            );
        });
    }
    let inputs = [Some(row(32)), None, Some(row(8))];
    group.bench_function("bucket_of", |b| b.iter(|| bucket_of(black_box(&inputs), true)));
}

criterion_group!(benches, queue, schedule, cost, assemble);
criterion_main!(benches);
