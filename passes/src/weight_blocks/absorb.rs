//! Where factors of channels go: a value is divided by a factor for each element of its last axis, and the function of
//! the graph stays the same but for that.
//!
//! ```text
//! x = LayerNormalization (y, scale, bias)            x = LayerNormalization (y, scale/s, bias/s)
//! x = Mul (y, g)                                     x = Mul (y, g/s)
//! x = MatMul (y, w)                                  x = MatMul (y, w/s)      by columns; of a Gemm the bias, too
//! x = Add (y, b)                                     x = Add (y/s, b/s)
//! x = Mul (a, b),   x = Relu (a)                     x = Mul (a/s, b),   x = Relu (a/s)
//! otherwise                                          z = Mul (x, 1/s)         for those who want it divided
//! ```
//!
//! The constants of what makes the value take the factors if nobody else reads it; they cost nothing then.

use squint_ir::{Graph, Model, OpId, OpSpec, Tensor, ValueId};

/// Operators that are looked through, one behind another.
const DEPTH: usize = 4;

/// A constant, at a slot of an operator, whose last or first axis counts channels.
#[derive(Clone, Copy)]
struct Place {
    op: OpId,
    slot: u32,
    rows: bool,
}

/// Divides what these operators read at slot 0, one value, by a factor for each element of its last axis. True if
/// constants took the factors.
pub(super) fn divide(model: &mut Model, x: ValueId, readers: &[OpId], factors: &[f32]) -> bool {
    let g = model.main_mut();
    let alone =
        !g.is_output(x) && g.uses(x).iter().all(|u| !u.capture && u.slot == 0 && readers.contains(&u.op));
    let mut places = Vec::new();
    if alone && takes(g, x, factors.len(), DEPTH, &mut places) {
        for place in places {
            scale(g, place, factors);
        }
        return true;
    }
    let name = g.value(x).name().to_owned();
    let inverse: Vec<f32> = factors.iter().map(|s| 1.0 / s).collect();
    let inverse = g.add_const(&format!("{name}_factors"), Tensor::from_f32(&[factors.len()], &inverse));
    let ty = g.ty(x).cloned();
    let spec = OpSpec::new("Mul").name(format!("{name}_Mul")).operands([x, inverse]);
    let spec = match readers.first() {
        Some(reader) => spec.near(*reader),
        None => spec,
    };
    let divided = g.emit(spec, &format!("{name}_scaled"), ty);
    for reader in readers {
        g.set_operand(*reader, 0, Some(divided));
    }
    false
}

/// Whether constants before a value, which nothing else reads, can take factors; and which.
fn takes(g: &Graph, v: ValueId, n: usize, depth: usize, places: &mut Vec<Place>) -> bool {
    let Some((op, 0)) = g.producer(v) else { return false };
    if !g.op(op).is_onnx() || depth == 0 {
        return false;
    }
    let constant = |slot: u32, rows: bool| {
        let t = g.operand(op, slot).filter(|v| !g.is_input(*v)).and_then(|v| g.konst(v))?;
        let channels = if rows { t.dims().first() } else { t.dims().last() };
        (channels == Some(&n) && t.dtype() == squint_ir::DType::Float).then_some(Place { op, slot, rows })
    };
    let missing = |slot: u32| g.operand(op, slot).is_none();
    let only = |slot: u32| {
        let x = g.operand(op, slot).filter(|x| g.konst(*x).is_none())?;
        g.only_use(x).filter(|_| !g.is_output(x)).map(|_| x)
    };
    match g.op(op).op_type.as_str() {
        "LayerNormalization" => match (constant(1, false), constant(2, false)) {
            (Some(scale), None) if missing(2) => {
                places.push(scale);
                true
            }
            (Some(scale), Some(bias)) => {
                places.extend([scale, bias]);
                true
            }
            _ => false,
        },
        "MatMul" => constant(1, false).map(|w| places.push(w)).is_some(),
        "Gemm" => {
            let weight = constant(1, g.op(op).int("transB").unwrap_or(0) != 0);
            match (weight, constant(2, false)) {
                (Some(weight), None) if missing(2) => {
                    places.push(weight);
                    true
                }
                (Some(weight), Some(bias)) => {
                    places.extend([weight, bias]);
                    true
                }
                _ => false,
            }
        }
        "Mul" => {
            let fixed = constant(0, false).or(constant(1, false));
            match fixed {
                Some(place) => {
                    places.push(place);
                    true
                }
                // Either factor takes them: that one which constants are behind.
                None => [1, 0].into_iter().any(|slot| {
                    let before = places.len();
                    let taken =
                        full(g, op, slot, v) && only(slot).is_some_and(|x| takes(g, x, n, depth - 1, places));
                    if !taken {
                        places.truncate(before);
                    }
                    taken
                }),
            }
        }
        "Add" => {
            let (place, slot) = match (constant(0, false), constant(1, false)) {
                (Some(place), None) => (place, 1),
                (None, Some(place)) => (place, 0),
                _ => return false,
            };
            let taken = only(slot).is_some_and(|x| takes(g, x, n, depth - 1, places));
            places.push(place);
            taken
        }
        "Relu" => only(0).is_some_and(|x| takes(g, x, n, depth - 1, places)),
        _ => false,
    }
}

