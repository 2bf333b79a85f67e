//! The schedule in virtual time: executors and callers simulated, shares, waits and bookkeeping checked.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batcher::{cost::CostModel, options::StandingDelay, queue::Limits};

#[derive(Clone)]
struct Job {
    id: usize,
}

impl Abandoned for Job {
    fn abandoned(&self) -> bool {
        false
    }
}

const fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

const fn ms(n: u64) -> Duration {
    us(n * 1000)
}

fn config(cost: Option<Duration>) -> QueueConfig {
    let model = CostModel::new();
    if let Some(cost) = cost {
        model.seed(&[(1, cost)], 100);
    }
    QueueConfig {
        limits: Limits {
            max_batch_rows: 1,
            max_delay: Duration::ZERO,
            max_requests: 1000,
            max_bytes: 1 << 20,
        },
        batch: false,
        instances: 0,
        width: 1,
        weight: DEFAULT_WEIGHT,
        reserve: true,
        latency_target: None,
        standing: StandingDelay::Auto,
        cost: Arc::new(model),
    }
}

fn job(id: usize, now: Tick) -> Waiting<Job> {
    Waiting {
        rows: 1,
        bytes: 1,
        bucket: 0,
        enqueued: now,
        deadline: None,
        priority: 0,
        favoured: false,
        item: Job { id },
    }
}

/// One model under load: `callers` that send the next request `think` after an answer.
struct Load {
    config: QueueConfig,
    /// What a run of one row really takes; rows cost alike.
    run: Duration,
    callers: usize,
    think: Duration,
}

impl Load {
    fn new(run: Duration, callers: usize) -> Load {
        Load { config: config(None), run, callers, think: Duration::ZERO }
    }
}

#[derive(Default, Clone)]
struct Seen {
    time: Duration,
    runs: usize,
    waits: Vec<Duration>,
    most_running: usize,
}

/// A run under way: when it ends, whose it is, how long it took.
type Under = (Tick, usize, Ticket, Duration, usize);

/// Runs the loads on executors of these lanes until `end`. With `shared`, runs slow each other down as on that many
/// cores (by the number of executors that are busy when a run starts).
fn simulate(loads: Vec<Load>, lanes: &[Lane], shared: usize, end: Duration) -> Vec<Seen> {
    let main = lanes.iter().filter(|lane| **lane == MAIN).count();
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main, reserve: None });
    let mut seen = vec![Seen::default(); loads.len()];
    let mut arrivals: Vec<(Tick, usize)> = Vec::new();
    for (i, load) in loads.iter().enumerate() {
        assert!(schedule.add(QueueId(i as u64), load.config.clone()));
        arrivals.extend((0..load.callers).map(|_| (Tick(0), i)));
    }
    let mut executors: Vec<Option<Under>> = lanes.iter().map(|_| None).collect();
    let mut taken = Taken::default();
    let mut now = Tick(0);
    while now.since(Tick(0)) < end {
        for executor in &mut executors {
            if let Some((_, i, ticket, took, members)) = executor.take_if(|run| run.0 <= now) {
                loads[i].config.cost.observe(ticket.rows, ticket.rows * 100, took);
                schedule.finished(ticket, took);
                seen[i].time += took;
                arrivals.extend((0..members).map(|_| (now.after(loads[i].think), i)));
            }
        }
        let due: Vec<usize> = arrivals.iter().filter(|a| a.0 <= now).map(|a| a.1).collect();
        arrivals.retain(|a| a.0 > now);
        for i in due {
            schedule.push(QueueId(i as u64), now, job(i, now), &mut taken.gone).ok().unwrap();
        }
        for (at, lane) in lanes.iter().enumerate() {
            if executors[at].is_some() {
                continue;
            }
            if let Next::Run(ticket) = schedule.next(now, *lane, &mut taken) {
                let i = taken.members[0].item.id;
                assert_eq!(ticket.id, QueueId(i as u64));
                let busy = 1 + executors.iter().flatten().count();
                let took = loads[i].run * busy.max(shared) as u32 / shared as u32;
                seen[i].runs += 1;
                let members = taken.members.len();
                seen[i].waits.extend(taken.members.drain(..).map(|w| now.since(w.enqueued)));
                executors[at] = Some((now.after(took), i, ticket, took, members));
                let running = executors.iter().flatten().filter(|run| run.1 == i).count();
                seen[i].most_running = seen[i].most_running.max(running);
            }
        }
        let width = |i: usize| loads[i].config.width.clamp(1, main);
        let on_main = executors.iter().zip(lanes).filter(|(_, lane)| **lane == MAIN);
        let held: usize = on_main.filter_map(|(run, _)| run.as_ref()).map(|run| width(run.1)).sum();
        assert!(held <= main, "{held} threads run on {main} executors");
        let ends = executors.iter().flatten().map(|run| run.0);
        now = ends.chain(arrivals.iter().map(|a| a.0)).min().expect("somebody is at it");
    }
    seen
}

