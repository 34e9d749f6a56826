//! Parts of a calibration that run apart from each other.

use std::fmt;
use std::str::FromStr;

/// One of `count` shards: of samples `0..n` it takes those whose number is `index` modulo `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which of them, from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Shard {
    /// The only shard.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Its samples of `n`.
    pub fn indices(self, n: usize) -> Vec<usize> {
        (self.index..n).step_by(self.count).collect()
    }
}

impl Default for Shard {
    fn default() -> Shard {
        Shard::WHOLE
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let (i, n) = text.split_once('/').ok_or("write INDEX/COUNT, for example 0/4")?;
        let number = |t: &str| t.trim().parse::<usize>().map_err(|_| format!("`{t}` is not a number"));
        let shard = Shard { index: number(i)?, count: number(n)? };
        if shard.index < shard.count {
            Ok(shard)
        } else {
            Err(format!(
                "shards are counted from 0: the last of {} is {}",
                shard.count,
                shard.count.saturating_sub(1)
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_the_samples() {
        let mut all: Vec<usize> = (0..3).flat_map(|i| Shard { index: i, count: 3 }.indices(10)).collect();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..10));
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for text in ["", "1", "3/3", "0/0", "-1/2", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
