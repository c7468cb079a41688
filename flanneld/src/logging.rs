//! Log lines on stderr.

use crate::cli::{LogFormat, LogOptions};
use std::io::{self, IsTerminal as _};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// Sends log lines to stderr from now on. Only the first call in a process counts.
pub fn init(options: LogOptions) {
    let _ =
        tracing::subscriber::set_global_default(subscriber(options, io::stderr().is_terminal(), io::stderr));
}

fn subscriber<W>(options: LogOptions, colours: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer()
        .with_writer(writer)
        .with_target(options.verbosity > 0)
        // A closed stderr must not end the daemon.
        .log_internal_errors(false);
    let lines = match options.format {
        LogFormat::Text => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    Box::new(registry().with(filter(options.verbosity)).with(lines))
}

/// Maps klog's verbosity to levels: 0 for changes, 1 for each operation, 5 for everything. Libraries are limited to `info`, because
/// below it they log requests, and so passwords and tokens.
fn filter(verbosity: i32) -> Targets {
    let (own, libraries) = match verbosity {
        ..=0 => (LevelFilter::INFO, LevelFilter::WARN),
        1..=4 => (LevelFilter::DEBUG, LevelFilter::WARN),
        5.. => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    Targets::new()
        .with_default(libraries)
        // It logs each failed request as an error; the caller does so once.
        .with_target("kube_client", LevelFilter::OFF)
        .with_target("flanneld", own)
        .with_target("flannel_core", own)
}

#[cfg(test)]
mod tests;
