//! One executable plan: a model loaded by tract for inputs of one signature ([`crate::signature`]), observed and
//! optimised.
//!
//! The order of the steps is what makes this fast and right: what is known of the inputs is known before typing, and
//! observing operators are in place before optimisation ([`crate::observe`]). Stored `value_info` is ignored: tract
//! infers every shape from the inputs, and recorded shapes only get in the way of other ones.

use crate::guard;
use crate::observe::{Constant, Observe, elements, replacement, splice};
use crate::pieces::{self, Constants};
use crate::registry;
use crate::signature::Signature;
use crate::variants;
use crate::weights::Weights;
use squint_ir::execute::{Change, Editor, Elements};
use std::collections::HashSet;
use std::sync::Arc;
use tract_onnx::pb::{GraphProto, ModelProto};
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::plan::eval;
use tract_onnx::tract_hir::internal::InferenceModelExt;

/// What plans are made from.
pub(crate) struct Source {
    /// The encoded model, with inputs in the place of weights.
    pub(crate) bytes: Vec<u8>,
    pub(crate) weights: Weights,
    /// What plans share.
    pub(crate) shared: Constants,
}

/// What went wrong inside tract, and in which of its nodes if it says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Name of a tract node: that of an ONNX node, or one that extends it with a `.suffix`.
    pub(crate) node: Option<String>,
    pub(crate) message: String,
}

/// A plan that any number of threads can run at once.
pub(crate) struct Plan {
    plan: Arc<TypedSimplePlan>,
    /// Observed values that are the same in every run, as binary32.
    constants: Vec<(usize, Vec<usize>, Vec<f32>)>,
}

impl Plan {
    /// Loads and optimises the model for inputs of `signature`, with the values named `observe` exposed.
    pub(crate) fn build(source: &Source, signature: &Signature, observe: &[String]) -> Result<Plan, Problem> {
        guard::quietly(|| Plan::load(source, signature, observe))
            .map_err(|panic| Problem { node: None, message: panic })?
            .map_err(|e| Problem::new(&e))
    }

    fn load(source: &Source, signature: &Signature, observe: &[String]) -> TractResult<Plan> {
        let mut proto = <ModelProto as prost::Message>::decode(source.bytes.as_slice())?;
        if let Some(graph) = &mut proto.graph {
            distinct_names(graph);
        }
        let onnx = registry::onnx();
        let mut parsed = onnx.parse(&proto, None)?;
        drop(proto);
        source.weights.put(&mut parsed, &source.shared)?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            bail!("value `{name}` has no producer");
        }
        let mut model = parsed.model;
        let facts = signature.facts(&model.symbols)?;
        ensure!(model.inputs.len() == facts.len(), "the model has {} inputs", model.inputs.len());
        for (i, fact) in facts.into_iter().enumerate() {
            model.set_input_fact(i, fact)?;
        }
        let results = model.outputs.len();
        let mut outlets = model.outputs.clone();
        let mut slots = vec![];
        for (slot, name) in observe.iter().enumerate() {
            if let Some(outlet) = parsed.outlets_by_name.get(name) {
                slots.push(slot);
                outlets.push(*outlet);
            }
        }
        // Outputs keep their identity through typing: that is how the observed tensors are found again.
        model.select_output_outlets(&outlets)?;
        let mut typed = model.into_typed()?;
        let outlets = typed.outputs.split_off(results);
        let wanted: Vec<_> = slots.into_iter().zip(outlets).collect();
        let constants = splice(&mut typed, &wanted)?;
        let constants = constants
            .into_iter()
            .map(|Constant { slot, value }| {
                Ok((slot, value.shape().to_vec(), elements(&value)?.into_owned()))
            })
            .collect::<TractResult<_>>()?;
        let plan = pieces::optimize(typed, &source.shared)?.into_runnable()?;
        Ok(Plan { plan, constants })
    }

    /// Runs the plan on inputs of its signature. `edit` is called on this thread with the slot, the
    /// dimensions and the elements of every observed tensor.
    pub(crate) fn run(&self, inputs: TVec<TValue>, edit: &mut Editor<'_>) -> Result<TVec<TValue>, Problem> {
        self.guarded(|current| self.step(inputs, current, edit))
    }

    /// Runs the plan on inputs of its signature, and again for each of `groups` of observed values with what `change`
    /// gives in their place. `each` gets the number of a group and its outputs.
    pub(crate) fn run_each(
        &self,
        inputs: TVec<TValue>,
        groups: &[Vec<usize>],
        change: &Change<'_>,
        each: &mut dyn FnMut(usize, TVec<TValue>),
    ) -> Result<TVec<TValue>, Problem> {
        self.guarded(|current| variants::run(&self.plan, inputs, groups, change, each, current))
    }

    /// Runs something that keeps the number of the node at work, by which a failure is found.
    fn guarded(
        &self,
        run: impl FnOnce(&mut Option<usize>) -> TractResult<TVec<TValue>>,
    ) -> Result<TVec<TValue>, Problem> {
        let mut current = None;
        let outcome = guard::quietly(|| run(&mut current));
        let node = || current.map(|id| self.plan.model().node(id).name.clone());
        match outcome {
            Ok(Ok(outputs)) => Ok(outputs),
            Ok(Err(e)) => Err(Problem { node: node(), ..Problem::new(&e) }),
            Err(panic) => Err(Problem { node: node(), message: panic }),
        }
    }

    fn step(
        &self,
        inputs: TVec<TValue>,
        current: &mut Option<usize>,
        edit: &mut Editor<'_>,
    ) -> TractResult<TVec<TValue>> {
        // A fresh state for each run: ONNX models keep nothing from one run to the next.
        let outputs = self.plan.spawn()?.run_plan_with_eval(inputs, |ctx, state, node, inputs| {
            *current = Some(node.id);
            match node.op_as::<Observe>() {
                Some(Observe { slots }) => edited(inputs, slots, edit),
                None => eval(ctx, state, node, inputs),
            }
        })?;
        *current = None;
        for (slot, dims, elements) in &self.constants {
            guard::aloud(|| edit(*slot, dims, &mut Elements::borrowed(elements)));
        }
        Ok(outputs)
    }
}

