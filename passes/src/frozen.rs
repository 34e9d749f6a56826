//! Frozen grids: what the quantizers of a model say of its values, kept beside the float graph that lies under them.
//!
//! A trained or converted model has its scales, zero points and integers already. They are taken out of the graph
//! ([`crate::freeze_quantizers`]) so that the passes of the float graph see what they know, and are put back by
//! planning, on the terms of the target. A grid says which real numbers there are; where they lie in an integer type is
//! the target's business ([`Levels::express`]).

use squint_ir::affine::{ChannelLayout, QuantParams};
use squint_ir::{DType, Graph, Op, OpId, Tensor, ValueId, ValueTable};
use squint_ops::{Class, EvalCx, Out};
use squint_targets::Format;
use std::ops::Range;
use std::sync::Arc;

/// The real numbers that a value takes: `k · scale` for all whole `k` from `lowest` to `highest`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// Distance between neighbours; positive, finite and not subnormal.
    pub scale: f32,
    /// The lowest level, counted from real zero; at most 0.
    pub lowest: i32,
    /// The highest level, counted from real zero; at least 0.
    pub highest: i32,
}

/// Levels in an integer type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expressed {
    pub(crate) params: QuantParams,
    /// The codes that occur, where the type has more of them and the difference matters.
    pub(crate) codes: Option<(i32, i32)>,
    /// True if all levels are there, and only them.
    pub(crate) exact: bool,
}

impl Levels {
    /// Levels of an integer type from `lowest` to `highest` with this zero point; `None` if zero is not among them.
    pub(crate) fn new(scale: f32, zero_point: i64, lowest: i64, highest: i64) -> Option<Levels> {
        let from_zero = |q: i64| i32::try_from(q - zero_point).ok();
        let (lowest, highest) = (from_zero(lowest)?, from_zero(highest)?);
        (lowest <= 0 && highest >= 0).then_some(Levels { scale, lowest, highest })
    }

    /// The least and the greatest number.
    pub fn range(self) -> (f32, f32) {
        (self.lowest as f32 * self.scale, self.highest as f32 * self.scale)
    }

    /// Number of levels.
    pub fn count(self) -> i64 {
        i64::from(self.highest) - i64::from(self.lowest) + 1
    }

    /// The levels that are left of these by a clamp to `[lo, hi]` around zero.
    pub(crate) fn clamped(self, lo: f64, hi: f64) -> Levels {
        let scale = f64::from(self.scale);
        // A limit that is meant to be a level may be off by a rounding.
        let lowest = (lo / scale).round().max(f64::from(self.lowest)).min(0.0) as i32;
        let highest = (hi / scale).round().min(f64::from(self.highest)).max(0.0) as i32;
        Levels { lowest, highest, ..self }
    }

    /// The levels in the element type of a target: the same ones where it has them, else a grid of its kind for their
    /// range.
    pub(crate) fn express(self, format: Format) -> Expressed {
        let (grid, Levels { scale, lowest, highest }) = (format.grid, self);
        let (qmin, qmax) =
            format.dtype.int_range().map_or((grid.qmin, grid.qmax), |(a, b)| (a as i32, b as i32));
        let exact = |zero_point: i32| {
            let codes = (lowest + zero_point, highest + zero_point);
            // One level more on a side is what tells a narrow range from a full one: no operator is worth it.
            let all = codes.0 <= qmin + 1 && codes.1 >= qmax - 1;
            Expressed {
                params: QuantParams { scale, zero_point },
                codes: (!all).then_some(codes),
                exact: true,
            }
        };
        if grid.symmetric {
            let fits = lowest >= qmin && highest <= qmax;
            let (lo, hi) = self.range();
            return match fits {
                // What lies outside of the levels is kept from the quantizer by operators of the float graph.
                true => Expressed { codes: None, ..exact(0) },
                false => Expressed { params: grid.params(lo, hi), codes: None, exact: false },
            };
        }
        let centre = i32::midpoint(qmin, qmax + 1);
        if lowest + centre >= qmin && highest + centre <= qmax && self.count() >= 255 {
            return exact(centre);
        }
        if self.count() <= i64::from(qmax - qmin) + 1 {
            // The quantizer itself stops at the lowest level.
            return exact(qmin - lowest);
        }
        let (lo, hi) = self.range();
        Expressed { params: grid.params(lo, hi), codes: None, exact: false }
    }
}

