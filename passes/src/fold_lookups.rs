//! `fold-lookups`: what is computed of each row that a Gather takes from a constant table is computed of the table.
//!
//! ```text
//! g = Gather (t, i)   a = Add (g, b)   r = Relu (a)      becomes      r = Gather (t', i)
//! ```
//!
//! where `t' = Relu(t + b)`: embeddings of few symbols, whose activation exporters leave behind the lookup. It holds for
//! functions of single elements, with constants that are the same for all rows, and between lookups by the same indices.

use crate::elementwise::takes_rows;
use crate::pass::{Changed, Pass, PassCx, PassError, Phase};
use rustc_hash::FxHashMap;
use squint_ir::{DType, Graph, Model, OpId, OpSpec, Tensor, ValueId};
use squint_ops::{Class, EvalCx, row};
use std::sync::Arc;

/// The pass.
pub(crate) struct FoldLookups;

/// Tables of so many elements may be written more than once.
const SMALL: usize = 1 << 18;

impl Pass for FoldLookups {
    fn name(&self) -> &'static str {
        "fold-lookups"
    }

    fn needs(&self) -> Phase {
        Phase::Typed
    }

    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        // Grids that are given belong to values that would go.
        if cx.frozen.is_some() {
            return Ok(Changed::No);
        }
        let order = model.main().topo().map_err(|c| PassError::Model(c.to_string()))?;
        let mut tables: FxHashMap<ValueId, Lookup> = FxHashMap::default();
        let mut folded = Vec::new();
        for op in order {
            let g = model.main();
            let Some(result) = g.result(op, 0) else { continue };
            if let Some(lookup) = Lookup::of(g, op) {
                tables.insert(result, lookup);
            } else if let Some(lookup) = function(model, op, &tables) {
                tables.insert(result, lookup);
                folded.push(op);
            }
        }
        let mut changed = false;
        for op in folded {
            let g = model.main_mut();
            let Some(result) = g.result(op, 0) else { continue };
            let needed = g.is_output(result) || g.uses(result).iter().any(|u| !covers(g, u.op, &tables));
            if let Some(lookup) = tables.get(&result).filter(|_| needed).cloned() {
                lookup.write(g, op, result);
                changed = true;
            }
        }
        Ok(changed.into())
    }
}

/// `Gather <axis = 0> (table, indices)`.
#[derive(Clone)]
struct Lookup {
    table: Arc<Tensor>,
    indices: ValueId,
}

/// True if the only result of an operator is a lookup itself.
fn covers(g: &Graph, op: OpId, tables: &FxHashMap<ValueId, Lookup>) -> bool {
    g.result(op, 0).is_some_and(|v| tables.contains_key(&v))
}

impl Lookup {
    fn of(g: &Graph, op: OpId) -> Option<Lookup> {
        let node = g.op(op);
        let (v, indices) = (g.operand(op, 0)?, g.operand(op, 1)?);
        let table = g.konst(v).filter(|t| t.dtype() == DType::Float && t.rank() > 1 && !g.is_input(v))?;
        let fits = node.is("Gather")
            && node.int("axis").unwrap_or(0) == 0
            && g.konst(indices).is_none()
            && (table.len() <= SMALL || g.only_use(v).is_some());
        fits.then(|| Lookup { table: table.clone(), indices })
    }

    fn write(self, g: &mut Graph, op: OpId, result: ValueId) {
        let origin = format!("fold-lookups({})", g.label(op));
        let table = g.add_const(&format!("{}_table", g.value(result).name()), self.table);
        let name = g.op(op).name.clone();
        let spec =
            OpSpec::new("Gather").name(name).attr("axis", 0i64).operands([table, self.indices]).near(op);
        g.set_result(op, 0, None);
        let gather = g.add_op(spec.origin(origin));
        g.set_result(gather, 0, Some(result));
        g.remove_op(op);
    }
}

