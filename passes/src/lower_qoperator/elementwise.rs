//! Everything but products: functions, pools, joins, and operators that only move integers.

use super::site::{Levels, Site};
use super::{Lower, Miss, lower};

pub(super) const TABLE: &[Lower] = &[
    lower("Add", |s| binary(s, "QLinearAdd")),
    lower("Mul", |s| binary(s, "QLinearMul")),
    lower("Sigmoid", |s| unary(s, "QLinearSigmoid")),
    lower("LeakyRelu", |s| unary(s, "QLinearLeakyRelu")),
    lower("Softmax", softmax),
    lower("AveragePool", average_pool),
    lower("GlobalAveragePool", |s| unary(s, "QLinearGlobalAveragePool")),
    lower("Concat", concat),
    lower("Where", choose),
    lower("MaxPool", |s| moved(s, 12)),
    lower("Reshape", |s| moved(s, 5)),
    lower("Transpose", |s| moved(s, 1)),
    lower("Squeeze", |s| moved(s, 1)),
    lower("Unsqueeze", |s| moved(s, 1)),
    lower("Flatten", |s| moved(s, 9)),
    lower("Slice", |s| moved(s, 10)),
    lower("Gather", |s| moved(s, 1)),
    lower("GatherElements", |s| moved(s, 11)),
    lower("Expand", |s| moved(s, 8)),
    lower("Tile", |s| moved(s, 6)),
    lower("DepthToSpace", |s| moved(s, 13)),
    lower("Resize", resize),
    lower("Split", split),
    lower("ArgMax", arg_max),
];

fn binary(site: &mut Site<'_>, op_type: &str) -> Result<(), Miss> {
    let (a, b, y) = (site.activation(0)?, site.activation(1)?, site.target()?);
    same_types(&[&a, &b, &y.levels])?;
    let operands = [&site.triple(&a)[..], &site.triple(&b), &site.pair(&y.levels)].concat();
    site.become_op(true, op_type, &operands);
    site.take_over(y);
    Ok(())
}

fn unary(site: &mut Site<'_>, op_type: &str) -> Result<(), Miss> {
    let (x, y) = (site.activation(0)?, site.target()?);
    same_types(&[&x, &y.levels])?;
    let operands = [&site.triple(&x)[..], &site.pair(&y.levels)].concat();
    site.become_op(true, op_type, &operands);
    site.take_over(y);
    Ok(())
}

fn same_types(all: &[&Levels]) -> Result<(), Miss> {
    match all.windows(2).all(|w| w[0].dtype == w[1].dtype) {
        true => Ok(()),
        false => Err("its operands and result have different types".into()),
    }
}

/// The operator says itself which Softmax it is, and has no default axis that all versions share.
fn softmax(site: &mut Site<'_>) -> Result<(), Miss> {
    let opset = site.opset;
    let axis = site.op().int("axis").unwrap_or(if opset < 13 { 1 } else { -1 });
    unary(site, "QLinearSoftmax")?;
    let op = site.g.op_mut(site.id);
    op.set_attr("axis", axis);
    op.set_attr("opset", opset);
    Ok(())
}

fn average_pool(site: &mut Site<'_>) -> Result<(), Miss> {
    if site.op().ints("dilations").is_some_and(|d| d.iter().any(|d| *d != 1)) {
        return Err("the integer kernel has no dilations".into());
    }
    if site.op().int("ceil_mode").unwrap_or(0) != 0 && site.op().int("count_include_pad").unwrap_or(0) != 0 {
        return Err("the integer kernel counts what lies beyond the padding".into());
    }
    unary(site, "QLinearAveragePool")?;
    site.g.op_mut(site.id).remove_attr("dilations");
    Ok(())
}

fn concat(site: &mut Site<'_>) -> Result<(), Miss> {
    let n = site.g.operands(site.id).len() as u32;
    let parts = (0..n).map(|slot| site.activation(slot)).collect::<Result<Vec<_>, _>>()?;
    let y = site.target()?;
    let all: Vec<&Levels> = parts.iter().chain([&y.levels]).collect();
    same_types(&all)?;
    let mut operands = site.pair(&y.levels).to_vec();
    for p in &parts {
        operands.extend(site.triple(p));
    }
    site.become_op(true, "QLinearConcat", &operands);
    site.take_over(y);
    Ok(())
}

fn choose(site: &mut Site<'_>) -> Result<(), Miss> {
    let condition = site.g.operand(site.id, 0);
    let (a, b, y) = (site.activation(1)?, site.activation(2)?, site.target()?);
    same_types(&[&a, &b, &y.levels])?;
    let operands = [&[condition][..], &site.triple(&a), &site.triple(&b), &site.pair(&y.levels)].concat();
    site.become_op(true, "QLinearWhere", &operands);
    site.take_over(y);
    Ok(())
}

/// The operator itself, on integers, since an operator set that allows them.
fn moved(site: &mut Site<'_>, since: i64) -> Result<(), Miss> {
    let (x, y) = (site.activation(0)?, site.target()?);
    if site.opset < since {
        return Err("this version of it takes no integers".into());
    }
    if site.g.results(site.id).iter().skip(1).any(Option::is_some) {
        return Err("it has several results".into());
    }
    if !x.same_grid(&y.levels) {
        return Err("its result is on another grid than its operand".into());
    }
    site.g.set_operand(site.id, 0, Some(x.data));
    site.take_over(y);
    Ok(())
}

fn resize(site: &mut Site<'_>) -> Result<(), Miss> {
    match site.op().string("mode") {
        None | Some("nearest") => moved(site, 11),
        _ => Err("it computes between elements".into()),
    }
}

/// Each result is quantized to the grid of the operand.
fn split(site: &mut Site<'_>) -> Result<(), Miss> {
    let (x, g) = (site.activation(0)?, &*site.g);
    let mut results = Vec::new();
    for v in g.results(site.id).into_iter().flatten() {
        let quantizer = g.only_use(v).ok_or("a result is not only quantized")?.op;
        let levels = site.quantized(quantizer)?;
        if !x.same_grid(&levels) {
            return Err("a result is on another grid than the operand".into());
        }
        results.push((v, quantizer, levels.data));
    }
    site.g.set_operand(site.id, 0, Some(x.data));
    for (slot, (v, quantizer, y)) in (0u32..).zip(results) {
        site.g.remove_op(quantizer);
        site.g.set_result(site.id, slot, Some(y));
        site.g.remove_value(v);
    }
    Ok(())
}

/// The largest level is the largest number.
fn arg_max(site: &mut Site<'_>) -> Result<(), Miss> {
    let x = site.activation(0)?;
    if site.opset < 13 {
        return Err("this version of it takes no integers".into());
    }
    site.g.set_operand(site.id, 0, Some(x.data));
    Ok(())
}
