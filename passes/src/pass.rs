//! What a pass is.

use crate::config::Config;
use crate::frozen::Frozen;
use crate::plan::{QuantPlan, Steering};
use crate::report::Notes;
use crate::statistics::Statistics;
use crate::trials::Trials;
use squint_ir::{Model, OpTable, ValueId, ValueTable};
use squint_ops::Fact;
use std::collections::BTreeMap;

/// A step of the compiler.
///
/// Three laws: analyses never change the model; planning writes only the plan; emission reads only the
/// plan.
pub trait Pass: Sync {
    /// Name in kebab case: also the file, the spelling on the command line and the snapshot folder.
    fn name(&self) -> &'static str;

    /// The phase the model must have reached.
    fn needs(&self) -> Phase;

    /// The phase it has reached afterwards, if this pass moves it on.
    fn reaches(&self) -> Option<Phase> {
        None
    }

    /// Runs the pass.
    ///
    /// # Errors
    /// Only for faults of the model, the data or the configuration; each names its node.
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError>;
}

/// How far a model has come. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// As read from the file.
    #[default]
    Imported,
    /// One way to write each thing; the operator set is new enough for the scheme.
    Canonical,
    /// Types and shapes are known as far as they can be.
    Typed,
    /// It is decided which values are watched.
    Observed,
    /// Statistics are there.
    Calibrated,
    /// Every value and operator has a decision.
    Planned,
    /// Quantization operators stand in the graph.
    Quantized,
    /// Ready to be written.
    Final,
}

/// Whether a pass changed the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The model is as it was.
    No,
    /// The model differs.
    Yes,
}

impl From<bool> for Changed {
    fn from(changed: bool) -> Changed {
        if changed { Changed::Yes } else { Changed::No }
    }
}

/// What passes share: configuration, analyses of the main graph and notes for the user.
pub struct PassCx<'a> {
    /// What the user asked for.
    pub config: &'a Config,
    /// Types, shapes and known contents of the values of the main graph.
    pub facts: ValueTable<Fact>,
    /// Values to watch during calibration, in the order of the graph.
    pub observed: Vec<ValueId>,
    /// What calibration saw.
    pub statistics: Statistics,
    /// What has been learnt about accuracy.
    pub steering: Steering,
    /// Operators that what calibrates does not get to.
    pub beyond: OpTable<()>,
    /// Which samples plans are tried on.
    pub(crate) trials: Trials,
    /// Grids that values have already, if the model was quantized; they are kept, and none is chosen.
    pub frozen: Option<Frozen>,
    /// What is to be done.
    pub plan: QuantPlan,
    /// Rules of fusion that applied, and how often.
    pub rewrites: BTreeMap<&'static str, usize>,
    /// What the user should be told.
    pub notes: Notes,
}

impl<'a> PassCx<'a> {
    /// A context before any analysis.
    pub fn new(config: &'a Config) -> PassCx<'a> {
        PassCx {
            config,
            facts: ValueTable::new(),
            observed: Vec::new(),
            statistics: Statistics::default(),
            steering: Steering::default(),
            beyond: OpTable::new(),
            trials: Trials::default(),
            frozen: None,
            plan: QuantPlan::default(),
            rewrites: BTreeMap::new(),
            notes: Notes::default(),
        }
    }

    /// What is known of a value; a constant is always known.
    pub fn fact(&self, model: &Model, v: ValueId) -> Fact {
        let value = model.main().value(v);
        match (&value.konst, self.facts.get(v), &value.ty) {
            (Some(t), ..) => Fact::constant(t.clone()),
            (None, Some(f), _) => f.clone(),
            (None, None, Some(ty)) => Fact::from_type(ty),
            (None, None, None) => Fact::default(),
        }
    }

    /// The rank of a value, if known.
    pub fn rank(&self, model: &Model, v: ValueId) -> Option<usize> {
        match model.main().konst(v) {
            Some(t) => Some(t.rank()),
            None => self.fact(model, v).rank(),
        }
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The model is not well-formed.
    #[error("{0}")]
    Model(String),
    /// The data cannot be used.
    #[error("{0}")]
    Data(String),
    /// What was asked for cannot be done.
    #[error("{0}")]
    Config(String),
    /// There are operators that the executor cannot run, or would run wrong.
    #[error("{executor} cannot run this model: {problem}")]
    Unsupported {
        /// Name of the executor.
        executor: &'static str,
        /// The operators, each with the reason.
        problem: String,
    },
    /// The executor failed.
    #[error(transparent)]
    Execute(#[from] squint_ir::execute::ExecuteError),
}
