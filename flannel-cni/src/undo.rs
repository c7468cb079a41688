//! How an ADD that fails is undone.

use crate::error::{CniError, note};
use crate::kernel::Kernel;

/// What undoes one step.
type Step<'a> = Box<dyn FnOnce(&mut Kernel) -> Result<(), CniError> + 'a>;

/// The undo steps of an ADD. Each step of the ADD hands over its own before it begins, because a change whose answer is
/// lost has been made as well.
#[derive(Default)]
pub(crate) struct Undo<'a>(Vec<(String, Step<'a>)>);

impl<'a> Undo<'a> {
    /// Adds the undo step of `what`.
    pub(crate) fn push(
        &mut self,
        what: impl Into<String>,
        step: impl FnOnce(&mut Kernel) -> Result<(), CniError> + 'a,
    ) {
        self.0.push((what.into(), Box::new(step)));
    }

    /// Runs all steps, the last one first. Failures are only logged: the error of the ADD is the one that is returned.
    pub(crate) fn run(self, host: &mut Kernel) {
        for (what, step) in self.0.into_iter().rev() {
            if let Err(error) = step(host) {
                note!("could not undo {what}: {}", error.msg);
            }
        }
    }
}
