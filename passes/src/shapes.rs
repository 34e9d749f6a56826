//! Shapes as operands.

use squint_ir::{Dim, Shape};

/// The target of a Reshape from a shape (if it is known) to another: lengths, `-1` for one that follows from the
/// number of elements, and 0 for one that is copied from the same axis. `None` if that is not enough to say it.
///
/// A symbol is taken to be one length only if it stands once in each shape: some exporters give all that they do
/// not know the same name.
pub(crate) fn reshape_target(from: Option<&Shape>, to: &[Dim]) -> Option<Vec<i64>> {
    // A known 0 would be read as a copy.
    if to.contains(&Dim::Known(0)) {
        return None;
    }
    let open = to.iter().filter(|d| d.known().is_none()).count();
    let once = |s: &[Dim], d: &Dim| s.iter().filter(|other| *other == d).count() == 1;
    let copied = |i: usize, d: &Dim| {
        let same = from.is_some_and(|f| f.get(i) == Some(d) && once(f, d));
        open > 1 && same && once(to, d) && matches!(d, Dim::Symbol(_))
    };
    let target = to.iter().enumerate().map(|(i, d)| match d.known() {
        Some(n) => i64::try_from(n).ok(),
        None if copied(i, d) => Some(0),
        None => Some(-1),
    });
    let target: Vec<i64> = target.collect::<Option<_>>()?;
    (target.iter().filter(|n| **n == -1).count() <= 1).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::reshape_target;
    use squint_ir::{Dim, Shape};

    fn shape(text: &str) -> Shape {
        let dim = |word: &str| match word.parse() {
            Ok(n) => Dim::Known(n),
            Err(_) if word == "?" => Dim::Unknown,
            Err(_) => Dim::Symbol(word.into()),
        };
        text.split(' ').map(dim).collect()
    }

    #[test]
    fn lengths_are_copied_where_one_free_length_is_not_enough() {
        let target = |from: &str, to: &str| reshape_target(Some(&shape(from)), &shape(to));
        assert_eq!(target("N 12", "N 3 4"), Some(vec![-1, 3, 4]));
        assert_eq!(target("N T 12", "N T 3 4"), Some(vec![0, 0, 3, 4]));
        assert_eq!(target("N T 12", "N ? 4"), Some(vec![0, -1, 4]));
        assert_eq!(target("N T 12", "T N 12"), None);
        assert_eq!(target("N N 12", "N N 3 4"), None);
        assert_eq!(target("N T", "N T 0"), None);
        assert_eq!(reshape_target(None, &shape("2 ?")), Some(vec![2, -1]));
        assert_eq!(reshape_target(None, &shape("N ?")), None);
    }
}