const MAIN: Lane = Lane::Main;
const RESERVE: Lane = Lane::Reserve { limit: ms(5) };

#[test]
fn a_wide_run_waits_for_the_executors_that_it_holds() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
    let (narrow, wide) = (QueueId(0), QueueId(1));
    schedule.add(narrow, config(Some(ms(1))));
    schedule.add(wide, QueueConfig { width: 8, ..config(Some(ms(1))) });
    let mut taken = Taken::default();
    let mut next = |schedule: &mut Schedule<Job>, lane| {
        let next = schedule.next(Tick(0), lane, &mut taken);
        taken.members.clear();
        next
    };
    let push = |schedule: &mut Schedule<Job>, id: QueueId| {
        let job = job(id.0 as usize, Tick(0));
        schedule.push(id, Tick(0), job, &mut Vec::new()).ok().unwrap()
    };
    assert!(push(&mut schedule, narrow).runnable);
    let Next::Run(first) = next(&mut schedule, MAIN) else { panic!("it runs") };
    assert!(!push(&mut schedule, wide).runnable, "it needs both executors");
    assert_eq!(next(&mut schedule, MAIN), Next::Idle);
    assert_eq!(next(&mut schedule, RESERVE), Next::Idle, "no run of several threads");
    push(&mut schedule, narrow);
    assert_eq!(next(&mut schedule, MAIN), Next::Idle, "the wide one is next, and not overtaken");
    schedule.finished(first, ms(1));
    let Next::Run(both) = next(&mut schedule, MAIN) else { panic!("it runs") };
    assert_eq!(both.id, wide);
    assert!(!push(&mut schedule, narrow).runnable);
    assert_eq!(next(&mut schedule, MAIN), Next::Idle, "the wide run holds both");
    // What is removed while it runs gives back what it held.
    schedule.remove(wide);
    schedule.finished(both, ms(1));
    assert!(matches!(next(&mut schedule, MAIN), Next::Run(ticket) if ticket.id == narrow));
}

#[test]
fn while_every_executor_is_busy_the_reserve_is_woken_for_what_is_short() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: Some(ms(5)) });
    let (long, short) = (QueueId(0), QueueId(1));
    schedule.add(long, config(Some(ms(1000))));
    schedule.add(short, config(Some(ms(1))));
    let push = |schedule: &mut Schedule<Job>, id: QueueId| {
        let job = job(id.0 as usize, Tick(0));
        schedule.push(id, Tick(0), job, &mut Vec::new()).ok().unwrap()
    };
    assert!(push(&mut schedule, long).runnable);
    let mut taken = Taken::default();
    let Next::Run(_) = schedule.next(Tick(0), MAIN, &mut taken) else { panic!("it runs") };
    assert!(schedule.full());
    let pushed = push(&mut schedule, short);
    assert!(!pushed.runnable && pushed.least.is_some_and(|least| least <= ms(5)), "{pushed:?}");
    taken.members.clear();
    let next = schedule.next(Tick(0), RESERVE, &mut taken);
    assert!(matches!(&next, Next::Run(ticket) if ticket.id == short), "{next:?}");
}

