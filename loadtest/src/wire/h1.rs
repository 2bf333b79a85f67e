//! Answers of HTTP/1.1, as their bytes come in.

/// Bytes of a head that are waited for, at most.
const LONGEST_HEAD: usize = 64 << 10;
/// Of the body of an error, at least so much is kept.
const OF_ERRORS: usize = 4 << 10;
const MOST_HEADERS: usize = 64;

/// One answer, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// As much of it as the reader keeps.
    pub body: Vec<u8>,
    /// Bytes of the body.
    pub bytes: u64,
    /// `Inference-Header-Content-Length`
    pub header_length: Option<usize>,
    /// The connection is of no more use.
    pub closes: bool,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garbled(pub &'static str);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    /// Bytes of the chunk that are left; 0: a chunk's head is next.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
    UntilClosed,
}

/// Reads one answer after the other from a connection.
#[derive(Debug)]
pub struct Reader {
    keep: usize,
    /// Of the answer that is being read: none before its head was whole.
    under_way: Option<(Answer, Body)>,
    /// The end of what was given and is not understood yet.
    held: Vec<u8>,
    /// Something of the next answer has come.
    begun: bool,
}

impl Reader {
    /// `keep`: how many bytes of a body are wanted.
    pub fn new(keep: usize) -> Reader {
        Reader { keep, under_way: None, held: Vec::new(), begun: false }
    }

    /// Whether part of an answer has come.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Takes what has come; gives an answer where one is whole by now. Further bytes are kept for the next call, which may give
    /// nothing.
    pub fn take(&mut self, new: &[u8]) -> Result<Option<Answer>, Garbled> {
        self.begun |= !new.is_empty();
        let mut held = std::mem::take(&mut self.held);
        let mut bytes = new;
        if !held.is_empty() {
            held.extend_from_slice(new);
            bytes = &held;
        }
        loop {
            let Some((answer, body)) = &mut self.under_way else {
                match head(bytes)? {
                    Some((length, found)) => {
                        bytes = &bytes[length..];
                        self.under_way = found;
                        continue;
                    }
                    None if bytes.len() > LONGEST_HEAD => {
                        return Err(Garbled("the head of an answer does not end"));
                    }
                    None => {
                        self.held = bytes.to_vec();
                        return Ok(None);
                    }
                }
            };
            let keep = if answer.status == 200 { self.keep } else { self.keep.max(OF_ERRORS) };
            let progress = step(answer, body, bytes, keep)?;
            bytes = &bytes[progress.taken..];
            if progress.whole {
                let answer = self.under_way.take().map(|(answer, _)| answer);
                self.held = bytes.to_vec();
                self.begun = !bytes.is_empty();
                return Ok(answer);
            }
            if progress.taken == 0 {
                self.held = bytes.to_vec();
                return Ok(None);
            }
        }
    }

    /// The server has closed: the answer that this ends, where it is one of those.
    pub fn closed(&mut self) -> Option<Answer> {
        match self.under_way.take() {
            Some((answer, Body::UntilClosed)) => Some(answer),
            _ => None,
        }
    }
}

type Found = Option<(Answer, Body)>;

/// The head at the front of `bytes`, and its length; none where it is not whole. A head that only precedes another one (a 1xx) is
/// found empty.
fn head(bytes: &[u8]) -> Result<Option<(usize, Found)>, Garbled> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Garbled("what came is no answer of HTTP/1.1")),
    };
    let status = parsed.code.unwrap_or(0);
    if (100..200).contains(&status) {
        return Ok(Some((length, None)));
    }
    let mut answer = Answer { status, closes: parsed.version == Some(0), ..Answer::default() };
    let mut body = if matches!(status, 204 | 304) { Body::Length(0) } else { Body::UntilClosed };
    for header in parsed.headers.iter() {
        let name = header.name;
        let text = std::str::from_utf8(header.value).unwrap_or("").trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = text.parse().map_err(|_| Garbled("a Content-Length is no number"))?;
            if !matches!(body, Body::Chunk(_)) {
                body = Body::Length(length);
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !text.eq_ignore_ascii_case("chunked") {
                return Err(Garbled("a Transfer-Encoding is not chunked"));
            }
            body = Body::Chunk(0);
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes |= text.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("inference-header-content-length") {
            answer.header_length = text.parse().ok();
        }
    }
    answer.closes |= body == Body::UntilClosed;
    Ok(Some((length, Some((answer, body)))))
}

struct Progress {
    taken: usize,
    whole: bool,
}

/// One step through a body.
fn step(
    answer: &mut Answer,
    body: &mut Body,
    bytes: &[u8],
    keep: usize,
) -> Result<Progress, Garbled> {
    let some = |left: u64, answer: &mut Answer| {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        answer.bytes += taken as u64;
        let kept = taken.min(keep.saturating_sub(answer.body.len()));
        answer.body.extend_from_slice(&bytes[..kept]);
        taken
    };
    let on = |taken| Ok(Progress { taken, whole: false });
    match *body {
        Body::Length(left) => {
            let taken = some(left, answer);
            *body = Body::Length(left - taken as u64);
            Ok(Progress { taken, whole: left == taken as u64 })
        }
        Body::UntilClosed => on(some(u64::MAX, answer)),
        Body::Chunk(0) => {
            let Some((length, line)) = line(bytes)? else { return on(0) };
            let size = line.split(|b| *b == b';').next().unwrap_or(line).trim_ascii();
            let size = std::str::from_utf8(size).ok().filter(|size| size.len() <= 15);
            let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
            *body = match size.ok_or(Garbled("the size of a chunk is no number"))? {
                0 => Body::Trailers,
                size => Body::Chunk(size),
            };
            on(length)
        }
        Body::Chunk(left) => {
            let taken = some(left, answer);
            *body = if left == taken as u64 {
                Body::ChunkEnd
            } else {
                Body::Chunk(left - taken as u64)
            };
            on(taken)
        }
        Body::ChunkEnd => {
            let Some((length, line)) = line(bytes)? else { return on(0) };
            if !line.is_empty() {
                return Err(Garbled("a chunk is longer than it says"));
            }
            *body = Body::Chunk(0);
            on(length)
        }
        Body::Trailers => match line(bytes)? {
            Some((taken, line)) => Ok(Progress { taken, whole: line.is_empty() }),
            None => on(0),
        },
    }
}

/// The line at the front of `bytes` and its length with its end; none where it is not whole.
fn line(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Garbled> {
    const LONGEST: usize = 8 << 10;
    match bytes.iter().take(LONGEST).position(|b| *b == b'\n') {
        Some(at) => {
            let line = bytes[..at].strip_suffix(b"\r").unwrap_or(&bytes[..at]);
            Ok(Some((at + 1, line)))
        }
        None if bytes.len() >= LONGEST => Err(Garbled("a line of an answer does not end")),
        None => Ok(None),
    }
}

#[cfg(test)]
#[path = "h1_tests.rs"]
mod tests;
