//! Undoes an ADD that fails.

use crate::error::{CniError, note};
use crate::kernel::Kernel;

/// What undoes one step.
type Step<'a> = Box<dyn FnOnce(&mut Kernel) -> Result<(), CniError> + 'a>;

/// The undo steps of an ADD. Each step of the ADD registers its undo step before it begins, because a change may have been made even
/// if the reply is lost.
#[derive(Default)]
pub(crate) struct Undo<'a>(Vec<(String, Step<'a>)>);

impl<'a> Undo<'a> {
    /// Registers the undo step of `what`.
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        step: impl FnOnce(&mut Kernel) -> Result<(), CniError> + 'a,
    ) {
        self.0.push((what.into(), Box::new(step)));
    }

    /// Runs all steps in reverse order. Failures are only logged, because the ADD returns its own error.
    pub(crate) fn run(self, host: &mut Kernel) {
        for (what, step) in self.0.into_iter().rev() {
            if let Err(error) = step(host) {
                note!("could not undo {what}: {}", error.msg);
            }
        }
    }
}

#[cfg(test)]
mod tests;
