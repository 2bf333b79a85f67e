//! Reads the text format of Protocol Buffers, as config.pbtxt is written in: into fields with their lines, without a schema.
//!
//! Why our own: the crates that read it recurse as deep as the text says, and their errors know no more of a line than an offset.

/// Deepest nesting of messages.
const MAX_DEPTH: usize = 32;

/// A message: its fields as they stand, a list's entries one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message(pub Vec<Field>);

/// One value of one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Message(Message),
    /// In quotes.
    Text(String),
    /// A number, or a name without quotes.
    Word(String),
}

/// Reads a message that is the whole text; the error has the line and what is wrong there.
pub fn parse(text: &str) -> Result<Message, (usize, String)> {
    let mut parser = Parser { rest: text, line: 1, depth: 0 };
    parser.message(None)
}

/// The integer that a word is, as C writes them.
pub fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word),
    };
    let magnitude = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else if digits.starts_with('+') {
        return None;
    } else {
        digits.parse::<u64>()
    };
    Some(sign * i128::from(magnitude.ok()?))
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    depth: usize,
}

type Parsed<T> = Result<T, (usize, String)>;

impl<'a> Parser<'a> {
    fn wrong<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err((self.line, what.into()))
    }

    /// What comes next, for a message.
    fn shown(&self) -> String {
        let next: String = self.rest.chars().take_while(|c| !c.is_whitespace()).take(32).collect();
        if next.is_empty() { "the end".into() } else { format!("'{}'", next.escape_debug()) }
    }

    /// Skips whitespace and comments; the next character.
    fn peek(&mut self) -> Option<char> {
        loop {
            let next = self.rest.chars().next()?;
            match next {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                '\n' => {
                    self.line += 1;
                    self.rest = &self.rest[1..];
                }
                blank if blank.is_whitespace() => self.rest = &self.rest[blank.len_utf8()..],
                other => return Some(other),
            }
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.rest = &self.rest[wanted.len_utf8()..];
        }
        found
    }

    /// Fields up to the bracket `end`, or the end of the text.
    fn message(&mut self, end: Option<char>) -> Parsed<Message> {
        if self.depth > MAX_DEPTH {
            return self.wrong(format!("messages are nested deeper than {MAX_DEPTH}"));
        }
        let mut fields = Vec::new();
        loop {
            match (self.peek(), end) {
                (None, None) => break,
                (None, Some(bracket)) => {
                    return self.wrong(format!("expected '{bracket}', got the end"));
                }
                (Some(next), Some(bracket)) if next == bracket => {
                    self.take(bracket);
                    break;
                }
                _ => self.field(&mut fields)?,
            }
        }
        Ok(Message(fields))
    }

    fn field(&mut self, fields: &mut Vec<Field>) -> Parsed<()> {
        let line = self.line;
        let name = self.word(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return self.wrong(format!("expected the name of a field, got {}", self.shown()));
        }
        let colon = self.take(':');
        let mut add = |line, value| fields.push(Field { name: name.to_owned(), line, value });
        if self.take('[') {
            if !self.take(']') {
                loop {
                    self.peek();
                    let line = self.line;
                    add(line, self.value(true)?);
                    if self.take(']') {
                        break;
                    }
                    if !self.take(',') {
                        return self.wrong(format!("expected ',' or ']', got {}", self.shown()));
                    }
                }
            }
        } else {
            let value = self.value(colon)?;
            add(line, value);
        }
        // What may stand between two fields.
        let _ = self.take(',') || self.take(';');
        Ok(())
    }

    fn value(&mut self, colon: bool) -> Parsed<Value> {
        let close = match self.peek() {
            Some('{') => '}',
            Some('<') => '>',
            _ if !colon => {
                return self.wrong(format!("expected ':' or a message, got {}", self.shown()));
            }
            Some(quote @ ('"' | '\'')) => return self.text(quote),
            _ => {
                let word = self.word(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c));
                if word.is_empty() {
                    return self.wrong(format!("expected a value, got {}", self.shown()));
                }
                return Ok(Value::Word(word.to_owned()));
            }
        };
        self.rest = &self.rest[1..];
        self.depth += 1;
        let message = self.message(Some(close))?;
        self.depth -= 1;
        Ok(Value::Message(message))
    }

    fn word(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        self.peek();
        let end = self.rest.find(|c| !is(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    /// Strings that follow each other are one.
    fn text(&mut self, mut quote: char) -> Parsed<Value> {
        let mut bytes = Vec::new();
        loop {
            self.rest = &self.rest[1..];
            self.quoted(quote, &mut bytes)?;
            match self.peek() {
                Some(next @ ('"' | '\'')) => quote = next,
                _ => break,
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text)),
            Err(_) => self.wrong("a string is no UTF-8"),
        }
    }

    /// The rest of a string behind its quote.
    fn quoted(&mut self, quote: char, out: &mut Vec<u8>) -> Parsed<()> {
        loop {
            let Some(next) = self.rest.chars().next().filter(|c| *c != '\n') else {
                return self.wrong("a string has no end");
            };
            self.rest = &self.rest[next.len_utf8()..];
            if next == quote {
                return Ok(());
            }
            if next != '\\' {
                out.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            let Some(escape) = self.rest.chars().next() else {
                return self.wrong("a string has no end");
            };
            let plain = "abfnrtv\\'\"?".find(escape);
            if let Some(at) = plain {
                self.rest = &self.rest[1..];
                out.push(b"\x07\x08\x0c\n\r\t\x0b\\'\"?"[at]);
            } else if !self.numbered(escape, out) {
                return self.wrong(format!("'\\{}' is no escape", escape.escape_debug()));
            }
        }
    }

    /// `\123`, `\x1f`, `\u12ab`, `\U0001f600`.
    fn numbered(&mut self, escape: char, out: &mut Vec<u8>) -> bool {
        let (skip, radix, least, most) = match escape {
            '0'..='7' => (0, 8, 1, 3),
            'x' | 'X' => (1, 16, 1, 2),
            'u' => (1, 16, 4, 4),
            'U' => (1, 16, 8, 8),
            _ => return false,
        };
        let text = &self.rest[skip..];
        let digits = text.chars().take(most).take_while(|c| c.is_digit(radix)).count();
        let Ok(value) = u32::from_str_radix(&text[..digits], radix) else { return false };
        if digits < least {
            return false;
        }
        self.rest = &text[digits..];
        if most > 3 {
            let Some(c) = char::from_u32(value) else { return false };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            let Ok(byte) = u8::try_from(value) else { return false };
            out.push(byte);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(name: &str, line: usize, value: &str) -> Field {
        Field { name: name.into(), line, value: Value::Word(value.into()) }
    }

    fn text(name: &str, line: usize, value: &str) -> Field {
        Field { name: name.into(), line, value: Value::Text(value.into()) }
    }

    #[test]
    fn every_form_of_a_field() {
        let read = parse(
            "name: \"a\" 'b' # a comment\nmax_batch_size: 8;\ninput [\n { dims: [ -1, 3 ], f: 1.5e-3 },\n < x: T >\n]\n\
             empty: [] nested { a { } }",
        )
        .expect("well formed");
        let message = |name: &str, line, fields| Field {
            name: name.into(),
            line,
            value: Value::Message(Message(fields)),
        };
        let first = vec![word("dims", 4, "-1"), word("dims", 4, "3"), word("f", 4, "1.5e-3")];
        let expected = Message(vec![
            text("name", 1, "ab"),
            word("max_batch_size", 2, "8"),
            message("input", 4, first),
            message("input", 5, vec![word("x", 5, "T")]),
            message("nested", 7, vec![message("a", 7, Vec::new())]),
        ]);
        assert_eq!(read, expected);
    }

    #[test]
    fn strings_have_escapes() {
        let of = |source: &str| match parse(&format!("a: {source}")) {
            Ok(Message(fields)) => match fields.as_slice() {
                [Field { value: Value::Text(text), .. }] => Ok(text.clone()),
                other => panic!("{other:?}"),
            },
            Err((_, why)) => Err(why),
        };
        assert_eq!(
            of(r#""\n\t\\\"\'\x41\101\u00fc\U0001f600ü""#).expect("escapes"),
            "\n\t\\\"'AAü😀ü"
        );
        assert_eq!(of(r#"'"'"#).expect("the other quote"), "\"");
        for wrong in [r#""\q""#, r#""\xff""#, r#""\u12""#, r#""\400""#, "\"a", "\"a\nb\"", r#""\"#]
        {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn errors_have_lines() {
        for (source, line, words) in [
            ("a: 1\nb 2", 2, "expected ':' or a message, got '2'"),
            ("a {\n b: 1\n", 3, "expected '}', got the end"),
            ("\n\n: 1", 3, "expected the name of a field"),
            ("a: [1 2]", 1, "expected ',' or ']'"),
            ("a: }", 1, "expected a value"),
            ("[ext]: 1", 1, "expected the name of a field"),
            ("a: 1 }", 1, "expected the name of a field, got '}'"),
        ] {
            let (at, why) = parse(source).expect_err(source);
            assert_eq!(at, line, "{source}: {why}");
            assert!(why.contains(words), "{source}: {why}");
        }
        let deep = "a {".repeat(100_000);
        assert!(parse(&deep).expect_err("deep").1.contains("nested deeper"));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(source in "[a-z0-9:{}<>\\[\\],;#'\"\\\\ \n.-]{0,60}") {
            if let Err((line, why)) = parse(&source) {
                prop_assert!(line <= source.lines().count() + 1 && !why.is_empty());
            }
        }
    }
}