#[test]
fn a_long_model_leaves_a_small_one_its_milliseconds() {
    let loads = || {
        let long = Load::new(ms(500), 16);
        let small = Load { config: config(Some(ms(1))), think: ms(9), ..Load::new(ms(1), 4) };
        vec![long, small]
    };
    let seen = simulate(loads(), &[MAIN, MAIN, RESERVE], 2, Duration::from_secs(60));
    let worst = seen[1].waits.iter().max().unwrap();
    assert!(*worst < ms(100), "{worst:?}");
    assert!(seen[1].runs > 10_000, "{}", seen[1].runs);
    assert!(seen[0].runs > 100, "the long one goes on: {}", seen[0].runs);
    // That it takes the reserve: without, the small one waits for a long run to end.
    let seen = simulate(loads(), &[MAIN, MAIN], 2, Duration::from_secs(60));
    assert!(*seen[1].waits.iter().max().unwrap() > ms(200));
}

#[test]
fn the_reserve_is_shared_while_long_runs_hold_the_others() {
    let small = || Load { config: config(Some(ms(2))), ..Load::new(ms(2), 3) };
    let loads = vec![Load::new(ms(800), 16), small(), small(), small()];
    let seen = simulate(loads, &[MAIN, RESERVE], 2, Duration::from_secs(30));
    for s in &seen[1..] {
        assert!(*s.waits.iter().max().unwrap() < ms(100), "{:?}", s.waits.iter().max());
        assert!(s.runs > 2000, "{}", s.runs);
    }
}

#[test]
fn weights_divide_the_time() {
    let heavy = QueueConfig { weight: 3 * DEFAULT_WEIGHT, ..config(None) };
    let loads = vec![Load { config: heavy, ..Load::new(ms(5), 8) }, Load::new(ms(2), 8)];
    let seen = simulate(loads, &[MAIN], 1, Duration::from_secs(30));
    let ratio = seen[0].time.as_secs_f64() / seen[1].time.as_secs_f64();
    assert!((2.8..3.2).contains(&ratio), "{ratio}");
}

#[test]
fn a_queue_gets_no_credit_for_being_idle() {
    // The second comes after ten seconds of the first alone; it must not then run alone for ten.
    let late = Load { think: ms(3), ..Load::new(ms(10), 4) };
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: None });
    let mut taken = Taken::default();
    schedule.add(QueueId(0), late.config.clone());
    schedule.add(QueueId(1), late.config);
    let mut run = |queues: &[u64], rounds: u64| -> Vec<QueueId> {
        let mut ids = Vec::new();
        for _ in 0..rounds {
            for &q in queues {
                schedule.push(QueueId(q), Tick(0), job(0, Tick(0)), &mut taken.gone).ok().unwrap();
            }
            if let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) {
                taken.members.clear();
                ids.push(ticket.id);
                schedule.finished(ticket, ms(10));
            }
        }
        ids
    };
    run(&[0, 0], 400);
    let ids = run(&[0, 1], 200);
    let first = ids.iter().filter(|id| **id == QueueId(0)).count();
    assert!((90..=101).contains(&first), "{first}");
}

