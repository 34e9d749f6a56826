//! What has been seen so far of the observed values: the part of statistics that merges.
//!
//! A tally is a function of the set of samples it has seen: order, threads and merges leave no trace.

use crate::calibration::{ChannelSketches, Counting, Sketch};
use crate::statistics::Statistics;
use sha2::{Digest, Sha256};
use squint_ir::execute::{Sample, Samples};
use squint_ir::{Model, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of all observed values in a set of samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    values: Vec<Seen>,
    inputs: BTreeMap<String, First>,
    done: BTreeSet<usize>,
    hash: DataHash,
    counting: Counting,
}

/// What was seen of one value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Distribution of elements.
    pub sketch: Sketch,
    /// Dimensions in the first sample; `None` if there was none.
    pub first: Option<First>,
    /// Distribution within each channel, if that was asked for.
    pub channels: Option<ChannelSketches>,
}

/// Dimensions of a value in the first sample.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct First {
    /// Number of the sample.
    pub sample: usize,
    /// Dimensions.
    pub dims: Vec<usize>,
}

/// A hash of a multiset of samples: the sum of their SHA-256 hashes modulo 2^256 (Bellare and Micciancio,
/// "A new paradigm for collision-free hashing", 1997). It tells data apart; it does not resist forgery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataHash(pub [u8; 32]);

impl Seen {
    /// The axis of the channels that were told apart.
    pub fn axis(&self) -> Option<usize> {
        self.channels.as_ref().map(ChannelSketches::axis)
    }
}

impl Tally {
    /// A tally of so many values and no sample; `each` if the extremes of each sample are to be kept. Large samples
    /// are thinned unless [`counting`](Self::counting) asks for every element.
    pub fn new(n_values: usize, each: bool) -> Tally {
        let sketch = || if each { Sketch::keeping_each() } else { Sketch::new() };
        Tally {
            values: (0..n_values).map(|_| Seen { sketch: sketch(), ..Seen::default() }).collect(),
            inputs: BTreeMap::new(),
            done: BTreeSet::new(),
            hash: DataHash::default(),
            counting: Counting::default(),
        }
    }

    /// The same with other elements counted.
    pub fn counting(self, counting: Counting) -> Tally {
        Tally { counting, ..self }
    }

    /// Which elements are counted.
    pub fn counted(&self) -> Counting {
        self.counting
    }

    /// The same, and of the values that have an axis here, statistics of the channels along it, too.
    pub fn by_channel(mut self, axes: &[Option<usize>]) -> Tally {
        for (seen, axis) in self.values.iter_mut().zip(axes) {
            seen.channels = axis.map(ChannelSketches::new);
        }
        self
    }

    /// A tally of the same values that has seen nothing.
    pub(crate) fn emptied(&self) -> Tally {
        let axes: Vec<Option<usize>> = self.values.iter().map(Seen::axis).collect();
        Tally::new(self.values.len(), self.keeps_each()).counting(self.counting).by_channel(&axes)
    }

    /// A tally from its parts, as read from a file.
    pub fn from_parts(
        values: Vec<Seen>,
        inputs: BTreeMap<String, First>,
        done: BTreeSet<usize>,
        hash: DataHash,
    ) -> Tally {
        Tally { values, inputs, done, hash, counting: Counting::default() }
    }

    /// Of each observed value.
    pub fn values(&self) -> &[Seen] {
        &self.values
    }

    /// Dimensions of graph inputs, by name.
    pub fn inputs(&self) -> &BTreeMap<String, First> {
        &self.inputs
    }

    /// Numbers of the samples seen.
    pub fn done(&self) -> &BTreeSet<usize> {
        &self.done
    }

    /// Hash of the samples seen; zero if they were not hashed.
    pub fn hash(&self) -> DataHash {
        self.hash
    }

    /// Whether the extremes of each sample are kept.
    pub fn keeps_each(&self) -> bool {
        self.values.iter().all(|v| v.sketch.keeps_each())
    }

    /// Takes in what another tally of the same values has seen, in other samples.
    pub fn merge(&mut self, other: &Tally) {
        for (all, one) in self.values.iter_mut().zip(&other.values) {
            all.sketch.merge(&one.sketch);
            if let (Some(all), Some(one)) = (&mut all.channels, &one.channels) {
                all.merge(one);
            }
            if let Some(first) = &one.first {
                earliest(&mut all.first, first.sample, &first.dims);
            }
        }
        for (name, first) in &other.inputs {
            self.input(name, first.sample, &first.dims);
        }
        self.done.extend(&other.done);
        self.hash.merge(other.hash);
    }

