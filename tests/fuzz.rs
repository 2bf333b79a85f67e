//! The fuzzers' targets as plain tests: each one's corpus, and a bounded run over seeded mutations of it, held to memory too.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::{Duration, Instant},
};

/// How long a target's random run lasts, or until it has seen `RUNS` inputs.
const LENGTH: Duration = Duration::from_secs(3);
const RUNS: usize = 200_000;
/// Bytes of memory for each byte that came in: what the shortest text of the widest element (`0,` of FP64) and the smallest
/// field of a message (two bytes) make, with what a growing list holds twice.
const FACTOR: usize = 64;
/// And beside them: messages, the windows of compressors.
const BESIDE: usize = 1 << 20;

/// Counts what each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has none of them any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call goes to mimalloc unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn grpc() {
    run("grpc");
}

#[test]
fn json() {
    run("json");
}

#[test]
fn binary() {
    run("binary");
}

#[test]
fn pbtxt() {
    run("pbtxt");
}

#[test]
fn tfs() {
    run("tfs");
}

#[test]
fn graph() {
    run("graph");
}

#[test]
fn yaml() {
    run("yaml");
}

#[test]
fn path() {
    run("path");
}

#[test]
fn flate() {
    run("flate");
}

#[test]
fn head() {
    run("head");
}

#[test]
fn every_target_has_a_corpus_and_a_fuzzer() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("the fuzzers' manifest");
    for (name, _) in targets::TARGETS {
        assert!(!corpus(name).is_empty(), "{name}");
        assert!(fuzz.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
    let dirs = fs::read_dir(fuzz.join("corpus")).expect("the corpora").count();
    assert_eq!(dirs, targets::TARGETS.len(), "a corpus without a target");
}

/// The corpus as it is, then mutations of it; the same ones on every machine, as many as the time allows.
fn run(name: &str) {
    let (_, target) = *targets::TARGETS.iter().find(|t| t.0 == name).expect("a target");
    let corpus = corpus(name);
    for input in &corpus {
        call(name, target, input);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let end = Instant::now() + LENGTH;
    for _ in 0..RUNS {
        if Instant::now() > end {
            break;
        }
        call(name, target, &random.mutation(&corpus));
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// One input: no panic, and no more memory than its size makes reasonable.
fn call(name: &str, target: fn(&[u8]), input: &[u8]) {
    let before = HELD.get();
    MOST.set(before);
    let done = catch_unwind(AssertUnwindSafe(|| target(input)));
    let most = (MOST.get() - before).cast_unsigned();
    let shown = || input.escape_ascii();
    assert!(done.is_ok(), "{name} panics on b\"{}\"", shown());
    assert!(
        most <= FACTOR * input.len() + BESIDE,
        "{name} takes {most} bytes for {} of b\"{}\"",
        input.len(),
        shown()
    );
}

/// xorshift64.
struct Random(u64);

/// What breaks decoders: lengths, counts and ends.
const TOKENS: [&[u8]; 28] = [
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x80",
    b"\0",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"1e999",
    b"-0",
    b"1.5",
    b"NaN",
    b"null",
    b"true",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"\\ud800",
    b"\\u0000",
    b",",
    b":",
    b"%",
    b"%2e%2e%2f",
    b"\xef\xbb\xbf",
    b"\n",
];

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn mutation(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = at + self.below((input.len() - at).min(64) + 1);
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 if at < input.len() => {
                input[at] = input[at].wrapping_add(self.below(3) as u8).wrapping_sub(1)
            }
            3 => drop(input.drain(at..end)),
            4 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            5 => input.truncate(at),
            6 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let to = from + self.below((other.len() - from).min(64) + 1);
                input.splice(at..end, other[from..to].iter().copied());
            }
            7 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..end, token.iter().copied());
            }
        }
    }
}