/// The lookup that an operator makes of others.
fn function(model: &Model, op: OpId, tables: &FxHashMap<ValueId, Lookup>) -> Option<Lookup> {
    let g = model.main();
    let node = g.op(op);
    let known = row(&node.domain, &node.op_type)?;
    let by_element = matches!(known.class, Class::Clamp | Class::Unary | Class::Bounded | Class::Binary)
        || ["Sub", "Div", "Pow", "Sqrt", "Erf", "Max", "Min"].iter().any(|t| node.is(t));
    if !by_element || takes_rows(node) || !node.is_onnx() || g.results(op).len() != 1 {
        return None;
    }
    let operands = g.operands(op);
    let of = |v: &Option<ValueId>| v.and_then(|v| tables.get(&v));
    let first = operands.iter().find_map(of)?;
    let mut inputs: Vec<Option<Tensor>> = Vec::new();
    for v in &operands {
        inputs.push(match (of(v), v) {
            (Some(l), _) if l.indices == first.indices && l.table.dims() == first.table.dims() => {
                Some(l.table.as_ref().clone())
            }
            (Some(_), _) => return None,
            (None, None) => None,
            (None, Some(v)) => {
                Some(same_for_all_rows(g.konst(*v).filter(|_| !g.is_input(*v))?, first.table.rank())?)
            }
        });
    }
    // A table that is read elsewhere, too, would be written twice.
    let again = operands.iter().flatten().any(|v| tables.contains_key(v) && g.only_use(*v).is_none());
    if again && first.table.len() > SMALL {
        return None;
    }
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    let cx = EvalCx { op: node, opset: model.opset(&node.domain)?, inputs: &inputs, n_results: 1 };
    let table = (known.eval?)(&cx).ok()?.into_iter().next()?;
    (table.dims() == first.table.dims() && table.dtype() == DType::Float)
        .then(|| Lookup { table: table.into(), indices: first.indices })
}

/// A constant that is broadcast to every row of a table of this rank, with no more axes than a row.
fn same_for_all_rows(k: &Arc<Tensor>, rank: usize) -> Option<Tensor> {
    let dims = k.dims();
    let extra = dims.len().saturating_sub(rank - 1);
    (dims[..extra].iter().all(|d| *d == 1)).then(|| k.reshaped(&dims[extra..]).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::eliminate_dead_code::EliminateDeadCode;
    use crate::fuse::testing::{ops, outputs, parse};

    fn run(body: &str) -> String {
        let before = parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]> m (float[2,3] f) => (float[2,3,4] y) \
             <float[5,4] t = [\"location\": \"gen:randn\"], float[4] b = {{1, 2, 3, 4}}, float two = {{2}}, \
              float[1,1,4] c = {{0.5, 1, 2, 3}}, float[3,4] p = [\"location\": \"gen:randn\"]> \
             {{ h = Mul (f, two) q = Abs (h) i = Cast <to = 7> (q) g = Gather (t, i) {body} }}"
        ));
        let mut after = before.clone();
        let config = Config::new("cpu-vnni");
        let mut cx = PassCx::new(&config);
        FoldLookups.run(&mut after, &mut cx).unwrap();
        EliminateDeadCode.run(&mut after, &mut cx).unwrap();
        let [(_, a), (_, b)] = [&outputs(&before)[0], &outputs(&after)[0]];
        assert_eq!(a.dims(), b.dims());
        assert!(a.f32s().iter().zip(b.f32s().iter()).all(|(a, b)| (a - b).abs() < 1e-6), "{body}");
        ops(&after).strip_prefix("Mul Abs Cast ").unwrap().to_owned()
    }

    #[test]
    fn functions_of_rows_go_into_the_table() {
        assert_eq!(run("a = Add (g, b) y = Relu (a)"), "Gather");
        assert_eq!(run("a = Mul (c, g) y = Sub (g, a)"), "Gather");
        assert_eq!(run("a = Add (g, b) r = Tanh (a) m = Mul (r, a) y = Clip (m, , two)"), "Gather");
    }

    #[test]
    fn what_is_not_the_same_for_all_rows_stays() {
        assert_eq!(run("y = Add (g, p)"), "Gather Add");
        assert_eq!(run("a = Add (g, b) y = Softmax (a)"), "Gather Softmax");
    }
}
