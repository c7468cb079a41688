//! The only place that writes: results to stdout, everything else to stderr.

mod page;
mod table;
pub(crate) mod text;
mod yaml;

#[cfg(test)]
mod tests;

use clap::ValueEnum;
use serde_json::Value;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::failure::{Failure, Kind};

pub(crate) use page::Page;
pub(crate) use table::{Cell, Style, Table};

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// Columns for people, at most 80 characters wide
    Table,
    /// The same with more columns
    Wide,
    /// JSON
    Json,
    /// The same as YAML
    Yaml,
    /// Names alone, one on a line
    Name,
}

/// Where results and messages go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    form: Form,
    colour: bool,
}

impl Output {
    /// Colour is for terminals only, and not where the user does not want it (no-color.org).
    pub(crate) fn new(form: Form) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { form, colour: io::stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// The form that was asked for.
    pub(crate) const fn form(&self) -> Form {
        self.form
    }

    /// A result.
    ///
    /// # Errors
    /// Fails where nobody reads, or where names are asked for and the result has none.
    pub(crate) fn page(&self, page: &Page) -> anyhow::Result<()> {
        let text = match self.form {
            Form::Table => page.text(false, self.colour),
            Form::Wide => page.text(true, self.colour),
            Form::Json => pretty(page.value()),
            Form::Yaml => yaml::document(page.value()),
            Form::Name => page.names().ok_or_else(|| {
                Failure::new(
                    Kind::Usage,
                    "the result of this command has no names",
                    "use -o table, wide, json or yaml",
                )
            })?,
        };
        write(&text)
    }

    /// One of several results that come over time: JSON on one line, YAML with a mark in front.
    ///
    /// # Errors
    /// As for [`Output::page`].
    pub(crate) fn event(&self, page: &Page) -> anyhow::Result<()> {
        match self.form {
            Form::Json => write(&format!("{}\n", page.value())),
            Form::Yaml => write(&format!("---\n{}", yaml::document(page.value()))),
            _ => self.page(page),
        }
    }

    /// The titles of a table whose rows come later, one by one.
    ///
    /// # Errors
    /// Fails where nobody reads.
    pub(crate) fn titles(&self, table: &Table) -> anyhow::Result<()> {
        match self.form {
            Form::Table | Form::Wide => write(&table.render(self.form == Form::Wide, self.colour)),
            Form::Json | Form::Yaml | Form::Name => Ok(()),
        }
    }

    /// A result that has one form only, such as a script or a file of the store.
    ///
    /// # Errors
    /// Fails where nobody reads.
    pub(crate) fn raw(&self, text: &str) -> anyhow::Result<()> {
        write(text)
    }

    /// Something for people.
    pub(crate) fn message(&self, text: &str) {
        // Nothing can be done for somebody who does not listen.
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// How far something has come, on one line that the next one replaces. For a terminal only; an empty text ends it.
    pub(crate) fn progress(&self, text: &str) {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        }
    }

    /// Asks before something that cannot be taken back. `flag` is what says yes beforehand.
    ///
    /// # Errors
    /// Fails unless the answer is yes, and where nobody can be asked.
    pub(crate) fn confirm(&self, question: &str, flag: &str) -> anyhow::Result<()> {
        if !io::stdin().is_terminal() {
            return Err(Failure::new(
                Kind::Refused,
                format!("{question} Nobody can be asked: standard input is no terminal"),
                format!("give {flag} if it is meant"),
            )
            .into());
        }
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !answer.ends_with('\n') {
            // Ctrl-D: the terminal is still on the line of the question.
            self.message("");
        }
        if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Failure::new(Kind::Refused, "nothing was done", "answer y if it is meant").into())
    }

    /// Why it ends: for people on stderr, and for programs on stdout.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.message(&failure.to_text());
        let _ = match self.form {
            Form::Json => write(&pretty(&failure.to_json())),
            Form::Yaml => write(&yaml::document(&failure.to_json())),
            Form::Table | Form::Wide | Form::Name => Ok(()),
        };
    }
}

/// True if the reader of our results is gone.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let closed = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<NotWritten>().is_some_and(|NotWritten(cause)| closed(cause))
}

/// Told apart from errors of files and sockets, which may be broken pipes as well.
#[derive(Debug)]
struct NotWritten(io::Error);

impl std::fmt::Display for NotWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not write the result: {}", self.0)
    }
}

impl std::error::Error for NotWritten {}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(NotWritten)?;
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
