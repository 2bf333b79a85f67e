//! gzip and deflate in steps: each takes a little and gives a little, so that whoever drives it can look around in between.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::types::error::Error;

/// How bytes are coded on the wire. deflate is what HTTP and gRPC mean by it, zlib's framing: raw deflate, which some
/// clients send under that name, has no checksum, and what was damaged on its way would be served as data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    #[default]
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    /// The coding of that name.
    pub fn parse(name: &str) -> Option<Coding> {
        let known = [("identity", Coding::Identity), ("gzip", Coding::Gzip)];
        let known =
            known.into_iter().chain([("x-gzip", Coding::Gzip), ("deflate", Coding::Deflate)]);
        known.into_iter().find(|(n, _)| name.eq_ignore_ascii_case(n)).map(|(_, coding)| coding)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Coding::Identity => "identity",
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }
}

/// Base-2 logarithm of the window: 32 KiB, all that either format may use.
const WINDOW: u8 = 15;

/// Most members of one gzip body (tools that compress in blocks write many): each costs a little to begin.
const MAX_MEMBERS: usize = 1024;

/// Takes compressed bytes and gives what they were.
pub struct Inflate {
    coding: Coding,
    state: Decompress,
    members: usize,
    /// The last member is complete, its checksum right.
    ended: bool,
}

/// Bytes that a step took, and gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub taken: usize,
    pub given: usize,
}

impl Inflate {
    /// For gzip or deflate.
    pub fn new(coding: Coding) -> Inflate {
        Inflate { coding, state: decompress(coding), members: 1, ended: false }
    }

    /// Goes on with `input` as far as `output` has room. Neither taken nor given: it waits for more input.
    ///
    /// # Errors
    /// `InvalidArgument` for what is not of the coding, does not match its checksum, or follows its end.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Error> {
        if self.ended && !input.is_empty() {
            self.begin_member()?;
        }
        let before = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(input, output, FlushDecompress::None);
        let status = status.map_err(|_| self.broken("is damaged"))?;
        self.ended = status == Status::StreamEnd;
        let since = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
        Ok(Step {
            taken: since(self.state.total_in(), before.0),
            given: since(self.state.total_out(), before.1),
        })
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// `InvalidArgument` where the end has not come.
    pub fn finish(&self) -> Result<(), Error> {
        if self.ended {
            return Ok(());
        }
        Err(self.broken("ends too early"))
    }

    /// gzip may be several members, one behind the other.
    fn begin_member(&mut self) -> Result<(), Error> {
        if self.coding != Coding::Gzip {
            return Err(self.broken("goes on behind its end"));
        }
        if self.members == MAX_MEMBERS {
            return Err(self.broken("has too many members"));
        }
        self.members += 1;
        self.state = decompress(self.coding);
        Ok(())
    }

    #[cold]
    fn broken(&self, how: &str) -> Error {
        let framing = if self.coding == Coding::Deflate { " (zlib's framing)" } else { "" };
        Error::invalid(format!("the {}{framing} data {how}", self.coding.name()))
    }
}

fn decompress(coding: Coding) -> Decompress {
    match coding {
        Coding::Gzip => Decompress::new_gzip(WINDOW),
        _ => Decompress::new_with_window_bits(true, WINDOW),
    }
}

/// Compresses, at the fastest level: the time is the network thread's.
pub struct Deflate {
    state: Compress,
    ended: bool,
}

impl Deflate {
    /// For gzip or deflate.
    pub fn new(coding: Coding) -> Deflate {
        let state = match coding {
            Coding::Gzip => Compress::new_gzip(Compression::fast(), WINDOW),
            _ => Compress::new_with_window_bits(Compression::fast(), true, WINDOW),
        };
        Deflate { state, ended: false }
    }

    /// Takes `input`, the `last` or not, as far as the spare capacity of `output` has room. Done with it once all is
    /// taken (and, after the last, `ended`).
    ///
    /// # Errors
    /// `Internal`, where the compressor breaks.
    pub fn step(&mut self, input: &[u8], last: bool, output: &mut Vec<u8>) -> Result<usize, Error> {
        let flush = if last { FlushCompress::Finish } else { FlushCompress::None };
        let before = self.state.total_in();
        let status = self.state.compress_vec(input, output, flush);
        let status =
            status.map_err(|error| Error::internal(format!("an answer's compression: {error}")))?;
        self.ended = status == Status::StreamEnd;
        Ok(usize::try_from(self.state.total_in() - before).unwrap_or(usize::MAX))
    }

    /// The last byte has been written.
    pub fn ended(&self) -> bool {
        self.ended
    }
}
