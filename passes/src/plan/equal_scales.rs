//! Equal scales for values between which elements are only moved.
//!
//! Where a runtime moves Q and DQ through Concat, Split, pools and movement operators, it can only do so, and merge what
//! meets, if the scales on both sides are equal to the bit.

use super::{QuantPlan, Tie, ValuePlan};
use squint_ir::{Graph, ValueId, ValueTable};
use squint_ops::Class;
use squint_targets::Site;

/// Gives all quantized values of a group the parameters of the one with the largest scale.
pub(super) fn equalize(g: &Graph, sites: &[(squint_ir::OpId, Site<'_>)], plan: &mut QuantPlan) {
    let mut groups = Groups::default();
    for (_, site) in sites {
        if !matches!(site.row.class, Class::Movement | Class::Join | Class::MaxPool) {
            continue;
        }
        let Some(first) = site.result() else { continue };
        // What is moved: every operand of a Concat, the first one of the others; every piece of a Split.
        let moved = site.activations().into_iter().filter_map(|slot| site.operand(slot as usize));
        for o in moved.chain(site.results.iter().flatten()).filter(|o| o.konst().is_none()) {
            groups.join(first.value, o.value);
        }
    }
    let mut widest: ValueTable<(ValueId, ValuePlan)> = ValueTable::new();
    let members: Vec<(ValueId, ValueId)> =
        plan.values.iter().map(|(v, _)| v).filter_map(|v| Some((v, groups.root(v)?))).collect();
    for (v, root) in &members {
        let Some(p) = plan.values.get(*v) else { continue };
        if widest.get(*root).is_none_or(|(_, w)| p.params.scale > w.params.scale) {
            widest.insert(*root, (*v, p.clone()));
        }
    }
    for (v, root) in members {
        let Some((from, w)) = widest.get(root) else { continue };
        if *from != v
            && let Some(mut p) = plan.values.get(v).cloned()
        {
            p.params = w.params;
            p.why = format!("as {}", g.value(*from).name());
            p.tie = Tie::As(*from);
            plan.values.insert(v, p);
        }
    }
}

/// Disjoint sets of values.
#[derive(Default)]
struct Groups {
    parent: ValueTable<ValueId>,
}

impl Groups {
    /// The representative of a value's set; `None` if it was never joined with another.
    fn root(&self, v: ValueId) -> Option<ValueId> {
        let mut at = *self.parent.get(v)?;
        while let Some(up) = self.parent.get(at).filter(|up| **up != at) {
            at = *up;
        }
        Some(at)
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        for v in [a, b] {
            if !self.parent.contains(v) {
                self.parent.insert(v, v);
            }
        }
        if let (Some(a_root), Some(b_root)) = (self.root(a), self.root(b)) {
            self.parent.insert(b_root, a_root);
            // Short ways keep the work linear.
            self.parent.insert(a, a_root);
            self.parent.insert(b, a_root);
        }
    }
}
