//! Placement: which units run in integers.
//!
//! Running a unit in integers changes its cost and may need conversions at its borders; whether a
//! conversion is needed depends on the neighbours. The cheapest assignment of the whole graph is a minimum
//! cut (the labelling problem is submodular: a conversion costs only where neighbours differ):
//!
//! - source side = integers, sink side = float;
//! - unit → sink costs the integer kernel, source → unit the float kernel, or one that quantizes its activations
//!   itself where that is faster: it reads and leaves float values, so that neighbours see no difference;
//! - where quantizing a value has a price in accuracy, an auxiliary node `z` with `z → sink` (the price) and
//!   infinite edges to it from whatever makes or reads the value in integers;
//! - where a maker may run in integers only with its reader, an infinite edge from the one to the other; and back, where a
//!   reader may only with its maker;
//! - a value made by `p` and read by units `c`: each float reader dequantizes for itself (runtimes copy a
//!   shared DequantizeLinear for each of its readers), so `p → c`; one QuantizeLinear serves all integer
//!   readers, so an auxiliary node `e` with `c → e` (infinite) and `e → p` (its cost).

use super::cut::{INFINITE, Network, SINK, SOURCE};
use super::dynamic::reads;
use super::units::Unit;
use squint_ir::{Graph, OpId, OpTable, ValueId, ValueTable};
use squint_targets::{Operand, Params, Site, Support, Target};

/// Where a unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// In float.
    Float,
    /// In integers, between values whose scales are planned.
    Integer,
    /// In integers, between float values.
    Dynamic,
}

/// What quantizing a value costs in accuracy, in the unit of the target's costs.
pub(super) struct Prices<'a> {
    /// With a scale that is planned.
    pub(super) planned: &'a dyn Fn(ValueId) -> u64,
    /// With a scale found in every run.
    pub(super) dynamic: &'a dyn Fn(ValueId) -> u64,
    /// Whether it was quantized before, and is to stay so whatever it costs.
    pub(super) given: &'a dyn Fn(ValueId) -> bool,
}

