//! Statistics by name, detached from the graph they were measured on, with all that tells whether they fit
//! another run: the identity of the graph, of the data, and which samples they cover.

use crate::calibrate::{Seen, Tally};
use crate::pass::PassError;
use crate::statistics::Statistics;
use rustc_hash::FxHashMap;
use squint_ir::fingerprint::Fingerprint;
use squint_ir::{Model, ValueId};

/// Statistics that can be stored, merged and used later.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The float graph after fusion.
    pub graph: Fingerprint,
    /// The data.
    pub data: DataRecord,
    /// Names of the observed values, in the order of the tally.
    pub names: Vec<String>,
    /// What was seen.
    pub tally: Tally,
    /// Version of squint that measured.
    pub version: String,
}

/// What is known of calibration data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataRecord {
    /// Where it came from, for people.
    pub source: String,
    /// What was done to it before the model saw it, for people.
    pub preprocessing: String,
    /// Number of samples of the whole calibration; a recording may cover a part of them.
    pub total: usize,
}

impl Recording {
    /// Why two recordings are not parts of one calibration; `None` if they are.
    pub fn conflict(&self, other: &Recording) -> Option<String> {
        if let Some(difference) = self.graph.difference(&other.graph) {
            return Some(format!("they were measured on different graphs: {difference}"));
        }
        if self.version != other.version {
            return Some(format!("they are of squint {} and squint {}", self.version, other.version));
        }
        let (a, b) = (&self.data, &other.data);
        if a.total != b.total {
            return Some(format!("they are parts of {} and of {} samples", a.total, b.total));
        }
        for (what, a, b) in
            [("data", &a.source, &b.source), ("preprocessing", &a.preprocessing, &b.preprocessing)]
        {
            if a != b {
                return Some(format!("their {what} differs: `{a}` and `{b}`"));
            }
        }
        if self.names != other.names {
            let differ = self.names.iter().zip(&other.names).find(|(a, b)| a != b);
            let (a, b) = differ.map_or(("fewer values", "more"), |(a, b)| (a, b));
            return Some(format!("they are of different values: `{a}` and `{b}`"));
        }
        let (kept, other_kept) = (self.tally.keeps_each(), other.tally.keeps_each());
        if kept != other_kept && !self.names.is_empty() {
            return Some("only one of them has the extremes of each sample".into());
        }
        if self.tally.counted() != other.tally.counted() {
            return Some("only one of them counts every element of large samples".into());
        }
        let axes = |r: &Recording| r.tally.values().iter().map(Seen::axis).collect::<Vec<_>>();
        let differ = axes(self).into_iter().zip(axes(other)).position(|(a, b)| a != b);
        if let Some(i) = differ {
            return Some(format!("only one of them has the channels of `{}`", self.names[i]));
        }
        let both = self.tally.done().intersection(other.tally.done()).next();
        both.map(|sample| format!("sample {sample} is in both"))
    }

    /// Takes in another part of the same calibration.
    ///
    /// # Errors
    /// Why they do not go together.
    pub fn merge(&mut self, other: &Recording) -> Result<(), String> {
        match self.conflict(other) {
            Some(why) => Err(why),
            None => {
                self.tally.merge(&other.tally);
                Ok(())
            }
        }
    }

    /// Fails unless the main graph of `model` is the one measured; the first difference is named.
    pub(crate) fn expect(&self, model: &Model) -> Result<(), PassError> {
        let graph = Fingerprint::of(model).map_err(|c| PassError::Model(c.to_string()))?;
        match self.graph.difference(&graph) {
            None => Ok(()),
            Some(difference) => Err(PassError::Config(format!(
                "the statistics were measured on another graph than this model's: {difference}"
            ))),
        }
    }

    /// The statistics of those observed values of another form of the model whose names were measured.
    pub(crate) fn statistics_by_name(&self, model: &Model, observed: &[ValueId]) -> Statistics {
        let g = model.main();
        let named = |v: ValueId| self.names.iter().position(|n| n == g.value(v).name());
        let (values, seen): (Vec<ValueId>, Vec<Seen>) =
            observed.iter().filter_map(|v| Some((*v, self.tally.values()[named(*v)?].clone()))).unzip();
        let (inputs, done) = (self.tally.inputs().clone(), self.tally.done().clone());
        Tally::from_parts(seen, inputs, done, self.tally.hash()).statistics(model, &values)
    }

    /// The statistics as a table of the values of `model`, whose main graph must be the one measured.
    ///
    /// # Errors
    /// If it is another graph, or a value has no statistics; the first difference is named.
    pub(crate) fn statistics(&self, model: &Model, observed: &[ValueId]) -> Result<Statistics, PassError> {
        self.expect(model)?;
        let by_name: FxHashMap<&str, usize> =
            self.names.iter().zip(0..).map(|(n, i)| (n.as_str(), i)).collect();
        let g = model.main();
        let mut seen = Vec::with_capacity(observed.len());
        for v in observed {
            let name = g.value(*v).name();
            let Some(i) = by_name.get(name) else {
                return Err(PassError::Config(format!(
                    "the statistics do not cover value `{name}`; calibrate again for this target"
                )));
            };
            seen.push(self.tally.values()[*i].clone());
        }
        let (inputs, done) = (self.tally.inputs().clone(), self.tally.done().clone());
        Ok(Tally::from_parts(seen, inputs, done, self.tally.hash()).statistics(model, observed))
    }
}
