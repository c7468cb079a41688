//! The only module that writes: results to stdout, everything else to stderr.

mod page;
mod table;
pub(crate) mod text;
mod yaml;

#[cfg(test)]
mod tests;

use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::failure::{Failure, Kind, fail};

pub(crate) use page::Page;
pub(crate) use table::{Cell, Style, Table, wrap};

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns, at most 80 characters wide
    Table,
    /// More columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Names only, one per line
    Name,
}

/// Writes results and messages in an output format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) form: Form,
    colour: bool,
}

impl Output {
    /// Colours are for terminals only, and not if the user disables them (no-color.org).
    pub(crate) fn new(form: Form) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { form, colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// Writes a result.
    ///
    /// # Errors
    /// Fails if stdout is closed, or if names are requested and the result has none.
    pub(crate) fn page(&self, page: &Page) -> anyhow::Result<()> {
        let text = match self.form {
            Form::Table => page.text(false, self.colour),
            Form::Wide => page.text(true, self.colour),
            Form::Json => pretty(&page.value),
            Form::Yaml => yaml::document(&page.value),
            Form::Name => page.names().ok_or_else(|| {
                let message = "the result of this command has no names";
                Failure::new(Kind::Usage, message, "Use -o table, wide, json or yaml.")
            })?,
        };
        write(&text)
    }

    /// Writes one of several results over time: JSON on one line, YAML as one of several documents.
    ///
    /// # Errors
    /// As for [`Output::page`].
    pub(crate) fn event(&self, page: &Page) -> anyhow::Result<()> {
        match self.form {
            Form::Json => write(&format!("{}\n", &page.value)),
            Form::Yaml => write(&format!("---\n{}", yaml::document(&page.value))),
            _ => self.page(page),
        }
    }

    /// Writes the titles of a table whose rows follow one by one.
    ///
    /// # Errors
    /// Fails if stdout is closed.
    pub(crate) fn titles(&self, table: &Table) -> anyhow::Result<()> {
        match self.form {
            Form::Table | Form::Wide => write(&table.render(self.form == Form::Wide, self.colour)),
            Form::Json | Form::Yaml | Form::Name => Ok(()),
        }
    }

    /// Writes a result that has only one format, such as a script or a file of the store.
    ///
    /// # Errors
    /// Fails if stdout is closed.
    pub(crate) fn raw(&self, text: &str) -> anyhow::Result<()> {
        write(text)
    }

    /// Writes a message for people.
    pub(crate) fn message(&self, text: &str) {
        // A closed stderr is not an error.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Writes progress on one line that the next call replaces, on a terminal only. An empty text removes it.
    pub(crate) fn progress(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }

    /// Asks for confirmation, which `flag` gives in advance.
    ///
    /// # Errors
    /// Fails unless the answer is yes, and if stdin is not a terminal.
    pub(crate) fn confirm(&self, question: &str, flag: &str) -> anyhow::Result<()> {
        if !io::stdin().is_terminal() {
            let message =
                format!("{question} Confirmation is required, and standard input is not a terminal");
            return fail(Kind::Refused, message, format!("Confirm with {flag}."));
        }
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !answer.ends_with('\n') {
            // Ctrl-D: the cursor is still on the line of the question.
            self.message("");
        }
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        fail(Kind::Refused, "not confirmed, nothing was done", "Answer y to confirm.")
    }

    /// Writes a failure: for people to stderr, and for programs to stdout.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.message(&failure.to_text());
        let _ = match self.form {
            Form::Json => write(&pretty(&failure.to_json())),
            Form::Yaml => write(&yaml::document(&failure.to_json())),
            Form::Table | Form::Wide | Form::Name => Ok(()),
        };
    }
}

/// Whether an error is due to a closed stdout.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let closed = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<NotWritten>().is_some_and(|NotWritten(cause)| closed(cause))
}

/// Distinct from errors of files and sockets, which may be broken pipes, too.
#[derive(Debug, thiserror::Error)]
#[error("could not write the result: {0}")]
struct NotWritten(io::Error);

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(NotWritten)?;
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
