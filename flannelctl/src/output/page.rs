//! A result in all output formats.

use serde_json::Value;

use super::table::Table;

/// A result: a value for programs, a text for people, and names if it has any.
#[derive(Debug)]
pub(crate) struct Page {
    pub(super) value: Value,
    text: Text,
    names: Option<Vec<String>>,
}

#[derive(Debug)]
enum Text {
    Table(Table),
    Lines(String),
}

impl Page {
    /// A table and the same data as a value.
    pub(crate) const fn table(value: Value, table: Table) -> Self {
        Self { value, text: Text::Table(table), names: None }
    }

    /// Lines of text and the same data as a value.
    pub(crate) fn lines(value: Value, lines: impl Into<String>) -> Self {
        Self { value, text: Text::Lines(lines.into()), names: None }
    }

    /// With names for `-o name`.
    #[must_use]
    pub(crate) fn named<T: ToString>(self, names: impl IntoIterator<Item = T>) -> Self {
        Self { names: Some(names.into_iter().map(|name| name.to_string()).collect()), ..self }
    }

    /// The text for people, with a final newline.
    pub(super) fn text(&self, wide: bool, colour: bool) -> String {
        match &self.text {
            Text::Table(table) => table.render(wide, colour),
            Text::Lines(lines) => ended(lines),
        }
    }

    pub(super) fn names(&self) -> Option<String> {
        Some(ended(&self.names.as_ref()?.join("\n")))
    }
}

fn ended(text: &str) -> String {
    match text.trim_end_matches('\n') {
        "" => String::new(),
        text => format!("{text}\n"),
    }
}
