//! Placement: which units run in integers.
//!
//! Running a unit in integers changes its cost and may need conversions at its borders; whether a
//! conversion is needed depends on the neighbours. The cheapest assignment of the whole graph is a minimum
//! cut (the labelling problem is submodular: a conversion costs only where neighbours differ):
//!
//! - source side = integers, sink side = float;
//! - unit → sink costs the integer kernel, source → unit the float kernel;
//! - a value made by `p` and read by units `c`: one DequantizeLinear serves all float readers, so an
//!   auxiliary node `d` with `p → d` (its cost) and `d → c` (infinite); likewise one QuantizeLinear for
//!   all integer readers, `e` with `c → e` (infinite) and `e → p` (its cost).

use super::cut::{INFINITE, Network, SINK, SOURCE};
use super::units::Unit;
use squint_ir::{Graph, OpId, OpTable, ValueTable};
use squint_targets::{Params, Site, Support, Target};

/// For each unit, whether it runs in integers.
pub(super) fn place(g: &Graph, target: &dyn Target, sites: &[(OpId, Site<'_>)], units: &[Unit]) -> Vec<bool> {
    let mut n = Network::new();
    let nodes: Vec<u32> = units.iter().map(|_| n.node()).collect();
    let mut site_of: OpTable<usize> = OpTable::new();
    let mut elements: ValueTable<u64> = ValueTable::new();
    for (i, (op, site)) in sites.iter().enumerate() {
        site_of.insert(*op, i);
        for o in site.operands.iter().chain(&site.results).flatten() {
            elements.insert(o.value, o.elements().unwrap_or(DEFAULT_ELEMENTS));
        }
    }
    for (unit, node) in units.iter().zip(&nodes) {
        if unit.fixed.is_some() {
            n.edge(*node, SINK, INFINITE);
            continue;
        }
        let mut costs = target.cost(&sites[unit.site].1);
        for site in unit.clamps.iter().filter_map(|c| site_of.get(*c)) {
            costs.float += target.cost(&sites[*site].1).float;
        }
        // Only the difference matters to the cut.
        let common = costs.integer.min(costs.float);
        n.edge(SOURCE, *node, costs.float - common);
        n.edge(*node, SINK, costs.integer - common);
    }
    let wiring = Wiring::new(units);
    for (v, elements) in elements.iter() {
        let readers = wiring.readers.get(v).map_or(&[][..], Vec::as_slice);
        let (quantize, dequantize) = target.conversion_cost(*elements);
        // A graph output, a body or an operator without a row reads the value in float.
        let outside = g.is_output(v) || g.uses(v).iter().any(|u| u.capture || !site_of.contains(u.op));
        let producer = wiring.maker.get(v).copied();
        if let Some(p) = producer {
            let d = n.node();
            n.edge(nodes[p], d, if units[p].float_result { 0 } else { dequantize });
            if outside {
                n.edge(d, SINK, INFINITE);
            }
            for r in readers {
                n.edge(d, nodes[*r], INFINITE);
            }
        }
        if !readers.is_empty() {
            let e = n.node();
            n.edge(e, producer.map_or(SINK, |p| nodes[p]), quantize);
            for r in readers {
                n.edge(nodes[*r], e, INFINITE);
            }
        }
    }
    let cut = n.cut();
    let mut integer: Vec<bool> = nodes.iter().map(|node| cut[*node as usize]).collect();
    complete(g, units, &wiring, &mut integer);
    integer
}

/// Elements assumed of a value of unknown size.
const DEFAULT_ELEMENTS: u64 = 100_000;

/// Which unit makes a value and which read it, by position.
struct Wiring {
    maker: ValueTable<usize>,
    readers: ValueTable<Vec<usize>>,
}

impl Wiring {
    fn new(units: &[Unit]) -> Wiring {
        let mut w = Wiring { maker: ValueTable::new(), readers: ValueTable::new() };
        for (i, unit) in units.iter().enumerate() {
            for v in &unit.makes {
                w.maker.insert(*v, i);
            }
            for v in &unit.reads {
                match w.readers.get_mut(*v) {
                    Some(list) if list.last() == Some(&i) => {}
                    Some(list) => list.push(i),
                    None => {
                        w.readers.insert(*v, vec![i]);
                    }
                }
            }
        }
        w
    }
}

/// A unit with an integer kernel between quantized operands and a quantized result runs in integers
/// whatever was planned: that is the pattern the runtime looks for.
fn complete(g: &Graph, units: &[Unit], wiring: &Wiring, integer: &mut [bool]) {
    for i in 0..units.len() {
        let unit = &units[i];
        let own = matches!(unit.support, Support::Integer { params: Params::Own | Params::Fixed { .. }, .. });
        if integer[i] || unit.fixed.is_some() || !own || unit.reads.is_empty() {
            continue;
        }
        let fed = unit.reads.iter().all(|v| wiring.maker.get(*v).is_some_and(|p| integer[*p]));
        let quantized = |v| wiring.readers.get(v).is_some_and(|r| r.iter().any(|r| integer[*r]));
        let read = unit.makes.iter().all(|v| quantized(*v) && !g.is_output(*v));
        integer[i] = fed && read;
    }
}
