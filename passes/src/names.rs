//! Distinct names.

use rustc_hash::{FxHashMap, FxHashSet};

/// Gives out names, each once.
#[derive(Default)]
pub(crate) struct Names {
    taken: FxHashSet<String>,
    /// The last number tried behind a name, so that many of the same name take linear time.
    last: FxHashMap<String, u32>,
}

impl Names {
    /// `wanted` itself if it is free, or with the next free number behind it.
    pub(crate) fn take(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        while !self.taken.insert(name.clone()) {
            let n = self.last.entry(wanted.to_owned()).or_default();
            *n += 1;
            name = format!("{wanted}_{n}");
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_are_numbered_past_those_taken() {
        let mut names = Names::default();
        let got: Vec<String> = ["a", "a_1", "a", "a", "b"].iter().map(|n| names.take(n)).collect();
        assert_eq!(got, ["a", "a_1", "a_2", "a_3", "b"]);
    }
}
