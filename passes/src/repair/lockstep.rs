//! Two graphs that run one sample in step: when the second comes to a value, it is shown what the first makes of it.
//!
//! The first runs on a thread of its own, and goes on only while the second waits for it: both together take one core,
//! and one value of the first is held at a time, however large all of them are.

use squint_ir::execute::{ExecuteError, Sample, Session};
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Bytes of values that the second graph comes to later than the first.
const ROOM: usize = 64 << 20;

/// Is shown each value of the second graph, with the elements that it has in the first if it is among the awaited, and may
/// replace it.
pub(super) type Watcher<'a> = dyn FnMut(usize, &[usize], &[f32], Option<Vec<f32>>) -> Option<Vec<f32>> + 'a;

/// Runs a sample on two sessions that expose the same values. The elements of the first `awaited` values are passed on.
/// Where the two compute them in orders so different that too much would be held, none are.
///
/// # Errors
/// If one of them fails.
pub(super) fn run(
    first: &dyn Session,
    second: &dyn Session,
    sample: &Sample,
    awaited: usize,
    watch: &mut Watcher<'_>,
) -> Result<(), ExecuteError> {
    let (go, gone) = channel::<()>();
    let (send, receive) = channel();
    thread::scope(|scope| {
        let first = scope.spawn(move || run_first(first, sample, awaited, &gone, &send));
        let mut passed = Passed { go, receive, early: BTreeMap::new(), held: 0 };
        let done = second.run(sample, &mut |slot, dims, data| {
            let other = if slot < awaited { passed.take(slot) } else { None };
            watch(slot, dims, data, other)
        });
        // Nothing is awaited any more.
        drop(passed);
        first.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        done.map(drop)
    })
}

fn run_first(
    session: &dyn Session,
    sample: &Sample,
    awaited: usize,
    go: &Receiver<()>,
    send: &Sender<(usize, Vec<f32>)>,
) -> Result<(), ExecuteError> {
    // The second has come to a value first; otherwise nobody waits, and there is nothing to run for.
    if go.recv().is_err() {
        return Ok(());
    }
    let run = session.run(sample, &mut |slot, _, data| {
        // Who has gone away awaits nothing.
        if slot < awaited && send.send((slot, data.to_vec())).is_ok() {
            let _ = go.recv();
        }
        None
    });
    run.map(drop)
}

/// Values of the first graph, as they come.
struct Passed {
    go: Sender<()>,
    receive: Receiver<(usize, Vec<f32>)>,
    /// Those that came before they were asked for.
    early: BTreeMap<usize, Vec<f32>>,
    /// Their bytes.
    held: usize,
}

impl Passed {
    /// The elements of a value; `None` if the first graph does not make it, or too much came before it.
    fn take(&mut self, slot: usize) -> Option<Vec<f32>> {
        if let Some(known) = self.early.remove(&slot) {
            self.held -= size_of_val(known.as_slice());
            return Some(known);
        }
        while self.held <= ROOM {
            self.go.send(()).ok()?;
            let (other, data) = self.receive.recv().ok()?;
            if other == slot {
                return Some(data);
            }
            self.held += size_of_val(data.as_slice());
            self.early.insert(other, data);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::Tensor;
    use squint_ir::execute::Observer;

    /// Shows values in an order, each its number plus one more in later sessions; fails at the end if told to.
    struct Shows {
        order: Vec<usize>,
        plus: f32,
        fails: bool,
    }

    impl Session for Shows {
        fn run(&self, _: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError> {
            for slot in &self.order {
                observe(*slot, &[1], &[*slot as f32 + self.plus]);
            }
            let failed = ExecuteError::Run { executor: "none", problem: "it fails".into() };
            if self.fails { Err(failed) } else { Ok(vec![]) }
        }
    }

    fn shows(order: &[usize], plus: f32) -> Shows {
        Shows { order: order.to_vec(), plus, fails: false }
    }

    fn pairs(first: &Shows, second: &Shows) -> Result<Vec<(usize, f32, Option<f32>)>, ExecuteError> {
        let mut seen = Vec::new();
        run(first, second, &vec![], 3, &mut |slot, _, data, other| {
            seen.push((slot, data[0], other.map(|o| o[0])));
            None
        })?;
        Ok(seen)
    }

    #[test]
    fn each_value_is_shown_beside_that_of_the_first() {
        let all = [(0, 10.0, Some(0.0)), (1, 11.0, Some(1.0)), (2, 12.0, Some(2.0)), (3, 13.0, None)];
        assert_eq!(pairs(&shows(&[0, 1, 3, 2], 0.0), &shows(&[0, 1, 2, 3], 10.0)).unwrap(), all);
        // Another order, and a value that the first does not make.
        let seen = pairs(&shows(&[2, 0], 0.0), &shows(&[0, 1, 2], 10.0)).unwrap();
        assert_eq!(seen, [(0, 10.0, Some(0.0)), (1, 11.0, None), (2, 12.0, Some(2.0))]);
        assert_eq!(pairs(&shows(&[0, 1, 2], 0.0), &shows(&[], 0.0)).unwrap(), []);
    }

    #[test]
    fn what_fails_is_told_and_nobody_waits_for_ever() {
        for (first, second) in [(true, false), (false, true)] {
            let first = Shows { fails: first, ..shows(&[0, 1, 2], 0.0) };
            let second = Shows { fails: second, ..shows(&[0], 0.0) };
            assert!(pairs(&first, &second).unwrap_err().to_string().contains("it fails"));
        }
    }
}