/// Where each unit runs.
pub(super) fn place(
    g: &Graph,
    target: &dyn Target,
    sites: &[(OpId, Site<'_>)],
    units: &[Unit],
    prices: &Prices<'_>,
) -> Vec<Placement> {
    let mut n = Network::new();
    let nodes: Vec<u32> = units.iter().map(|_| n.node()).collect();
    let mut site_of: OpTable<usize> = OpTable::new();
    let mut operands: ValueTable<&Operand> = ValueTable::new();
    for (i, (op, site)) in sites.iter().enumerate() {
        site_of.insert(*op, i);
        for o in site.operands.iter().chain(&site.results).flatten() {
            operands.insert(o.value, o);
        }
    }
    let savings = savings(target, sites, units, prices);
    for ((unit, node), saving) in units.iter().zip(&nodes).zip(&savings) {
        if unit.border {
            n.edge(SOURCE, *node, INFINITE);
            continue;
        }
        if unit.fixed.is_some() {
            n.edge(*node, SINK, INFINITE);
            continue;
        }
        if unit.reads.iter().chain(&unit.makes).any(|v| (prices.given)(*v)) {
            n.edge(SOURCE, *node, INFINITE);
            continue;
        }
        let mut costs = target.cost(&sites[unit.site].1);
        for site in unit.clamps.iter().filter_map(|c| site_of.get(*c)) {
            costs.float += target.cost(&sites[*site].1).float;
        }
        costs.float -= saving.unwrap_or(0);
        // Only the difference matters to the cut.
        let common = costs.integer.min(costs.float);
        n.edge(SOURCE, *node, costs.float - common);
        n.edge(*node, SINK, costs.integer - common);
    }
    let wiring = Wiring::new(units);
    let site = |unit: usize| &sites[units[unit].site].1;
    for (v, operand) in operands.iter() {
        let readers = wiring.readers.get(v).map_or(&[][..], Vec::as_slice);
        // A graph output, a body or an operator without a row reads the value in float.
        let outside = g.is_output(v) || g.uses(v).iter().any(|u| u.capture || !site_of.contains(u.op));
        let producer = wiring.maker.get(v).copied();
        if let Some(p) = producer {
            let cost =
                |reader| if units[p].float_result { 0 } else { target.dequantize_cost(operand, reader) };
            if outside {
                n.edge(nodes[p], SINK, cost(None));
            }
            for r in readers {
                n.edge(nodes[p], nodes[*r], cost(Some(site(*r))));
            }
        }
        let price = (prices.planned)(v);
        if price > 0 {
            let z = n.node();
            n.edge(z, SINK, price);
            if let Some(p) = producer.filter(|p| !units[*p].float_result) {
                n.edge(nodes[p], z, INFINITE);
            }
            for r in readers {
                n.edge(nodes[*r], z, INFINITE);
            }
        }
        if !readers.is_empty() {
            let e = n.node();
            let quantize = target.quantize_cost(operand, producer.map(site));
            n.edge(e, producer.map_or(SINK, |p| nodes[p]), quantize);
            for r in readers {
                n.edge(nodes[*r], e, INFINITE);
            }
        }
    }
    for ((unit, node), site) in units.iter().zip(&nodes).zip(units.iter().map(|u| &sites[u.site].1)) {
        if unit.fixed.is_some() {
            continue;
        }
        let given = unit.reads.iter().chain(&unit.makes).any(|v| (prices.given)(*v));
        let followed = if given { Vec::new() } else { target.bound_to_operands(site) };
        for v in followed.into_iter().filter_map(|slot| site.operand(slot as usize)) {
            match wiring.maker.get(v.value) {
                Some(maker) if !units[*maker].float_result => n.edge(*node, nodes[*maker], INFINITE),
                _ => n.edge(*node, SINK, INFINITE),
            }
        }
        for v in target.bound_operands(site).into_iter().filter_map(|slot| site.operand(slot as usize)) {
            if let Some(maker) = wiring.maker.get(v.value) {
                n.edge(nodes[*maker], *node, INFINITE);
            }
        }
    }
    let cut = n.cut();
    let mut integer: Vec<bool> = nodes.iter().map(|node| cut[*node as usize]).collect();
    complete(g, units, &wiring, &mut integer);
    let placed = |(integer, saving): (bool, Option<u64>)| match (integer, saving) {
        (true, _) => Placement::Integer,
        (false, Some(_)) => Placement::Dynamic,
        (false, None) => Placement::Float,
    };
    integer.into_iter().zip(savings).map(placed).collect()
}

/// For each unit what is saved, against float, if it quantizes its activations in every run; `None` if nothing is.
fn savings(
    target: &dyn Target,
    sites: &[(OpId, Site<'_>)],
    units: &[Unit],
    prices: &Prices<'_>,
) -> Vec<Option<u64>> {
    let mut readers: ValueTable<usize> = ValueTable::new();
    let reads =
        |unit: &Unit| unit.dynamic.as_ref().map(|d| reads(&sites[unit.site].1, d).collect::<Vec<_>>());
    for v in units.iter().filter_map(reads).flatten() {
        let n = readers.get(v).copied().unwrap_or(0);
        readers.insert(v, n + 1);
    }
    let saving = |unit: &Unit| {
        let values = reads(unit)?;
        let site = &sites[unit.site].1;
        let sharing = values.first().and_then(|v| readers.get(*v)).copied().unwrap_or(1);
        match target.dynamic_cost(site, sharing) {
            Some(cost) => {
                let price: u64 = values.iter().map(|v| (prices.dynamic)(*v)).sum();
                target.cost(site).float.checked_sub(cost + price).filter(|saved| *saved > 0)
            }
            // Of unknown lengths: nothing says that float is faster, and the user asked for it.
            None => unit.dynamic_only.then_some(0),
        }
    };
    units.iter().map(saving).collect()
}

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