#[test]
fn what_a_run_really_took_is_what_counts() {
    // Nobody corrects the cost model here: a millisecond is expected of both, and one takes ten.
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: None });
    let mut taken = Taken::default();
    for q in [0, 1] {
        schedule.add(QueueId(q), config(Some(ms(1))));
        for _ in 0..900 {
            schedule.push(QueueId(q), Tick(0), job(0, Tick(0)), &mut taken.gone).ok().unwrap();
        }
    }
    let mut runs = [0, 0];
    for _ in 0..770 {
        let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) else { panic!("idle") };
        taken.members.clear();
        let q = ticket.id.0 as usize;
        runs[q] += 1;
        schedule.finished(ticket, ms([10, 1][q]));
    }
    assert!((69..=71).contains(&runs[0]), "{runs:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn equal_weights_get_equal_time(
        a in 100u64..20_000, b in 100u64..20_000, executors in 1usize..4, seeded in any::<bool>(),
    ) {
        let load = |run: u64| {
            let wrong = seeded.then_some(ms(3)); // the probe may have been wrong
            Load { config: config(wrong), ..Load::new(us(run), 12) }
        };
        let lanes = vec![MAIN; executors];
        let seen = simulate(vec![load(a), load(b)], &lanes, executors, Duration::from_secs(20));
        let ratio = seen[0].time.as_secs_f64() / seen[1].time.as_secs_f64();
        prop_assert!((0.93..1.07).contains(&ratio), "{} to {}: {ratio}", a, b);
    }

    #[test]
    fn nobody_starves_and_caps_hold(
        models in prop::collection::vec((50u64..30_000, 1usize..6, 0usize..3, 1u32..4, 0u64..5000), 2..8),
        executors in 1usize..4,
        reserve in any::<bool>(),
    ) {
        let loads: Vec<Load> = models.iter().map(|&(run, callers, instances, weight, think)| Load {
            config: QueueConfig { instances, weight: weight * DEFAULT_WEIGHT, ..config(None) },
            run: us(run),
            callers,
            think: us(think),
        }).collect();
        let mut lanes = vec![MAIN; executors];
        lanes.extend(reserve.then_some(RESERVE));
        let seen = simulate(loads, &lanes, executors, Duration::from_secs(10));
        // A round: everybody's weight over the least, times the longest run, for each request ahead in its own queue.
        let longest = models.iter().map(|m| m.0).max().unwrap_or(0);
        let weights: u32 = models.iter().map(|m| m.3).sum();
        for (s, &(run, callers, instances, weight, _)) in seen.iter().zip(&models) {
            prop_assert!(s.runs > 0);
            prop_assert!(instances == 0 || s.most_running <= instances);
            let round = us(longest) * 3 + us(run) * weights / weight;
            let bound = round * callers as u32 * 2 + ms(100);
            let worst = *s.waits.iter().max().unwrap();
            prop_assert!(worst <= bound, "{worst:?} of {bound:?}");
        }
    }

    /// `simulate` holds the budget at every step; here, that nobody is kept out by it, however narrow or wide.
    #[test]
    fn runs_of_several_threads_get_their_turn_within_the_budget(
        models in prop::collection::vec((50u64..30_000, 1usize..6, 1usize..6, 0usize..5, 0u64..5000), 2..8),
        executors in 1usize..5,
        reserve in any::<bool>(),
    ) {
        let loads: Vec<Load> = models.iter().map(|&(run, callers, width, instances, think)| Load {
            config: QueueConfig { width, instances, ..config(None) },
            run: us(run),
            callers,
            think: us(think),
        }).collect();
        let mut lanes = vec![MAIN; executors];
        lanes.extend(reserve.then_some(RESERVE));
        let seen = simulate(loads, &lanes, executors, Duration::from_secs(10));
        let longest = models.iter().map(|m| m.0).max().unwrap_or(0);
        for (s, &(run, callers, width, instances, _)) in seen.iter().zip(&models) {
            prop_assert!(s.runs > 0);
            let width = width.min(executors);
            prop_assert!(instances == 0 || s.most_running <= (instances / width).max(1));
            prop_assert!(width == 1 || s.most_running <= executors / width, "nor by the reserve");
            let round = us(longest) * 4 + us(run) * (width * models.len()) as u32;
            let bound = round * callers as u32 * 2 + ms(100);
            let worst = *s.waits.iter().max().unwrap();
            prop_assert!(worst <= bound, "{worst:?} of {bound:?}");
        }
    }

    #[test]
    fn nothing_is_lost_or_run_twice(
        steps in prop::collection::vec((0u8..8, 0u64..5, 1usize..4, prop::option::of(1u64..400)), 1..200)
    ) {
        let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
        let mut taken = Taken::default();
        let mut tickets = Vec::new();
        let (mut now, mut pushed, mut ended) = (Tick(0), 0usize, Vec::new());
        for (what, q, rows, deadline) in steps {
            let id = QueueId(q);
            match what {
                0..=2 => {
                    let deadline = deadline.map(|d| now.after(us(d)));
                    let entry = Waiting { rows, deadline, bucket: q % 2, ..job(pushed, now) };
                    pushed += 1;
                    if let Err((_, job)) = schedule.push(id, now, entry, &mut taken.gone) {
                        ended.push(job.id);
                    }
                }
                3 => {
                    let mut c = config(Some(us(50)));
                    (c.limits.max_batch_rows, c.batch, c.instances) = (4, true, 1 + q as usize % 2);
                    c.limits.max_delay = us(q * 20);
                    c.limits.max_requests = 8;
                    schedule.add(id, c);
                }
                4 => {
                    let lane = if rows == 1 { Lane::Reserve { limit: us(120) } } else { MAIN };
                    let next = schedule.next(now, lane, &mut taken);
                    prop_assert_eq!(matches!(next, Next::Run(_)), !taken.members.is_empty());
                    match next {
                        Next::Run(ticket) => tickets.push(ticket),
                        Next::WaitUntil(until) => prop_assert!(until > now),
                        Next::Idle => {}
                    }
                    ended.extend(taken.members.drain(..).map(|w| w.item.id));
                }
                5 => if let Some(ticket) = tickets.pop() { schedule.finished(ticket, us(rows as u64 * 40)) },
                6 if rows == 1 => ended.extend(schedule.remove(id).into_iter().map(|j| j.id)),
                6 if rows == 2 => schedule.close(id),
                6 => schedule.expire(now, &mut taken.gone),
                _ => now = now.after(us(deadline.unwrap_or(5))),
            }
            ended.extend(taken.gone.drain(..).map(|g| g.item.id));
            let loads: Vec<_> = (0..5).filter_map(|q| schedule.load(QueueId(q))).collect();
            prop_assert_eq!(schedule.active(), loads.iter().filter(|l| l.0 > 0).count());
            prop_assert!(loads.iter().all(|l| l.2 <= 2));
            if let Some(deadline) = schedule.next_deadline() {
                schedule.expire(deadline, &mut taken.gone);
                prop_assert!(!taken.gone.is_empty());
                prop_assert!(schedule.next_deadline().is_none_or(|d| d > deadline));
                ended.extend(taken.gone.drain(..).map(|g| g.item.id));
            }
        }
        for q in 0..5 {
            ended.extend(schedule.remove(QueueId(q)).into_iter().map(|j| j.id));
        }
        prop_assert_eq!(schedule.active(), 0);
        ended.sort_unstable();
        prop_assert_eq!(ended, (0..pushed).collect::<Vec<_>>());
    }
}