/// What goes on behind an observing operator. A tensor that nothing else holds is changed where it lies.
fn edited(mut inputs: TVec<TValue>, slots: &[usize], edit: &mut Editor<'_>) -> TractResult<TVec<TValue>> {
    let Some(input) = inputs.pop() else { bail!("there is nothing to observe") };
    let mut tensor = input.into_arc_tensor();
    let dims: TVec<usize> = tensor.shape().into();
    if tensor.datum_type() == DatumType::F32
        && let Some(own) = Arc::get_mut(&mut tensor)
    {
        let mut own = own.try_as_plain_ram_mut()?;
        let mut elements = Elements::own(own.as_slice_mut()?);
        slots.iter().for_each(|slot| guard::aloud(|| edit(*slot, &dims, &mut elements)));
        return Ok(tvec!(tensor.into_tvalue()));
    }
    let changed = {
        let data = elements(&tensor)?;
        let mut elements = Elements::borrowed(&data);
        slots.iter().for_each(|slot| guard::aloud(|| edit(*slot, &dims, &mut elements)));
        elements.changed()
    };
    match changed {
        None => Ok(tvec!(tensor.into_tvalue())),
        Some(changed) => Ok(tvec!(replacement(&tensor, &changed)?.into_tvalue())),
    }
}

/// Gives every node a name of its own, which ONNX does not ask for and tract does: the name it has, or that
/// of its first result, or one made from that.
fn distinct_names(graph: &mut GraphProto) {
    let sources = graph.input.iter().map(|v| &v.name).chain(graph.initializer.iter().map(|t| &t.name));
    let mut taken: HashSet<String> = sources.cloned().collect();
    for (i, node) in graph.node.iter_mut().enumerate() {
        let result = node.output.iter().find(|name| !name.is_empty()).cloned().unwrap_or_default();
        let numbered = format!("{result}#{i}");
        let candidates = [std::mem::take(&mut node.name), result, numbered];
        node.name = candidates.into_iter().find(|n| !n.is_empty() && !taken.contains(n)).unwrap_or_default();
        taken.insert(node.name.clone());
        for body in node.attribute.iter_mut().filter_map(|a| a.g.as_mut()) {
            distinct_names(body);
        }
    }
}

impl Problem {
    /// Longest message kept, in bytes: tract prints whole operators, constants included.
    const MAX_MESSAGE: usize = 600;

    fn new(error: &TractError) -> Problem {
        let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
        // The outermost context names the node, the root cause says what is wrong.
        let node = chain.iter().find_map(|text| named_node(text)).map(str::to_owned);
        let mut message = chain.last().cloned().unwrap_or_default();
        if let Some(end) = (0..=Problem::MAX_MESSAGE).rev().find(|i| message.is_char_boundary(*i)) {
            message.truncate(end);
        }
        Problem { node, message }
    }
}

/// The node that a line of tract's error context is about: `.. node #3 "name" Op ..`,
/// `Wiring node "name" ..` or `Building node name (Op)`.
fn named_node(context: &str) -> Option<&str> {
    if let Some(rest) = context.strip_prefix("Building node ") {
        return rest.rsplit_once(" (").map(|(name, _)| name).filter(|name| !name.is_empty());
    }
    let quoted = |start: usize| context[start..].split_once('"').map(|(name, _)| name);
    if let Some(at) = context.find("node \"") {
        return quoted(at + "node \"".len());
    }
    let hash = context.find('#')?;
    let digits = context[hash + 1..].find(|c: char| !c.is_ascii_digit())?;
    let rest = hash + 1 + digits;
    if digits > 0 && context[rest..].starts_with(" \"") { quoted(rest + 2) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_gets_a_name_of_its_own() {
        let node = |name: &str, output: &str| tract_onnx::pb::NodeProto {
            name: name.into(),
            output: vec![output.into()],
            ..Default::default()
        };
        let mut graph = GraphProto {
            input: vec![tract_onnx::pb::ValueInfoProto { name: "x".into(), ..Default::default() }],
            node: vec![node("n", "a"), node("n", "b"), node("", "c"), node("x", "n"), node("b", "b")],
            ..Default::default()
        };
        distinct_names(&mut graph);
        let names: Vec<&str> = graph.node.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["n", "b", "c", "n#3", "b#4"]);
    }

    #[test]
    fn nodes_are_found_in_error_contexts() {
        assert_eq!(named_node("Evaluating #12 \"conv.1\" Conv"), Some("conv.1"));
        assert_eq!(named_node("Failed analyse for node #3 \"a b\" Add"), Some("a b"));
        assert_eq!(named_node("Wiring node \"x.y\", Add {}"), Some("x.y"));
        assert_eq!(named_node("Building node /m/Resize (Resize)"), Some("/m/Resize"));
        assert_eq!(named_node("Building node  (Resize)"), None);
        assert_eq!(named_node("Tensor #3 is wrong"), None);
    }
}
