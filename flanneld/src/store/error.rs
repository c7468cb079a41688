//! Errors of stores, by what callers distinguish. Each store has its own texts.

use std::error::Error;
use std::fmt;

/// A failed operation of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A guard did not hold: another writer was faster. Nothing was written.
    #[error("the store has changed meanwhile")]
    Raced,

    /// No response in time. A write may or may not have happened.
    #[error(transparent)]
    TimedOut(Detail),

    /// The store is unreachable or unavailable for now. A write may or may not have happened.
    #[error(transparent)]
    Unavailable(Detail),

    /// The store rejects the operation or these options: a person must act.
    #[error(transparent)]
    Unusable(Detail),
}

impl StoreError {
    /// Whether it may pass by itself. Other errors are retried, too, but need a person.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(self, Self::Unusable(_))
    }

    /// Returns the fix in short; the text of the error has the details.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::Raced => "Check the present state and repeat the command.",
            Self::TimedOut(_) => "Check health and load of the store, then repeat the command.",
            Self::Unavailable(detail) | Self::Unusable(detail) => detail.advice,
        }
    }
}

/// Options that do not describe a store. The text contains no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreOptionsError(pub(super) String);

/// The error of a store, with the text of that error.
#[derive(Debug)]
pub struct Detail {
    error: Box<dyn Error + Send + Sync>,
    advice: &'static str,
}

impl Detail {
    pub(crate) fn new(error: impl Into<Box<dyn Error + Send + Sync>>, advice: &'static str) -> Self {
        Self { error: error.into(), advice }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Detail {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
