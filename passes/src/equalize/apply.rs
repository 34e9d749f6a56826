//! Writes factors into the constants of a graph.

use super::classes::{Channels, Classes, Kind};
use super::coordinates::Coordinates;
use squint_ir::{Model, OpId, Tensor, ValueId};

/// The same function of the inputs, with channels scaled between operators.
pub(super) fn apply(model: &Model, classes: &Classes, factors: &[f64]) -> Model {
    let mut out = model.clone();
    let of = |v: Option<ValueId>| -> Option<Vec<f64>> {
        let Channels { ids, .. } = classes.of(v?)?;
        Some(ids.iter().map(|id| factors[classes.class(*id)]).collect())
    };
    for a in &classes.absorbers {
        let g = model.main();
        let (x, y) = (of(g.operand(a.op, 0)), of(g.result(a.op, 0)));
        match a.kind {
            Kind::Contraction => contraction(&mut out, a.op, x.as_deref(), y.as_deref()),
            Kind::Addend { slot, axis, rank } => {
                if let Some(y) = y {
                    addend(&mut out, a.op, slot, axis, rank, &y);
                }
            }
            Kind::Norm => {
                for slot in [1, 2] {
                    rescale(&mut out, a.op, slot, y.as_deref());
                }
            }
        }
    }
    out
}

fn contraction(out: &mut Model, op: OpId, x: Option<&[f64]>, y: Option<&[f64]>) {
    let g = out.main();
    let Some(t) = g.operand(op, 1).and_then(|v| g.konst(v)) else { return };
    let Some(coordinates) = Coordinates::new(g.op(op), t.dims()) else { return };
    let n = coordinates.inputs;
    let x = x.filter(|x| x.len() == n && x.iter().any(|s| *s != 1.0));
    let changed = y.filter(|y| y.iter().any(|s| *s != 1.0));
    if x.is_none() && changed.is_none() {
        return;
    }
    let mut scaled = t.to_f32s();
    coordinates.each(|i, o, c| {
        let factor = changed.map_or(1.0, |y| y[o]) / x.map_or(1.0, |x| x[c]);
        scaled[i] = (f64::from(scaled[i]) * factor) as f32;
    });
    replace(out, op, 1, Tensor::from_f32(t.dims(), &scaled));
    rescale(out, op, 2, y);
}

/// A constant that is added to a value of a rank with channels along an axis: it is widened to have them.
fn addend(out: &mut Model, op: OpId, slot: u32, axis: usize, rank: usize, y: &[f64]) {
    let g = out.main();
    let Some(t) = g.operand(op, slot).and_then(|v| g.konst(v)) else { return };
    if y.iter().all(|s| *s == 1.0) || t.is_empty() {
        return;
    }
    let mut dims = vec![1; rank - t.rank()];
    dims.extend(t.dims());
    let (there, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
    let outer: usize = dims[..axis].iter().product();
    let data = t.f32s();
    let mut scaled = Vec::with_capacity(outer * y.len() * inner);
    for o in 0..outer {
        for (c, s) in y.iter().enumerate() {
            let from = (o * there + c.min(there - 1)) * inner;
            scaled.extend(data[from..from + inner].iter().map(|x| (f64::from(*x) * s) as f32));
        }
    }
    dims[axis] = y.len();
    // No more axes in front than are needed.
    let needed = t.rank().max(rank - axis);
    replace(out, op, slot, Tensor::from_f32(&dims[rank - needed..], &scaled));
}

/// Scales the constant at a slot, which has an element for each channel.
fn rescale(out: &mut Model, op: OpId, slot: u32, y: Option<&[f64]>) {
    let g = out.main();
    let Some(t) = g.operand(op, slot).and_then(|v| g.konst(v)) else { return };
    let Some(y) = y.filter(|y| y.iter().any(|s| *s != 1.0)) else { return };
    let scaled: Vec<f32> = t.f32s().iter().zip(y).map(|(b, s)| (f64::from(*b) * s) as f32).collect();
    replace(out, op, slot, Tensor::from_f32(t.dims(), &scaled));
}

fn replace(out: &mut Model, op: OpId, slot: u32, t: Tensor) {
    let g = out.main_mut();
    let Some(old) = g.operand(op, slot) else { return };
    if g.only_use(old).is_some() && g.konst(old).is_some_and(|o| o.dims() == t.dims()) {
        g.set_const(old, Some(t.into()));
        return;
    }
    let name = g.value(old).name().to_owned();
    let v = g.add_const(&format!("{name}_equalized"), t);
    g.set_operand(op, slot, Some(v));
}