/// The grid of an activation.
#[derive(Clone, Debug, PartialEq)]
pub struct FrozenValue {
    /// Its numbers.
    pub levels: Levels,
    /// Element type and zero point in the file, for people.
    pub was: (DType, i64),
    /// The value whose grid this is, if no quantizer says it of the value itself.
    pub inherited: Option<ValueId>,
}

/// The integers of a constant.
#[derive(Clone, Debug, PartialEq)]
pub struct FrozenWeight {
    /// The level of each element, counted from real zero.
    pub levels: Arc<[i16]>,
    /// The axis along which scales differ; `None` for one scale.
    pub axis: Option<usize>,
    /// The scales, one for each index along the axis.
    pub scales: Arc<[f32]>,
    /// The lowest and highest level that the element type has.
    pub bounds: (i32, i32),
}

impl FrozenWeight {
    /// The scale of each element of a constant of these dimensions.
    fn scale_of(&self, dims: &[usize]) -> impl Fn(usize) -> f32 + '_ {
        let inner: usize = self.axis.map_or(1, |a| dims.iter().skip(a + 1).product());
        let n = self.scales.len().max(1);
        move |i| self.scales[i / inner.max(1) % n]
    }

    /// The same integers with scales multiplied by the factors of an axis; where a factor is negative, with the
    /// opposite sign. `None` if such scales are not along one axis, or a level or scale is lost.
    pub(crate) fn scaled(&self, dims: &[usize], axis: usize, factors: &[f64]) -> Option<FrozenWeight> {
        let n = *dims.get(axis)?;
        let one = factors.len() == 1;
        if !one && (factors.len() != n || self.axis.is_some_and(|a| a != axis)) {
            return None;
        }
        let (axis, count) = if one { (self.axis, self.scales.len()) } else { (Some(axis), n) };
        let factor = |i: usize| if one { factors[0] } else { factors[i] };
        let old = |i: usize| if self.scales.len() == 1 { self.scales[0] } else { self.scales[i] };
        let scale = |i: usize| match factor(i).abs() {
            0.0 => 1.0,
            m => (f64::from(old(i)) * m) as f32,
        };
        let scales: Vec<f32> = (0..count).map(scale).collect();
        if scales.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
            return None;
        }
        let inner: usize = axis.map_or(1, |a| dims[a + 1..].iter().product::<usize>()).max(1);
        let level = |(i, k): (usize, &i16)| match factor(i / inner % count.max(1)) {
            0.0 => 0,
            m if m < 0.0 => -*k,
            _ => *k,
        };
        let levels = self.levels.iter().enumerate().map(level).collect();
        let turned = (-self.bounds.1, -self.bounds.0);
        let bounds = match factors.iter().any(|m| *m < 0.0) {
            true => (self.bounds.0.min(turned.0), self.bounds.1.max(turned.1)),
            false => self.bounds,
        };
        Some(FrozenWeight { levels, axis, scales: scales.into(), bounds })
    }

    /// The integers of a part of an axis of a constant of these dimensions; `None` if there is no such part.
    pub(crate) fn sliced(&self, dims: &[usize], axis: usize, kept: Range<usize>) -> Option<FrozenWeight> {
        let layout = ChannelLayout::new(dims, axis).filter(|l| kept.end <= l.channels)?;
        let inner = layout.inner.max(1);
        let levels = self.levels.iter().enumerate();
        let part = levels.filter(|(i, _)| kept.contains(&(i / inner % layout.channels))).map(|(_, k)| *k);
        let scales = match self.axis == Some(axis) {
            true => self.scales.get(kept.clone())?.into(),
            false => self.scales.clone(),
        };
        Some(FrozenWeight { levels: part.collect(), scales, ..self.clone() })
    }

    /// The integers after an operator that only moves elements of the constant, whose other operands are constant, too;
    /// `None` if the scales of the result are not along one axis.
    fn moved(&self, cx: &EvalCx<'_>) -> Option<FrozenWeight> {
        let dims = cx.inputs.first().copied().flatten()?.dims();
        let eval = squint_ops::row(&cx.op.domain, &cx.op.op_type)?.eval?;
        let run = |t: &Tensor| {
            let inputs: Vec<Option<&Tensor>> =
                [Some(t)].into_iter().chain(cx.inputs.iter().skip(1).copied()).collect();
            eval(&EvalCx { inputs: &inputs, ..*cx }).ok()?.into_iter().next()
        };
        let levels: Vec<f32> = self.levels.iter().map(|k| f32::from(*k)).collect();
        let levels = run(&Tensor::from_f32(dims, &levels))?;
        let of = levels.dims().to_vec();
        let levels: Arc<[i16]> = levels.f32s().iter().map(|k| *k as i16).collect();
        if self.scales.len() == 1 {
            return Some(FrozenWeight { levels, axis: None, ..self.clone() });
        }
        let scale = self.scale_of(dims);
        let scales: Vec<f32> = (0..self.levels.len()).map(scale).collect();
        let scales = run(&Tensor::from_f32(dims, &scales))?;
        let scales = scales.f32s();
        let along = |axis: usize| {
            let inner: usize = of[axis + 1..].iter().product::<usize>().max(1);
            let first: Vec<f32> =
                (0..of[axis]).map(|c| scales.get(c * inner).copied()).collect::<Option<_>>()?;
            let fits = scales.iter().enumerate().all(|(i, s)| *s == first[i / inner % of[axis]]);
            fits.then_some((axis, first))
        };
        let (axis, scales) = (0..of.len()).filter(|a| of[*a] > 0).find_map(along)?;
        Some(FrozenWeight { levels, axis: Some(axis), scales: scales.into(), ..self.clone() })
    }

    /// The levels as signed 8-bit codes with one zero point; `None` if there are too many.
    ///
    /// The sign of -128 cannot be turned without a zero point, for which runtimes have no fast kernels: the 128 becomes
    /// 127, as reports say.
    pub(crate) fn codes(&self) -> Option<(Vec<i8>, i32)> {
        let (lowest, highest) = self.extremes();
        let zero_point = match (lowest >= -128, highest <= 128) {
            (true, true) => 0,
            (true, false) => 127 - highest,
            (false, _) => -128 - lowest,
        };
        let code = |k: &i16| i8::try_from((i32::from(*k) + zero_point).min(127)).ok();
        // One that is not there is made the next where zero stays zero.
        let fits = highest + zero_point <= if zero_point == 0 { 128 } else { 127 };
        Some((self.levels.iter().map(code).collect::<Option<_>>().filter(|_| fits)?, zero_point))
    }

    fn extremes(&self) -> (i32, i32) {
        let all = self.levels.iter().map(|k| i32::from(*k));
        all.fold((0, 0), |(lo, hi), k| (lo.min(k), hi.max(k)))
    }
}

