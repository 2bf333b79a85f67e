//! Reading Rust well enough to hold it to rules: what is code, what is live, where items end and who is named.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Made by a generator, not by hand.
const GENERATED: &str = "src/api/generated/";

/// One Rust file.
pub struct Source {
    /// From the project's root, as in `src/api/fast.rs`.
    pub path: String,
    pub text: String,
    /// `text` with comments and the insides of literals blanked: same lines, same columns.
    pub code: String,
    /// `code` without what only tests see.
    pub live: String,
}

impl Source {
    /// The path within `src/`; empty for files elsewhere.
    pub fn in_src(&self) -> &str {
        self.path.strip_prefix("src/").unwrap_or("")
    }

    pub fn room(&self) -> &str {
        self.in_src().split('/').next().unwrap_or("").trim_end_matches(".rs")
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files of the tree below `dir`, without what git ignores.
pub fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type().expect("a file type");
        if name == "target" || name == ".git" || name.starts_with('_') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

pub fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned()
}

/// Every hand-written Rust file of the project.
pub fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for dir in ["src", "tests", "benches", "loadtest", "offline", "fuzz"] {
        if root().join(dir).is_dir() {
            walk(&root().join(dir), &mut paths);
        }
    }
    let mut sources: Vec<Source> = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| (relative(path), fs::read_to_string(path).expect("text")))
        .filter(|(path, _)| !path.starts_with(GENERATED))
        .map(|(path, text)| {
            let code = mask(&text);
            let live = without_tests(&code);
            Source { path, text, code, live }
        })
        .collect();
    let tests = test_files(&sources);
    for source in sources.iter_mut().filter(|s| is_test(&tests, &s.path)) {
        source.live.clear();
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn is_test(tests: &BTreeSet<String>, path: &str) -> bool {
    let inside = tests.iter().any(|t| t.ends_with('/') && path.starts_with(t.as_str()));
    !path.starts_with("src/") || inside || tests.contains(path)
}

/// Blanks comments and the insides of strings and character literals, line by line in place.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !word_before(bytes, at) || bytes[at - 1] == b'b' => raw_end(bytes, at),
            b'\'' => char_end(bytes, at),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole characters are blanked")
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n)
}

fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(bytes.len())
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of `r"…"` or `r#"…"#`; `at` itself where none begins.
fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return at;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let start = at + 2 + hashes;
    let end = bytes[start..].windows(close.len()).position(|w| w == close);
    end.map_or(bytes.len(), |n| start + n + close.len())
}

/// The end of a character literal; `at` itself for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return bytes[at + 3..].iter().position(|b| *b == b'\'').map_or(at, |n| at + 4 + n);
    }
    let literal = std::str::from_utf8(&bytes[at + 1..]).ok().and_then(|rest| {
        let first = rest.chars().next()?.len_utf8();
        (rest.as_bytes().get(first) == Some(&b'\'')).then_some(at + 2 + first)
    });
    literal.unwrap_or(at)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub fn word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

/// The place after the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Where the item that begins at `from` (attributes first) ends: at its `;` or its closing brace.
pub fn item_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(byte) = code.as_bytes().get(at) {
        match byte {
            b'{' => return closing(code, at),
            b'(' | b'[' => at = closing(code, at),
            b';' => return at + 1,
            _ => at += 1,
        }
    }
    code.len()
}

/// The places of the attributes that keep an item from everybody but tests, with their ends.
fn test_attributes(code: &str) -> impl Iterator<Item = (usize, usize)> {
    let starts = ["#[cfg(test)", "#[cfg(all(test"].into_iter();
    starts.flat_map(|start| code.match_indices(start)).map(|(at, _)| (at, closing(code, at + 1)))
}

fn without_tests(code: &str) -> String {
    let mut live = code.to_owned();
    for (start, attribute) in test_attributes(code) {
        let end = item_end(code, attribute);
        let blank: String =
            code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        if blank.len() == end - start {
            live.replace_range(start..end, &blank);
        }
    }
    live
}

/// Files declared as `#[cfg(test)] mod name;`, and the folders (with a slash at the end) of what they declare in turn.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    for source in sources {
        for (start, attribute) in test_attributes(&source.code) {
            let end = item_end(&source.code, attribute);
            let item = source.code[attribute..end].trim();
            let item = item.rsplit(']').next().unwrap_or(item).trim().trim_start_matches("pub ");
            let Some(name) = item.strip_prefix("mod ").and_then(|m| m.strip_suffix(';')) else {
                continue;
            };
            let (dir, file) = source.path.rsplit_once('/').expect("a folder");
            let stem = file.trim_end_matches(".rs");
            let named = &source.text[start..end];
            if let Some(path) = named.split("path = \"").nth(1).and_then(|p| p.split('"').next()) {
                files.insert(format!("{dir}/{path}"));
            }
            for at in [format!("{dir}/{name}"), format!("{dir}/{stem}/{name}")] {
                files.insert(format!("{at}.rs"));
                files.insert(format!("{at}/"));
            }
        }
    }
    files
}

pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Where `word` stands in `code` as a whole word (or path), not as a part of a longer one.
pub fn mentions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let after = code.as_bytes().get(at + word.len()).copied().unwrap_or(b' ');
        !word_before(code.as_bytes(), *at) && (!is_word(after) || word.ends_with(':'))
    })
}

/// The rooms that a file names as `crate::room` or within `crate::{…}`, with the place.
pub fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in mentions(code, "crate::") {
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.push((at, first_word(rest)));
            continue;
        }
        let end = closing(rest, 0);
        let mut depth = 0;
        let mut fresh = true;
        for (offset, c) in rest[1..end - 1].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => fresh = true,
                c if fresh && depth == 0 && !c.is_whitespace() => {
                    found.push((at, first_word(&rest[1 + offset..])));
                    fresh = false;
                }
                _ => {}
            }
        }
    }
    found
}

pub fn first_word(text: &str) -> String {
    text.bytes().take_while(|b| is_word(*b)).map(char::from).collect()
}

/// The checks above stand on this reading of Rust.
#[test]
fn the_reading_of_rust() {
    let text = "fn a<'a>(x: &'a str) { // fn no()\n  let s = \"fn \\\" {\"; let c = '{'; let q = '\\''; let r = r#\"}\"#;\n}\n#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod tests;\nuse crate::{api::x::{y, z}, types, wire};\ncrate::app::go();\n";
    let code = mask(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(item_end(&code, 0), text.find("}\n#[cfg").expect("the end") + 1);
    assert!(!without_tests(&code).contains("mod tests"));
    let rooms: Vec<String> = imports(&code).into_iter().map(|(_, room)| room).collect();
    assert_eq!(rooms, ["api", "types", "wire", "app"]);
    assert_eq!(mentions("athread:: thread::x", "thread::").count(), 1);
}
