//! Columns for people.

use std::iter;

/// Maximum width of a table.
const WIDTH: usize = 80;
/// Minimum width of the last column.
const NARROWEST: usize = 20;

/// Rows under titles. Columns are as wide as their contents, two spaces apart; if that is too wide, the last column is
/// wrapped.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    titles: Vec<&'static str>,
    /// Number of titles that are always shown; the others are for `-o wide`.
    always: usize,
    rows: Vec<Vec<Cell>>,
    least: Vec<usize>,
    header: bool,
}

/// A cell: lines of text in one style.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    lines: Vec<String>,
    style: Style,
}

/// Meaning of a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    /// No colour.
    #[default]
    Plain,
    /// In order.
    Good,
    /// Needs attention.
    Warning,
    /// Wrong.
    Bad,
    /// Emphasis.
    Strong,
}

impl Style {
    /// SGR parameters (ECMA-48, 8.3.117).
    const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Warning => Some("33"),
            Self::Bad => Some("31"),
            Self::Strong => Some("1"),
        }
    }
}

impl Cell {
    /// Several lines. An empty cell is shown as `-`.
    pub(crate) fn lines<T: ToString>(lines: impl IntoIterator<Item = T>) -> Self {
        Self { lines: lines.into_iter().map(|line| line.to_string()).collect(), style: Style::Plain }
    }

    /// With a colour.
    #[must_use]
    pub(crate) const fn styled(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    fn line(&self, at: usize) -> &str {
        match self.lines.get(at) {
            Some(line) if !line.is_empty() => line,
            // Scripts that count columns would miss an empty cell.
            _ if at == 0 => "-",
            _ => "",
        }
    }

    fn width(&self) -> usize {
        (0..self.height()).map(|at| columns(self.line(at))).max().unwrap_or(0)
    }

    fn height(&self) -> usize {
        self.lines.len().max(1)
    }

    fn wrapped(&self, width: usize) -> Self {
        let lines = self.lines.iter().flat_map(|line| wrap(line, width)).collect();
        Self { lines, style: self.style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { lines: vec![text.into()], style: Style::Plain }
    }
}

impl Table {
    /// A table with titles that are always shown, and further titles for `-o wide`. Each row has a cell for every title.
    pub(crate) fn new(always: &[&'static str], wide: &[&'static str]) -> Self {
        Self {
            titles: [always, wide].concat(),
            always: always.len(),
            rows: Vec::new(),
            least: Vec::new(),
            header: true,
        }
    }

    /// Without titles, for rows that follow others.
    #[must_use]
    pub(crate) const fn without_titles(mut self) -> Self {
        self.header = false;
        self
    }

    /// With minimum widths of columns, so that consecutive tables look like one.
    #[must_use]
    pub(crate) fn at_least(mut self, widths: &[usize]) -> Self {
        self.least = widths.to_vec();
        self
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.titles.len(), "a cell for each title");
        self.rows.push(row);
    }

    /// The table as text.
    pub(super) fn render(&self, wide: bool, colour: bool) -> String {
        let shown = if wide { self.titles.len() } else { self.always };
        let titles: Vec<Cell> = self.titles[..shown].iter().map(|title| Cell::from(*title)).collect();
        let mut rows: Vec<Vec<Cell>> =
            iter::once(titles).chain(self.rows.iter().map(|row| row[..shown].to_vec())).collect();
        let column_width = |rows: &[Vec<Cell>], column: usize| {
            let least = self.least.get(column).copied().unwrap_or(0);
            rows.iter().map(|row| row[column].width()).max().unwrap_or(0).max(least)
        };
        let before: usize = (0..shown.saturating_sub(1)).map(|column| column_width(&rows, column) + 2).sum();
        if !wide && let Some(width) = WIDTH.checked_sub(before).filter(|width| *width >= NARROWEST) {
            for row in &mut rows {
                if let Some(last) = row.last_mut() {
                    *last = last.wrapped(width);
                }
            }
        }
        let widths: Vec<usize> = (0..shown).map(|column| column_width(&rows, column)).collect();
        let skipped = usize::from(!self.header);
        rows.iter().skip(skipped).map(|row| line(row, &widths, colour)).collect()
    }
}

/// A row, possibly of several lines.
fn line(row: &[Cell], widths: &[usize], colour: bool) -> String {
    let height = row.iter().map(Cell::height).max().unwrap_or(0);
    let mut out = String::new();
    for at in 0..height {
        let mut text = String::new();
        let mut gap = 0;
        for (cell, width) in row.iter().zip(widths) {
            let words = cell.line(at);
            if !words.is_empty() {
                text.extend(iter::repeat_n(' ', gap));
                gap = 0;
                match cell.style.code().filter(|_| colour) {
                    Some(code) => text.push_str(&format!("\x1b[{code}m{words}\x1b[0m")),
                    None => text.push_str(words),
                }
            }
            gap += width.saturating_sub(columns(words)) + 2;
        }
        out.push_str(&text);
        out.push('\n');
    }
    out
}

/// Breaks a text at spaces. A word that is too long is not broken, so that it can be copied.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && columns(line) + 1 + columns(word) > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn columns(text: &str) -> usize {
    text.chars().count()
}