    /// Begins a sample.
    pub(crate) fn begin(&mut self, i: usize, sample: &Sample, hash: bool) {
        self.done.insert(i);
        for (name, t) in sample {
            self.input(name, i, t.dims());
        }
        if hash {
            self.hash.merge(DataHash::of(sample));
        }
    }

    /// Takes in a value of a sample.
    pub(crate) fn observe(&mut self, i: usize, slot: usize, dims: &[usize], data: &[f32]) {
        let seen = &mut self.values[slot];
        seen.sketch.observe_nth(i, data, self.counting);
        if let Some(channels) = &mut seen.channels {
            channels.observe(dims, data);
        }
        earliest(&mut seen.first, i, dims);
    }

    fn input(&mut self, name: &str, sample: usize, dims: &[usize]) {
        match self.inputs.get_mut(name) {
            Some(first) if first.sample <= sample => (),
            Some(first) => *first = First { sample, dims: dims.to_vec() },
            None => {
                self.inputs.insert(name.to_owned(), First { sample, dims: dims.to_vec() });
            }
        }
    }

    /// The statistics of values that were observed in this order.
    pub(crate) fn statistics(self, model: &Model, observed: &[ValueId]) -> Statistics {
        let mut statistics = Statistics { samples: self.done.len(), ..Statistics::default() };
        for (v, seen) in observed.iter().zip(self.values) {
            statistics.sketches.insert(*v, seen.sketch);
            if let Some(first) = seen.first {
                statistics.dims.insert(*v, first.dims);
            }
        }
        for (name, first) in self.inputs {
            if let Some(v) = model.main().value_named(&name) {
                statistics.dims.insert(v, first.dims);
            }
        }
        statistics
    }
}

fn earliest(first: &mut Option<First>, sample: usize, dims: &[usize]) {
    if first.as_ref().is_none_or(|f| sample < f.sample) {
        *first = Some(First { sample, dims: dims.to_vec() });
    }
}

impl DataHash {
    /// The hash of all samples, whatever their order.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn of_all(samples: &dyn Samples) -> Result<DataHash, String> {
        let mut tally = Tally::new(0, false);
        for i in 0..samples.len() {
            tally.begin(i, &samples.get(i)?, true);
        }
        Ok(tally.hash())
    }

    /// The hash of one sample: names, types, dimensions and elements of its arrays.
    fn of(sample: &Sample) -> DataHash {
        let mut hash = Sha256::new();
        for (name, t) in sample {
            for text in [name.as_str(), t.dtype().name()] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            hash.update((t.rank() as u64).to_le_bytes());
            for d in t.dims() {
                hash.update((*d as u64).to_le_bytes());
            }
            match t.as_strings() {
                Some(strings) => strings.iter().for_each(|s| {
                    hash.update((s.len() as u64).to_le_bytes());
                    hash.update(s);
                }),
                None => hash.update(t.bytes()),
            }
        }
        DataHash(hash.finalize().into())
    }

    fn merge(&mut self, other: DataHash) {
        let mut carry = 0;
        for (a, b) in self.0.iter_mut().zip(other.0) {
            let sum = u16::from(*a) + u16::from(b) + carry;
            *a = sum as u8;
            carry = sum >> 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::Tensor;

    fn seen(samples: &[(usize, &[f32])]) -> Tally {
        let mut tally = Tally::new(1, true).by_channel(&[Some(0)]);
        for (i, data) in samples {
            let sample = vec![("x".to_owned(), Tensor::from_f32(&[data.len()], data))];
            tally.begin(*i, &sample, true);
            tally.observe(*i, 0, &[data.len()], data);
        }
        tally
    }

    #[test]
    fn order_and_partition_leave_no_trace() {
        let samples: [(usize, &[f32]); 3] = [(0, &[1.0, -2.0]), (1, &[0.0]), (2, &[3.0, 4.0, 5.0])];
        let all = seen(&samples);
        let mut merged = seen(&[samples[2], samples[1]]);
        merged.merge(&seen(&samples[..1]));
        assert_eq!(merged, all);
        assert_eq!(all.values()[0].channels.as_ref().unwrap().sketches().len(), 3);
        assert_eq!(all.values()[0].first, Some(First { sample: 0, dims: vec![2] }));
        assert_ne!(seen(&samples[..2]).hash(), seen(&samples[1..]).hash());
    }
}
