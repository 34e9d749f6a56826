//! What quantizing single values does to the outputs.

use super::{Deviation, Rounding, Simulator};
use crate::outputs::OutputErrors;
use crate::pass::PassError;
use crate::plan::QuantPlan;
use rayon::prelude::*;
use squint_ir::{ValueId, ValueTable};

impl Simulator<'_> {
    /// The error at the outputs from quantizing each planned value alone, with no more than about `runs` values and samples
    /// together: as many samples as that allows, and where not even one is, neighbours are quantized together and share
    /// their error. What comes before a value is run once for all values of a sample.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn error_of_each(&self, plan: &QuantPlan, runs: usize) -> Result<ValueTable<f64>, PassError> {
        let planned = |v: &ValueId| plan.values.get(*v).map(|p| Rounding::Planned(p.dtype, p.params));
        self.alone(self.observed.iter().map(planned).collect(), runs)
    }

    /// The same from quantizing each of these values in every run.
    ///
    /// # Errors
    /// If the executor fails.
    pub(crate) fn error_of_each_dynamic(
        &self,
        values: &[ValueId],
        runs: usize,
    ) -> Result<ValueTable<f64>, PassError> {
        let chosen = |v: &ValueId| values.contains(v).then_some(Rounding::Dynamic);
        self.alone(self.observed.iter().map(chosen).collect(), runs)
    }

    fn alone(&self, roundings: Vec<Option<Rounding>>, runs: usize) -> Result<ValueTable<f64>, PassError> {
        let rounded: Vec<usize> = (0..roundings.len()).filter(|slot| roundings[*slot].is_some()).collect();
        let n = (runs / rounded.len().max(1)).clamp(1, self.samples.len());
        let groups: Vec<Vec<usize>> =
            rounded.chunks(rounded.len().div_ceil(runs).max(1)).map(<[usize]>::to_vec).collect();
        // Where there are fewer samples than threads, threads share the groups of a sample; neighbours go to different
        // ones, since those that come early take longer.
        let parts = self.pool.current_num_threads().div_ceil(n).min(groups.len()).max(1);
        let tasks: Vec<(usize, usize)> =
            (0..n).flat_map(|sample| (0..parts).map(move |part| (sample, part))).collect();
        let one = |(sample, part): &(usize, usize)| {
            let mine: Vec<usize> = (*part..groups.len()).step_by(parts).collect();
            let slots: Vec<Vec<usize>> = mine.iter().map(|g| groups[*g].clone()).collect();
            let change = |slot: usize, _: &[usize], data: &[f32]| roundings[slot].map(|r| r.rounded(data));
            let mut sums: Vec<(usize, OutputErrors)> = Vec::with_capacity(mine.len());
            let input = self.samples.get(*sample)?;
            self.float.session().run_each(&input, &slots, &change, &mut |i, outputs| {
                let reference = &self.references[*sample];
                sums.push((mine[i], OutputErrors::between(reference, &outputs, &self.kinds)));
            })?;
            Ok(sums)
        };
        let all = self.pool.install(|| tasks.par_iter().map(one).collect::<Result<Vec<_>, PassError>>())?;
        // In the order of samples, whichever thread took which.
        let mut totals = vec![OutputErrors::new(self.kinds.len()); groups.len()];
        for (group, sums) in all.iter().flatten() {
            totals[*group].add(sums);
        }
        let mut table = ValueTable::new();
        for (group, sums) in groups.iter().zip(&totals) {
            for slot in group {
                table.insert(self.observed[*slot], Deviation::of(sums).error / group.len() as f64);
            }
        }
        Ok(table)
    }
}
