//! Writes JSON values as YAML: block style, with quotes wherever a plain scalar could be ambiguous. The maintained crates
//! contain a parser and a scanner that are not needed for this.

use serde_json::Value;
use std::fmt::Write as _;

/// The value as one document.
pub(super) fn document(document: &Value) -> String {
    let mut out = String::new();
    value(&mut out, document, 0);
    // The space or newline that would separate it from a key.
    out.split_off(1)
}

fn sequence(out: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push('-');
        match item {
            // The first member is on the line of the dash.
            Value::Object(members) if !members.is_empty() => {
                out.push(' ');
                mapping(out, members, depth + 1, true);
            }
            other => value(out, other, depth + 1),
        }
    }
}

fn mapping(out: &mut String, members: &serde_json::Map<String, Value>, depth: usize, started: bool) {
    for (at, (key, member)) in members.iter().enumerate() {
        if at > 0 || !started {
            indent(out, depth);
        }
        // Writing to a String cannot fail.
        let _ = write!(out, "{}:", string(key));
        // kubectl does not indent the items of a sequence under its key.
        let deeper = if member.is_array() { depth } else { depth + 1 };
        value(out, member, deeper);
    }
}

/// The value after a key or a dash, with a newline.
fn value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            sequence(out, items, depth);
        }
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            mapping(out, members, depth, false);
        }
        other => {
            let _ = writeln!(out, " {}", scalar(other));
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        // Empty collections, numbers, booleans and null are identical in both languages.
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        // Words with a meaning in YAML 1.1 or 1.2.
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null"
        );
    if plain {
        return text.to_owned();
    }
    // A JSON string is a double-quoted scalar of YAML.
    Value::from(text).to_string()
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}