/// True if an operand has the shape of a result, so that no element of it is repeated.
fn full(g: &Graph, op: OpId, slot: u32, result: ValueId) -> bool {
    let shape = |v: ValueId| g.ty(v).and_then(squint_ir::Type::shape).cloned();
    let operand = g.operand(op, slot).and_then(shape);
    operand.is_some() && operand == shape(result)
}

/// Divides a constant by factors along its last or first axis.
fn scale(g: &mut Graph, place: Place, factors: &[f32]) {
    let Some(old) = g.operand(place.op, place.slot) else { return };
    let Some(t) = g.konst(old) else { return };
    let inner = if place.rows { t.len() / factors.len().max(1) } else { 1 };
    let data: Vec<f32> =
        t.f32s().iter().enumerate().map(|(i, x)| x / factors[i / inner.max(1) % factors.len()]).collect();
    let t = Tensor::from_f32(t.dims(), &data);
    if g.only_use(old).is_some() && !g.is_output(old) {
        g.set_const(old, Some(t.into()));
        return;
    }
    let name = format!("{}_scaled", g.value(old).name());
    let new = g.add_const(&name, t);
    g.set_operand(place.op, place.slot, Some(new));
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::{DType, Type};

    fn typed(g: &mut Graph, spec: OpSpec, name: &str) -> ValueId {
        g.emit(spec, name, Some(Type::tensor(DType::Float, Some(vec![3.into(), 2.into()]))))
    }

    /// `y = MatMul (x, w)`, where `x` is made of `a` by what `build` adds.
    fn divided(build: impl Fn(&mut Graph, ValueId) -> ValueId, seen: bool) -> (Model, bool) {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        let a = g.add_value("a", None);
        let x = build(g, a);
        let w = g.add_const("w", Tensor::from_f32(&[2, 1], &[1.0, 1.0]));
        let y = g.add_op(OpSpec::new("MatMul").operands([x, w]));
        let result = g.add_value("y", None);
        g.set_result(y, 0, Some(result));
        (g.inputs, g.outputs) = (vec![a], if seen { vec![result, x] } else { vec![result] });
        let taken = divide(&mut model, x, &[y], &[2.0, 4.0]);
        (model, taken)
    }

    fn constant(model: &Model, name: &str) -> Vec<f32> {
        let g = model.main();
        g.konst(g.value_named(name).unwrap()).unwrap().to_f32s()
    }

    #[test]
    fn constants_before_take_the_factors() {
        let vector = |g: &mut Graph, name: &str| g.add_const(name, Tensor::from_f32(&[2], &[8.0, 8.0]));
        let (model, taken) = divided(
            |g, a| {
                let (scale, bias) = (vector(g, "scale"), vector(g, "bias"));
                typed(g, OpSpec::new("LayerNormalization").operands([a, scale, bias]), "x")
            },
            false,
        );
        assert!(taken);
        assert_eq!((constant(&model, "scale"), constant(&model, "bias")), (vec![4.0, 2.0], vec![4.0, 2.0]));
        // Through an activation and a bias into a weight that has rows for outputs.
        let (model, taken) = divided(
            |g, a| {
                let v = g.add_const("v", Tensor::from_f32(&[2, 3], &[8.0; 6]));
                let bias = vector(g, "bias");
                let product = typed(g, OpSpec::new("Gemm").attr("transB", 1i64).operands([a, v]), "product");
                let sum = typed(g, OpSpec::new("Add").operands([product, bias]), "sum");
                typed(g, OpSpec::new("Relu").operands([sum]), "x")
            },
            false,
        );
        assert!(taken);
        assert_eq!(constant(&model, "v"), [4.0, 4.0, 4.0, 2.0, 2.0, 2.0]);
        assert_eq!(constant(&model, "bias"), [4.0, 2.0]);
        // Of a gate the side that has constants.
        let (model, taken) = divided(
            |g, a| {
                let up = g.add_const("up", Tensor::from_f32(&[1, 2], &[8.0, 8.0]));
                let up = typed(g, OpSpec::new("MatMul").operands([a, up]), "product");
                let gate = typed(g, OpSpec::new("Sigmoid").operands([a]), "gate");
                typed(g, OpSpec::new("Mul").operands([up, gate]), "x")
            },
            false,
        );
        assert!(taken);
        assert_eq!(constant(&model, "up"), [4.0, 2.0]);
    }

    #[test]
    fn otherwise_a_product_is_put_before_the_readers() {
        let sigmoid = |g: &mut Graph, a| typed(g, OpSpec::new("Sigmoid").operands([a]), "x");
        let (model, taken) = divided(sigmoid, false);
        assert!(!taken);
        assert_eq!(constant(&model, "x_factors"), [0.5, 0.25]);
        let norm = |g: &mut Graph, a| {
            let scale = g.add_const("scale", Tensor::from_f32(&[2], &[8.0, 8.0]));
            typed(g, OpSpec::new("LayerNormalization").operands([a, scale]), "x")
        };
        // Others read it.
        let (model, taken) = divided(norm, true);
        assert!(!taken && constant(&model, "scale") == [8.0, 8.0]);
    }
}
