//! Panics of the executor turned into errors.
//!
//! tract checks much of its input with assertions and indexing (an out-of-range `OneHot` index, a type it
//! has no code for), so a bad model can panic inside it. [`quietly`] catches that and hands back the
//! message. The panic hook is process-wide: one hook of ours is installed, once, in front of the one that
//! was there; it stays silent on threads that are inside [`quietly`] and delegates everywhere else, so
//! panics of other code are reported as they always were.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// True while this thread runs code whose panics are ours to report.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    /// What the last silenced panic of this thread said, and where.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic in it becomes an error with the panic's message and source position, and prints
/// nothing. Calls must not be nested.
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    install();
    QUIET.set(true);
    // Whatever `f` was changing is dropped with the error, so no broken state is seen afterwards.
    let outcome = panic::catch_unwind(AssertUnwindSafe(f));
    let ours = QUIET.replace(false);
    outcome.map_err(|payload| {
        if !ours {
            panic::resume_unwind(payload);
        }
        LAST.take().unwrap_or_else(|| text(&*payload).to_owned())
    })
}

/// Runs `f`, called from inside [`quietly`], as if outside of it: its panics are reported and propagate.
pub(crate) fn aloud<T>(f: impl FnOnce() -> T) -> T {
    let quiet = QUIET.replace(false);
    let result = f();
    QUIET.set(quiet);
    result
}

fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| if QUIET.get() { note(info) } else { previous(info) }));
    });
}

fn note(info: &PanicHookInfo<'_>) {
    let at = info.location().map_or_else(String::new, |l| {
        let file = l.file().rsplit(['/', '\\']).next().unwrap_or_default();
        format!(" ({file}:{})", l.line())
    });
    LAST.set(Some(format!("{}{at}", text(info.payload()))));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let string = payload.downcast_ref::<String>().map(String::as_str);
    string.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        let e = quietly(|| [1, 2][std::hint::black_box(7)]).unwrap_err();
        assert!(e.starts_with("index out of bounds") && e.contains("(guard.rs:"), "{e}");
        assert_eq!(quietly(|| 3), Ok(3));
    }

    #[test]
    fn a_panic_of_the_caller_is_not_caught() {
        let caught = panic::catch_unwind(|| quietly(|| aloud(|| panic!("mine"))));
        assert!(caught.is_err());
        assert!(quietly(|| panic!("theirs")).is_err(), "the guard works again afterwards");
    }
}
