//! What calibration saw of each value.

use crate::calibration::Sketch;
use squint_ir::{ValueId, ValueTable};

/// Statistics of the observed values of the main graph.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Distribution of elements.
    pub sketches: ValueTable<Sketch>,
    /// Dimensions of observed values and of graph inputs in the first sample.
    pub dims: ValueTable<Vec<usize>>,
    /// Number of samples.
    pub samples: usize,
}

impl Statistics {
    /// The distribution of a value, if any element of it was seen.
    pub fn sketch(&self, v: ValueId) -> Option<&Sketch> {
        self.sketches.get(v)
    }
}