#[test]
fn hopeless_work_is_refused_with_the_estimate() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
    let mut gone = Vec::new();
    let id = QueueId(0);
    schedule.add(id, config(Some(ms(10))));
    let push = |schedule: &mut Schedule<Job>, now: Tick, within: Duration| {
        let entry = Waiting { deadline: Some(now.after(within)), ..job(0, now) };
        schedule.push(id, now, entry, &mut Vec::new()).map_err(|(refusal, _)| refusal)
    };
    for _ in 0..10 {
        schedule.push(id, Tick(0), job(0, Tick(0)), &mut gone).ok().unwrap();
    }
    // Ten runs on two executors and its own: 60 ms.
    let late = push(&mut schedule, Tick(0), ms(59)).unwrap_err();
    assert_eq!(late, Refusal::Late { estimate: ms(60), left: ms(59) });
    push(&mut schedule, Tick(0), ms(61)).unwrap();

    // Another queue gets as much as this one meanwhile, and no more than it has.
    schedule.add(QueueId(1), config(Some(ms(1000))));
    schedule.push(QueueId(1), Tick(0), job(1, Tick(0)), &mut gone).ok().unwrap();
    let miss = schedule.would_miss(id, Tick(0), Tick(0), 1, 0);
    assert_eq!(miss, Some(ms(11 * 10 + 11 * 10) / 2 + ms(10)));
    // Of higher priority: all that it has.
    let entry = Waiting { priority: 1, ..job(1, Tick(0)) };
    schedule.push(QueueId(1), Tick(0), entry, &mut gone).ok().unwrap();
    let miss = schedule.would_miss(id, Tick(0), Tick(0), 1, 0);
    assert_eq!(miss, Some(ms(11 * 10 + 2000) / 2 + ms(10)));
    // Nothing is known of a model that never ran: nothing is refused.
    schedule.add(QueueId(2), config(None));
    assert_eq!(schedule.would_miss(QueueId(2), Tick(0), Tick(0), 1, 0), None);
}

