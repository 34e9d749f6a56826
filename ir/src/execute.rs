//! The interface to whatever runs a float model on data.
//!
//! Calibration and comparison need the values inside a graph, not only its outputs. An executor prepares
//! a model once and then runs samples on it, from several threads at once, handing each observed value
//! to a closure while it is alive: nothing is kept, so memory stays flat however many values are watched.

use crate::{Model, OpId, Tensor, ValueId};

/// One sample: an array for each graph input, by name.
pub type Sample = Vec<(String, Tensor)>;

/// Receives observed values: the position in the list given to [`Execute::prepare`], the dimensions, and
/// the elements in row-major order. What it returns, as many elements, takes the value's place in the rest
/// of the run; `None` leaves the value as it is.
pub type Observer<'a> = dyn FnMut(usize, &[usize], &[f32]) -> Option<Vec<f32>> + 'a;

/// Receives observed values as an [`Observer`] does, and changes their elements where they lie: the rest of the run
/// goes on with what it leaves.
pub type Editor<'a> = dyn FnMut(usize, &[usize], &mut Elements<'_>) + 'a;

/// As [`Observer`], for values that are changed in several runs.
pub type Change<'a> = dyn Fn(usize, &[usize], &[f32]) -> Option<Vec<f32>> + 'a;

/// Something that can run float models.
pub trait Execute: Sync {
    /// Its name as users write it.
    fn name(&self) -> &'static str;

    /// What in `model` this executor cannot run, or is known to run wrong; empty if all is well. Nothing
    /// is run.
    fn preflight(&self, model: &Model) -> Vec<Unsupported>;

    /// Makes the model ready to run, with `observe` (values of the main graph) exposed. The session does not need
    /// the model afterwards.
    ///
    /// # Errors
    /// If the executor refuses the model.
    fn prepare<'e>(
        &'e self,
        model: &Model,
        observe: &[ValueId],
    ) -> Result<Box<dyn Session + 'e>, ExecuteError>;
}

/// A model ready to run. Shared by threads.
pub trait Session: Sync {
    /// Runs one sample, calls `observe` once for each observed floating-point value, in any order and
    /// from the calling thread, and returns the graph outputs in their order.
    ///
    /// # Errors
    /// If an input is missing or of the wrong type or shape, or an operator fails.
    fn run(&self, sample: &Sample, observe: &mut Observer<'_>) -> Result<Vec<Tensor>, ExecuteError>;

    /// Runs one sample as [`Session::run`] does, with values that are changed in place: an executor that can spares
    /// the copy.
    ///
    /// # Errors
    /// As [`Session::run`].
    fn run_edited(&self, sample: &Sample, edit: &mut Editor<'_>) -> Result<Vec<Tensor>, ExecuteError> {
        self.run(sample, &mut |slot, dims, data| {
            let mut elements = Elements::borrowed(data);
            edit(slot, dims, &mut elements);
            elements.changed()
        })
    }

    /// Lets go of what takes much memory and can be made again when the next sample is run, such as layouts of weights.
    fn release(&self) {}

    /// Runs one sample as it is, and once more for each of `groups` of observed values, by their positions in the list
    /// given to [`Execute::prepare`], with what `change` gives in the place of each value of the group. `each` gets the
    /// number of a group and the graph outputs with it; what is returned are the outputs without any change. An executor
    /// that can computes only once what comes before a change.
    ///
    /// # Errors
    /// As [`Session::run`].
    fn run_each(
        &self,
        sample: &Sample,
        groups: &[Vec<usize>],
        change: &Change<'_>,
        each: &mut dyn FnMut(usize, Vec<Tensor>),
    ) -> Result<Vec<Tensor>, ExecuteError> {
        for (i, group) in groups.iter().enumerate() {
            let mut replace = |slot: usize, dims: &[usize], data: &[f32]| {
                if group.contains(&slot) { change(slot, dims, data) } else { None }
            };
            each(i, self.run(sample, &mut replace)?);
        }
        self.run(sample, &mut |_, _, _| None)
    }
}

/// The elements of an observed value in row-major order, which are copied before they are changed only where others
/// still read them.
pub struct Elements<'a>(Place<'a>);

enum Place<'a> {
    Own(&'a mut [f32]),
    Borrowed(&'a [f32]),
    Copied(Vec<f32>),
}

impl<'a> Elements<'a> {
    /// Of a value that nothing else reads: changed where it lies.
    pub fn own(data: &'a mut [f32]) -> Elements<'a> {
        Elements(Place::Own(data))
    }

    /// Of a value that others read as it is.
    pub fn borrowed(data: &'a [f32]) -> Elements<'a> {
        Elements(Place::Borrowed(data))
    }

    /// The elements, to be changed.
    pub fn edit(&mut self) -> &mut [f32] {
        if let Place::Borrowed(data) = self.0 {
            self.0 = Place::Copied(data.to_vec());
        }
        match &mut self.0 {
            Place::Own(data) => data,
            Place::Copied(data) => data,
            Place::Borrowed(_) => &mut [],
        }
    }

    /// What has become of a borrowed value, if it was changed.
    pub fn changed(self) -> Option<Vec<f32>> {
        if let Place::Copied(data) = self.0 { Some(data) } else { None }
    }
}

impl std::ops::Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Place::Own(data) => data,
            Place::Borrowed(data) => data,
            Place::Copied(data) => data,
        }
    }
}

/// An operator that an executor cannot be trusted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The operator, in the main graph; for one inside a body, the operator that owns the body.
    pub op: OpId,
    /// Its name, or the name of its first result.
    pub node: String,
    /// Its type, with the domain if that is not the default.
    pub op_type: String,
    /// What is wrong.
    pub reason: String,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecuteError {
    /// The sample does not fit the model's inputs.
    #[error("input `{input}`: {problem}")]
    Input {
        /// Name of the graph input.
        input: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The executor is a library, which cannot be used.
    #[error("cannot use `{library}`: {problem}")]
    Library {
        /// The file.
        library: String,
        /// What the system or the library says.
        problem: String,
    },
    /// The executor cannot load or optimise the model.
    #[error("{executor} cannot load the model: {problem}")]
    Load {
        /// Name of the executor.
        executor: &'static str,
        /// Its own words, with operator and node where it says them.
        problem: String,
    },
    /// An operator failed on this sample.
    #[error("{executor} failed to run the model: {problem}")]
    Run {
        /// Name of the executor.
        executor: &'static str,
        /// Its own words, with operator and node where it says them.
        problem: String,
    },
}

/// Calibration samples, read one at a time.
pub trait Samples: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// True if there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the sample at a position; called from several threads at once.
    ///
    /// # Errors
    /// A message that names the file and says what is wrong with it.
    fn get(&self, index: usize) -> Result<Sample, String>;
}