/// Something that is not on its grid any more, or on none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The value, by name.
    pub value: String,
    /// What kind of difference it is.
    pub kind: DifferenceKind,
    /// How it was.
    pub was: String,
    /// How it is, and why.
    pub is: String,
}

/// Kinds of [`Difference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DifferenceKind {
    /// The quantizer could not be understood, or not be said on any target: the value is in float.
    Refused,
    /// Quantized twice in a row, or on two grids: one is left.
    Merged,
    /// Another grid, made from the range of the old one.
    Regridded,
    /// Not rounded: the target places no quantizer there.
    Unquantized,
    /// Rounded, although no quantizer was there: an operator runs in integers on a grid that follows from others.
    Inherited,
    /// Rounded, although no quantizer was there, on a grid for the range that calibration saw.
    Measured,
    /// A weight with other integers.
    Weight,
}

impl DifferenceKind {
    /// The name in reports for programs.
    pub fn name(self) -> &'static str {
        match self {
            DifferenceKind::Refused => "refused",
            DifferenceKind::Merged => "merged",
            DifferenceKind::Regridded => "regridded",
            DifferenceKind::Unquantized => "unquantized",
            DifferenceKind::Inherited => "inherited",
            DifferenceKind::Measured => "measured",
            DifferenceKind::Weight => "weight",
        }
    }
}

/// The grids of a model.
#[derive(Clone, Debug, Default)]
pub struct Frozen {
    /// Those of activations.
    pub values: ValueTable<FrozenValue>,
    /// Those of constants.
    pub weights: ValueTable<FrozenWeight>,
    /// What was lost on the way.
    pub differences: Vec<Difference>,
}