#[test]
fn an_idle_model_tries_now_and_then_what_its_cost_would_refuse() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
    let mut taken = Taken::default();
    let id = QueueId(0);
    let slow = config(Some(ms(500)));
    schedule.add(id, slow.clone());
    let mut tries = 0;
    for i in 0..30 {
        let now = Tick(0).after(ms(100) * i);
        let entry = Waiting { deadline: Some(now.after(ms(20))), ..job(0, now) };
        if schedule.push(id, now, entry, &mut taken.gone).is_ok() {
            tries += 1;
            let Next::Run(ticket) = schedule.next(now, MAIN, &mut taken) else { panic!("idle") };
            taken.members.clear();
            schedule.finished(ticket, ms(500));
        }
    }
    assert_eq!(tries, 3, "one a second");
    for _ in 0..40 {
        slow.cost.observe(1, 100, ms(5));
    }
    let entry = Waiting { deadline: Some(Tick(20_000_000)), ..job(0, Tick(0)) };
    assert!(schedule.push(id, Tick(0), entry, &mut taken.gone).is_ok());
}

#[test]
fn the_reserve_takes_short_runs_only() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 3, reserve: None });
    let mut taken = Taken::default();
    for (q, cost) in [(0, None), (1, Some(ms(50))), (2, Some(ms(1)))] {
        let mut c = config(cost);
        (c.batch, c.limits.max_batch_rows) = (true, 64);
        schedule.add(QueueId(q), c);
    }
    for q in [0, 1] {
        let pushed = schedule.push(QueueId(q), Tick(0), job(0, Tick(0)), &mut taken.gone);
        assert!(pushed.ok().unwrap().runnable);
        assert_eq!(schedule.next(Tick(0), RESERVE, &mut taken), Next::Idle);
    }
    // A request of 40 rows would take 50 ms.
    let big = Waiting { rows: 40, ..job(0, Tick(0)) };
    schedule.push(QueueId(2), Tick(0), big, &mut taken.gone).ok().unwrap();
    assert_eq!(schedule.next(Tick(0), RESERVE, &mut taken), Next::Idle);
    while let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) {
        taken.members.clear();
        schedule.finished(ticket, ms(1));
    }
    for _ in 0..10 {
        schedule.push(QueueId(2), Tick(0), job(0, Tick(0)), &mut taken.gone).ok().unwrap();
    }
    // 1.25 ms a row with its margin: four in five.
    let Next::Run(ticket) = schedule.next(Tick(0), RESERVE, &mut taken) else { panic!("idle") };
    assert_eq!((ticket.id, ticket.rows, taken.members.len()), (QueueId(2), 4, 4));
}

