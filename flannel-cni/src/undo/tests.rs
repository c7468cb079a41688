use super::*;
use crate::error::Code;
use std::cell::RefCell;

#[test]
fn steps_run_in_reverse_order_and_after_failures() {
    let log = RefCell::new(Vec::new());
    let mut undo = Undo::default();
    for (at, fails) in [(1, false), (2, true), (3, false)] {
        let log = &log;
        undo.push(format!("step {at}"), move |_| {
            log.borrow_mut().push(at);
            if fails { Err(CniError::new(Code::Internal, "refused")) } else { Ok(()) }
        });
    }
    undo.run(&mut Kernel::open().unwrap());
    assert_eq!(log.into_inner(), [3, 2, 1]);
}