impl Frozen {
    /// True if nothing has a grid.
    pub fn is_empty(&self) -> bool {
        self.values.iter().next().is_none() && self.weights.iter().next().is_none()
    }

    /// The levels of an activation.
    pub fn levels(&self, v: ValueId) -> Option<Levels> {
        self.values.get(v).map(|f| f.levels)
    }

    pub(crate) fn differ(&mut self, value: &str, kind: DifferenceKind, was: String, is: impl Into<String>) {
        self.differences.push(Difference { value: value.into(), kind, was, is: is.into() });
    }

    /// True if `new` may stand for `old`: not both are on a grid, or both are on the same.
    pub(crate) fn agree(&self, old: ValueId, new: ValueId) -> bool {
        let same = |a: Option<Levels>, b: Option<Levels>| a.is_none() || b.is_none() || a == b;
        same(self.levels(old), self.levels(new)) && self.weights.get(old) == self.weights.get(new)
    }

    /// Hands the grid of a value that goes on to the one that stands for it.
    pub(crate) fn hand_on(&mut self, old: ValueId, new: ValueId) {
        if let Some(grid) = self.values.remove(old)
            && !self.values.contains(new)
        {
            self.values.insert(new, grid);
        }
    }

    /// The value among these, made by these operators of one rewriting, that has a grid which would be lost. A value
    /// that is only moved has the grid of what it is made from.
    pub(crate) fn swallowed(&self, g: &Graph, ops: &[OpId]) -> Option<ValueId> {
        let kept = |v: ValueId| {
            let Some((op, _)) = g.producer(v) else { return true };
            let moves = same_levels(g, op).and_then(|slot| g.operand(op, slot));
            moves.is_some_and(|x| self.levels(x).is_some() && self.levels(x) == self.levels(v))
        };
        let made = ops.iter().flat_map(|op| g.results(*op)).flatten();
        made.into_iter().find(|v| self.values.get(*v).is_some_and(|f| f.inherited.is_none()) && !kept(*v))
    }

    /// Takes over the integers of a constant for what an operator on it makes.
    pub(crate) fn fold(&mut self, g: &Graph, op: OpId, cx: &EvalCx<'_>) {
        let Some(slot) = same_levels(g, op) else { return };
        if let (Some(from), Some(to)) = (g.operand(op, slot), g.result(op, 0))
            && slot == 0
            && let Some(moved) = self.weights.get(from).and_then(|w| w.moved(cx))
        {
            self.weights.insert(to, moved);
        }
    }
}

