//! Many samples at once, results one after the other.

use crate::pass::PassError;
use rayon::prelude::*;

/// Runs `one` on each of these samples, as many at a time as there are threads, and hands what it found to `each` in the
/// order of the samples: sums do not depend on the number of threads, and no more results are held than there are threads.
///
/// # Errors
/// The first error, in the order of the samples, of `one` or `each`; and if threads cannot be started.
pub fn in_order<T: Send, E: From<PassError> + Send>(
    numbers: &[usize],
    threads: usize,
    one: impl Fn(usize) -> Result<T, E> + Sync,
    mut each: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.min(numbers.len()).max(1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| PassError::Config(format!("threads that run samples: {e}")))?;
    for chunk in numbers.chunks(threads) {
        let found = pool.install(|| chunk.par_iter().map(|i| one(*i)).collect::<Vec<_>>());
        for (i, result) in chunk.iter().zip(found) {
            each(*i, result?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_ends_it() {
        for threads in [1, 3, 16] {
            let mut seen = Vec::new();
            let one = |i: usize| {
                if i == 7 { Err(PassError::Data("seven".into())) } else { Ok(i * i) }
            };
            let numbers: Vec<usize> = (0..10).rev().collect();
            let done = in_order(&numbers, threads, one, |i, square| {
                seen.push((i, square));
                Ok(())
            });
            assert_eq!(done.unwrap_err().to_string(), PassError::Data("seven".into()).to_string());
            assert_eq!(seen, [(9, 81), (8, 64)]);
        }
        let none = in_order(&[], 4, |_| Ok::<_, PassError>(()), |_, ()| Ok(()));
        assert!(none.is_ok());
    }
}
