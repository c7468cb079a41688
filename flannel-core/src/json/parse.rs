//! The parser: recursive, in one pass over the bytes, with a depth limit.

use super::{Number, Object, Value};

/// The maximum nesting of arrays and objects: far more than in any config, and safe for the stack.
const MAX_DEPTH: usize = 1000;

/// A syntax error, in the words of Go's scanner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// An unexpected byte.
    #[error("invalid character {} {place}", quote(*.byte))]
    Character {
        /// The byte; Go's scanner works on bytes as well.
        byte: u8,
        /// Its context.
        place: String,
    },
    /// The text ends within a value.
    #[error("unexpected end of JSON input")]
    End,
    /// Arrays and objects are nested too deeply.
    #[error("exceeded max depth")]
    Depth,
}

/// Quotes a byte like Go, as the character with that number.
fn quote(byte: u8) -> String {
    match byte {
        b'\n' | b'\r' | b'\t' => format!("{:?}", char::from(byte)),
        7 => "'\\a'".to_owned(),
        8 => "'\\b'".to_owned(),
        11 => "'\\v'".to_owned(),
        12 => "'\\f'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("{:?}", char::from(byte)),
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Value, SyntaxError> {
    let mut parser = Parser { text, at: 0 };
    let value = parser.value(0)?;
    match parser.next_token() {
        Ok(byte) => Err(unexpected(byte, "after top-level value")),
        Err(_) => Ok(value),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

fn unexpected(byte: u8, place: &str) -> SyntaxError {
    SyntaxError::Character { byte, place: place.to_owned() }
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, SyntaxError> {
        let byte = self.peek().ok_or(SyntaxError::End)?;
        self.at += 1;
        Ok(byte)
    }

    /// Returns the next byte of a token; at the end of the text a space, as in Go's scanner.
    fn next_or_space(&mut self) -> u8 {
        self.next().unwrap_or(b' ')
    }

    /// Returns the next byte that is not white space.
    fn next_token(&mut self) -> Result<u8, SyntaxError> {
        loop {
            let byte = self.next()?;
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
                return Ok(byte);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let first = self.next_token()?;
        self.value_from(first, depth)
    }

    fn value_from(&mut self, first: u8, depth: usize) -> Result<Value, SyntaxError> {
        match first {
            b'{' | b'[' if depth >= MAX_DEPTH => Err(SyntaxError::Depth),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            b't' => self.literal("true", Value::Bool(true)),
            b'f' => self.literal("false", Value::Bool(false)),
            b'n' => self.literal("null", Value::Null),
            b'-' | b'0'..=b'9' => self.number(first),
            other => Err(unexpected(other, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, SyntaxError> {
        for expected in word.bytes().skip(1) {
            let byte = self.next_or_space();
            if byte != expected {
                let place = format!("in literal {word} (expecting {})", quote(expected));
                return Err(SyntaxError::Character { byte, place });
            }
        }
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut members = Vec::new();
        loop {
            match self.next_token()? {
                b'"' => {}
                b'}' if members.is_empty() => break,
                other => return Err(unexpected(other, "looking for beginning of object key string")),
            }
            let name = self.string()?;
            match self.next_token()? {
                b':' => {}
                other => return Err(unexpected(other, "after object key")),
            }
            members.push((name, self.value(depth + 1)?));
            match self.next_token()? {
                b',' => {}
                b'}' => break,
                other => return Err(unexpected(other, "after object key:value pair")),
            }
        }
        Ok(Value::Object(Object(members)))
    }

    fn array(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut elements = Vec::new();
        loop {
            match self.next_token()? {
                b']' if elements.is_empty() => break,
                first => elements.push(self.value_from(first, depth + 1)?),
            }
            match self.next_token()? {
                b',' => {}
                b']' => break,
                other => return Err(unexpected(other, "after array element")),
            }
        }
        Ok(Value::Array(elements))
    }

    fn number(&mut self, first: u8) -> Result<Value, SyntaxError> {
        let start = self.at - 1;
        let lead = if first == b'-' { self.digit("in numeric literal")? } else { first };
        // A leading zero is a number of its own: digits after it are an error "after" the number.
        if lead != b'0' {
            self.digits();
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        let literal = self.text[start..self.at].iter().copied().map(char::from).collect();
        Ok(Value::Number(Number(literal)))
    }

    fn digit(&mut self, place: &str) -> Result<u8, SyntaxError> {
        let byte = self.next_or_space();
        if byte.is_ascii_digit() { Ok(byte) } else { Err(unexpected(byte, place)) }
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// Parses the rest of a string, after the opening quote.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => {
                    let c = self.escape()?;
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                control @ 0..0x20 => return Err(unexpected(control, "in string literal")),
                byte => bytes.push(byte),
            }
        }
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| each_bad_byte_replaced(error.as_bytes())))
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        Ok(match self.next_or_space() {
            c @ (b'"' | b'\\' | b'/') => char::from(c),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex4()?;
                char::from_u32(high)
                    .or_else(|| self.low_surrogate(high))
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            other => return Err(unexpected(other, "in string escape code")),
        })
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.next_or_space();
            let digit = char::from(byte)
                .to_digit(16)
                .ok_or_else(|| unexpected(byte, "in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    /// Returns the character of a surrogate pair. Consumes the second half only if it is one.
    fn low_surrogate(&mut self, high: u32) -> Option<char> {
        if !(0xd800..0xdc00).contains(&high) || !self.text[self.at..].starts_with(b"\\u") {
            return None;
        }
        let before = self.at;
        self.at += 2;
        match self.hex4() {
            Ok(low @ 0xdc00..0xe000) => char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
            _ => {
                self.at = before;
                None
            }
        }
    }
}

/// Replaces each invalid byte by U+FFFD, as Go does; Rust replaces an incomplete character by one.
fn each_bad_byte_replaced(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    text
}
