//! Equal work is done once (`constant_sharing.cc`, `common_subexpression_elimination.cc`).
//!
//! Constants of one element are equal if their contents are, in the types that the runtime shares; others, zero points
//! among them, only if they are the same constant. Copies of a DequantizeLinear stay apart.

use super::sim::{Gone, Sim};
use squint_ir::{AttrValue, DType, OpId, ValueId, ValueTable};
use std::collections::HashMap;

/// Operators whose results differ from run to run are never equal.
const RANDOM: &str = "Random";

/// Types of constants that are shared.
const SHARED: &[DType] = &[DType::Float, DType::Float16, DType::Double, DType::Int32, DType::Int64];

/// What makes two operators equal.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    op_type: String,
    domain: String,
    attributes: Vec<(String, String)>,
    operands: Vec<Option<u32>>,
    n_results: usize,
}

/// Merges operators that compute the same.
pub(super) fn merge_equal(sim: &mut Sim) -> bool {
    let mut classes: ValueTable<u32> = ValueTable::new();
    let mut scalars: HashMap<(i32, Vec<u8>, usize), u32> = HashMap::new();
    let mut seen: HashMap<Key, OpId> = HashMap::new();
    let mut changed = false;
    let mut class = |sim: &Sim, v: ValueId| match classes.get(v) {
        Some(c) => *c,
        None => {
            let own = v.index() as u32;
            let scalar = sim.tensor(v).filter(|t| t.len() == 1 && SHARED.contains(&t.dtype()));
            let c = match scalar {
                Some(t) => *scalars.entry((t.dtype().code(), t.bytes().to_vec(), t.rank())).or_insert(own),
                None => own,
            };
            classes.insert(v, c);
            c
        }
    };
    for op in sim.order() {
        let node = sim.g.op(op);
        let Some(attributes) = attributes(sim, op) else { continue };
        let operands = sim.g.operands(op).into_iter().map(|v| v.map(|v| class(sim, v))).collect();
        let key = Key {
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            attributes,
            operands,
            n_results: sim.g.results(op).len(),
        };
        let Some(first) = seen.get(&key).copied() else {
            seen.insert(key, op);
            continue;
        };
        // The runtime keeps what makes a graph output.
        if sim.makes_output(op) {
            continue;
        }
        for (old, new) in sim.g.results(op).into_iter().zip(sim.g.results(first)) {
            if let (Some(old), Some(new)) = (old, new) {
                sim.replace(old, new);
            }
        }
        sim.remove(op, Gone::Into(first));
        changed = true;
    }
    changed
}

/// Attributes in an order of their own; `None` if the operator is never equal to another.
fn attributes(sim: &Sim, op: OpId) -> Option<Vec<(String, String)>> {
    let node = sim.g.op(op);
    if node.op_type.starts_with(RANDOM) || sim.is_dq(op) || sim.g.operands(op).is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for a in &node.attributes {
        let plain = matches!(
            a.value,
            AttrValue::Int(_)
                | AttrValue::Float(_)
                | AttrValue::String(_)
                | AttrValue::Ints(_)
                | AttrValue::Floats(_)
                | AttrValue::Strings(_)
        );
        if !plain {
            return None;
        }
        out.push((a.name.clone(), format!("{:?}", a.value)));
    }
    out.sort();
    Some(out)
}