#[test]
fn priority_goes_before_fairness_and_a_latency_target_bounds_the_batch() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: None });
    let mut taken = Taken::default();
    let mut c = config(Some(ms(2)));
    (c.batch, c.limits.max_batch_rows, c.latency_target) = (true, 64, Some(ms(12)));
    schedule.add(QueueId(0), c);
    schedule.add(QueueId(1), config(Some(ms(2))));
    for _ in 0..10 {
        schedule.push(QueueId(0), Tick(0), job(0, Tick(0)), &mut taken.gone).ok().unwrap();
        let entry = Waiting { priority: 1, ..job(1, Tick(0)) };
        schedule.push(QueueId(1), Tick(0), entry, &mut taken.gone).ok().unwrap();
    }
    let mut runs = Vec::new();
    while let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) {
        runs.push((ticket.id.0, taken.members.drain(..).count()));
        schedule.finished(ticket, ms(2));
    }
    // 2.5 ms a row with its margin: four in twelve.
    // The eighth goes to who is behind, whatever its priority.
    assert_eq!(runs[..7], [(1, 1); 7]);
    assert_eq!(runs[7..11], [(0, 4), (1, 1), (1, 1), (1, 1)]);
    assert_eq!(runs[11..], [(0, 4), (0, 2)]);
}

#[test]
fn the_reserve_leaves_what_a_request_may_make_long() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 2, reserve: None });
    let mut taken = Taken::default();
    let reserve = Lane::Reserve { limit: ms(5) };
    schedule.add(QueueId(0), QueueConfig { reserve: false, ..config(Some(us(10))) });
    schedule.add(QueueId(1), config(Some(us(10))));
    let pushed = schedule.push(QueueId(0), Tick(0), job(0, Tick(0)), &mut taken.gone);
    assert_eq!(pushed.ok().unwrap(), Pushed { runnable: true, least: None });
    assert_eq!(schedule.next(Tick(0), reserve, &mut taken), Next::Idle);
    schedule.push(QueueId(1), Tick(0), job(1, Tick(0)), &mut taken.gone).ok().unwrap();
    let Next::Run(ticket) = schedule.next(Tick(0), reserve, &mut taken) else { panic!("idle") };
    assert_eq!(ticket.id, QueueId(1));
    taken.members.clear();
    let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) else { panic!("idle") };
    assert_eq!(ticket.id, QueueId(0));
}

#[test]
fn ten_thousand_idle_models_are_not_looked_at() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: None });
    let mut taken = Taken::default();
    for q in 0..10_000 {
        schedule.add(QueueId(q), config(None));
    }
    schedule.push(QueueId(777), Tick(0), job(777, Tick(0)), &mut taken.gone).ok().unwrap();
    assert_eq!(schedule.active(), 1);
    let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) else { panic!("idle") };
    assert_eq!((ticket.id, schedule.active()), (QueueId(777), 0));
    assert!(schedule.remove(QueueId(777)).is_empty());
    schedule.finished(ticket, ms(1)); // of a queue that is gone: nothing happens
    let refused = schedule.push(QueueId(777), Tick(0), job(0, Tick(0)), &mut taken.gone);
    assert_eq!(refused.err().unwrap().0, Refusal::Closed);
}

#[test]
fn the_reserve_leaves_rows_that_are_longer_than_any_that_ran() {
    let mut schedule: Schedule<Job> = Schedule::new(Lanes { main: 1, reserve: Some(ms(5)) });
    let mut taken = Taken::default();
    let dynamic = config(Some(ms(1))); // measured with rows of 100 bytes
    schedule.add(QueueId(0), dynamic.clone());
    let long = Waiting { bytes: 100_000, ..job(0, Tick(0)) };
    schedule.push(QueueId(0), Tick(0), long.clone(), &mut taken.gone).ok().unwrap();
    assert_eq!(schedule.next(Tick(0), RESERVE, &mut taken), Next::Idle);
    let Next::Run(ticket) = schedule.next(Tick(0), MAIN, &mut taken) else { panic!("idle") };
    taken.members.clear();
    schedule.finished(ticket, ms(1));
    // It turned out to be short: the reserve may have the next.
    dynamic.cost.observe(1, 100_000, ms(1));
    schedule.push(QueueId(0), Tick(0), long, &mut taken.gone).ok().unwrap();
    assert!(matches!(schedule.next(Tick(0), RESERVE, &mut taken), Next::Run(_)));
}