/// The slot of the operand whose elements, none of them changed, the first result of an operator has.
pub(crate) fn same_levels(g: &Graph, op: OpId) -> Option<u32> {
    let node: &Op = g.op(op);
    let row = squint_ops::row(&node.domain, &node.op_type)?;
    let between = match node.op_type.as_str() {
        "Resize" | "Upsample" => node.string("mode").unwrap_or("nearest") != "nearest",
        // What is filled in need not be a level, unless it is zero.
        "Pad" => g.operand(op, 2).is_some_and(|v| g.konst(v).is_none_or(|t| t.scalar_value() != Some(0.0))),
        _ => false,
    };
    if between {
        return None;
    }
    match (row.class, row.outs.first()) {
        (Class::Movement | Class::MaxPool | Class::Reduction, Some(Out::Same(slot))) => Some(*slot),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::affine::Grid;

    const U8: Format = Format { dtype: DType::Uint8, grid: Grid::U8 };
    const I8: Format = Format { dtype: DType::Int8, grid: Grid::I8 };
    const SYMMETRIC: Format = Format { dtype: DType::Int8, grid: Grid::I8_SYMMETRIC };

    fn levels(lowest: i32, highest: i32) -> Levels {
        Levels { scale: 0.5, lowest, highest }
    }

    fn expressed(l: Levels, format: Format) -> (i32, Option<(i32, i32)>, bool) {
        let e = l.express(format);
        assert!(!e.exact || e.params.scale == l.scale);
        (e.params.zero_point, e.codes, e.exact)
    }

    #[test]
    fn levels_move_between_types_without_loss() {
        // int8 of any zero point is uint8 with 128 more.
        for z in [-128, -3, 0, 5, 127] {
            let l = Levels::new(0.5, z, -128, 127).unwrap();
            assert_eq!(expressed(l, U8), (z as i32 + 128, None, true));
            assert_eq!(expressed(l, I8), (z as i32, None, true));
        }
        // A narrow range is not worth a Clip.
        assert_eq!(expressed(levels(-127, 127), U8), (128, None, true));
        assert_eq!(expressed(levels(-127, 127), SYMMETRIC), (0, None, true));
    }

    #[test]
    fn fewer_levels_are_kept_by_codes() {
        assert_eq!(expressed(levels(0, 127), U8), (0, Some((0, 127)), true));
        assert_eq!(expressed(levels(-8, 7), U8), (8, Some((0, 15)), true));
        assert_eq!(expressed(levels(-8, 7), I8), (-120, Some((-128, -113)), true));
        assert_eq!(levels(-128, 127).clamped(0.0, f64::INFINITY), levels(0, 127));
        assert_eq!(levels(-128, 127).clamped(-1.0, 3.0), levels(-2, 6));
    }

    #[test]
    fn what_a_symmetric_type_lacks_is_made_from_the_range() {
        let Expressed { params, exact, .. } = levels(0, 255).express(SYMMETRIC);
        assert!(!exact);
        assert_eq!(params, QuantParams { scale: 0.5 * 255.0 / 127.0, zero_point: 0 });
        assert_eq!(Levels::new(1.0, 300, 0, 255), None);
    }

    fn weight(axis: Option<usize>, scales: &[f32]) -> FrozenWeight {
        FrozenWeight {
            levels: [1, 2, -3, 4, 5, -128].into(),
            axis,
            scales: scales.into(),
            bounds: (-128, 127),
        }
    }

    #[test]
    fn factors_go_into_scales() {
        let w = weight(None, &[0.5]).scaled(&[2, 3], 1, &[2.0, -4.0, 0.0]).unwrap();
        assert_eq!(&*w.scales, [1.0, 2.0, 1.0]);
        assert_eq!(&*w.levels, [1, -2, 0, 4, -5, 0]);
        let along_rows = weight(Some(0), &[0.5, 0.25]);
        assert!(along_rows.scaled(&[2, 3], 1, &[1.0, 2.0, 3.0]).is_none());
        assert_eq!(&*along_rows.scaled(&[2, 3], 1, &[2.0]).unwrap().scales, [1.0, 0.5]);
        assert!(weight(None, &[1e-30]).scaled(&[2, 3], 1, &[1e-30]).is_none());
    }

    #[test]
    fn codes_have_one_zero_point() {
        assert_eq!(weight(None, &[1.0]).codes().unwrap().1, 0);
        // The sign of the lowest level was turned, and there is no code of 128.
        let turned = weight(None, &[1.0]).scaled(&[6], 0, &[-1.0]).unwrap();
        let (codes, zero) = turned.codes().unwrap();
        assert_eq!((codes[5], zero), (127, 0));
        let of = |levels: [i16; 2]| FrozenWeight { levels: levels.into(), ..weight(None, &[1.0]) };
        assert_eq!(of([-120, 135]).codes(), Some((vec![-128, 127], -8)));
        assert_eq!(of([-255, 0]).codes(), Some((vec![-128, 127], 127)));
        assert_eq!((of([-128, 200]).codes(), of([-255, 1]).codes()), (None, None));
    }

    #[test]
    fn scales_follow_their_channels_when_a_weight_is_moved() {
        let mut g = Graph::new("g");
        let w = g.add_const("w", Tensor::from_f32(&[2, 3], &[0.0; 6]));
        let t = squint_ir::OpSpec::new("Transpose").attr("perm", vec![1, 0]).operands([w]);
        let y = g.emit(t, "y", None);
        let (op, _) = g.producer(y).unwrap();
        let konst = g.konst(w).cloned().unwrap();
        let inputs = [Some(konst.as_ref())];
        let mut frozen = Frozen::default();
        frozen.weights.insert(w, weight(Some(0), &[0.5, 0.25]));
        frozen.fold(&g, op, &EvalCx { op: g.op(op), opset: 17, inputs: &inputs, n_results: 1 });
        let moved = frozen.weights.get(y).unwrap();
        assert_eq!((&*moved.levels, moved.axis), (&[1, 4, 2, 5, -3, -128][..], Some(1)));
        assert_eq!(&*moved.scales, [0.5, 0.25]);
    }
}
