//! `merge-common-subexpressions`: operators of the same type and attributes on the same operands become
//! one.
//!
//! One walk in execution order with a hash table; since operands of an operator are merged before it is
//! reached, chains of equal work merge in the same walk. Operators with bodies, random generators and
//! operators that make graph outputs twice over are left alone. Equal small constants are merged first, so
//! that operators which differ only in which copy of a constant they read are seen as equal.

use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use rustc_hash::FxHashMap;
use squint_ir::{Attribute, Graph, Model, OpId, ValueId};

/// The pass.
pub(crate) struct MergeCommonSubexpressions;

/// Constants up to this many bytes are compared by content; larger ones only by identity.
const SMALL: usize = 4096;

impl Pass for MergeCommonSubexpressions {
    fn name(&self) -> &'static str {
        "merge-common-subexpressions"
    }

    fn needs(&self) -> Phase {
        Phase::Imported
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let g = model.main_mut();
        let mut changed = merge_constants(g, cx);
        let mut seen: FxHashMap<Key, Vec<OpId>> = FxHashMap::default();
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            let Some(key) = key(g, op) else { continue };
            let twins = seen.entry(key).or_default();
            match twins.iter().find(|t| same_attributes(&g.op(**t).attributes, &g.op(op).attributes)).copied()
            {
                Some(first) if mergeable(g, first, op) && agree(g, cx, first, op) => {
                    let pairs = g.results(op).into_iter().zip(g.results(first));
                    for (old, new) in pairs.collect::<Vec<_>>() {
                        if let (Some(old), Some(new)) = (old, new) {
                            g.replace_uses(old, new);
                            if let Some(frozen) = &mut cx.frozen {
                                frozen.hand_on(old, new);
                            }
                        }
                    }
                    g.remove_op_and_results(op);
                    changed = true;
                }
                Some(_) => {}
                None => twins.push(op),
            }
        }
        Ok(changed.into())
    }
}

type Key = (String, String, Vec<Option<ValueId>>, usize);

fn key(g: &Graph, op: OpId) -> Option<Key> {
    let node = g.op(op);
    let random = node.op_type.starts_with("Random")
        || matches!(node.op_type.as_str(), "Multinomial" | "Bernoulli" | "Dropout");
    if random || node.bodies().next().is_some() || !node.is_onnx() {
        return None;
    }
    Some((node.op_type.clone(), node.domain.clone(), g.operands(op), g.results(op).len()))
}

fn same_attributes(a: &[Attribute], b: &[Attribute]) -> bool {
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| x.name == y.name && x.value == y.value))
}

/// A graph output keeps its name, so an operator that makes one is never merged away.
fn mergeable(g: &Graph, first: OpId, op: OpId) -> bool {
    let outputs = g.results(op).into_iter().flatten().any(|v| g.is_output(v));
    let covers = g.results(op).iter().zip(g.results(first)).all(|(a, b)| a.is_none() || b.is_some());
    !outputs && covers
}

/// Values that are quantized on different grids are different values.
fn agree(g: &Graph, cx: &PassCx<'_>, first: OpId, op: OpId) -> bool {
    let mut pairs = g.results(op).into_iter().zip(g.results(first));
    let Some(frozen) = &cx.frozen else { return true };
    pairs.all(|(old, new)| old.zip(new).is_none_or(|(old, new)| frozen.agree(old, new)))
}

fn merge_constants(g: &mut Graph, cx: &PassCx<'_>) -> bool {
    let mut seen: FxHashMap<(i32, Vec<usize>, Vec<u8>), ValueId> = FxHashMap::default();
    let mut changed = false;
    for v in g.values().collect::<Vec<_>>() {
        let Some(t) = g.konst(v) else { continue };
        if g.producer(v).is_some()
            || g.is_input(v)
            || g.is_output(v)
            || t.bytes().len() > SMALL
            || t.as_strings().is_some()
            || cx.frozen.as_ref().is_some_and(|f| f.weights.contains(v))
        {
            continue;
        }
        let key = (t.dtype().code(), t.dims().to_vec(), t.bytes().to_vec());
        match seen.get(&key) {
            Some(first) => {
                let first = *first;
                g.replace_uses(v, first);
                g.remove_value(v);
                changed = true;
            }
            None => {
                seen.insert(key, v);
            }
        }
    }
    changed
}
