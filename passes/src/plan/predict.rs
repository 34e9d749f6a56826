//! What a plan costs: the same sums that the placement minimises, for the placement that was made.

use super::{OpPlan, QuantPlan};
use squint_ir::{Graph, OpId, OpTable, ValueTable};
use squint_targets::{Costs, Operand, Site, Target};

/// Nanoseconds of one core for a run as planned (`integer`), and with everything in float.
pub(super) fn predict(g: &Graph, target: &dyn Target, sites: &[(OpId, Site<'_>)], plan: &QuantPlan) -> Costs {
    let mut total = Costs { integer: 0, float: 0 };
    let mut site_of: OpTable<&Site<'_>> = OpTable::new();
    let mut operands: ValueTable<&Operand> = ValueTable::new();
    for (op, site) in sites {
        let costs = target.cost(site);
        total.float += costs.float;
        total.integer += match plan.ops.get(*op) {
            Some(OpPlan::Integer(_)) => costs.integer,
            Some(OpPlan::Dynamic(_)) => target.dynamic_cost(site, 1).unwrap_or(costs.float),
            Some(OpPlan::Absorbed(_)) => 0,
            _ => costs.float,
        };
        site_of.insert(*op, site);
        for o in site.operands.iter().chain(&site.results).flatten() {
            operands.insert(o.value, o);
        }
    }
    for (v, planned) in plan.values.iter().filter(|(v, _)| g.konst(*v).is_none()) {
        let Some(operand) = operands.get(v) else { continue };
        let maker = g.producer(v).and_then(|(op, _)| site_of.get(op)).copied();
        if !planned.made_by_integer {
            total.integer += target.quantize_cost(operand, maker);
            continue;
        }
        // Each float reader dequantizes for itself, and so does whoever reads an output.
        for u in g.uses(v).iter().filter(|u| !plan.in_integers(u.op)) {
            total.integer += target.dequantize_cost(operand, site_of.get(u.op).copied());
        }
        if g.is_output(v) {
            total.integer += target.dequantize_cost(operand, None);
        }
    }
    total
}
