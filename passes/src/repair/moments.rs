//! Second moments of what contractions read: all that the choice of their weights needs to know of the data.
//!
//! A contraction multiplies each row of its weight with patches of its data: windows of a Conv, rows of a
//! matrix. Of a number of patches `x`, as the plan rounds them, there remains `E[x xᵀ]`, for each group of
//! channels.

use crate::simulate::Rounding;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use squint_ir::Op;

/// Longest patch that is worked with: moments grow with its square.
const LONGEST: usize = 2304;

/// How patches lie in the data of a contraction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Patches {
    /// Groups of channels.
    pub(super) groups: usize,
    /// Elements of a patch of one group.
    pub(super) len: usize,
    form: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Windows { channels: usize, axes: Vec<Axis> },
    Rows,
}

/// The window of a Conv along one spatial axis.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: Padding,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Padding {
    Explicit(usize, usize),
    SameUpper,
    SameLower,
}

impl Axis {
    /// Number of windows on a length, and zeros before the data.
    fn on(&self, length: usize) -> Option<(usize, usize)> {
        let extent = (self.kernel - 1) * self.dilation + 1;
        let same = || {
            let n = length.div_ceil(self.stride);
            (n, (n.saturating_sub(1) * self.stride + extent).saturating_sub(length))
        };
        match self.padding {
            Padding::Explicit(begin, end) => {
                let room = (length + begin + end).checked_sub(extent)?;
                Some((room / self.stride + 1, begin))
            }
            Padding::SameUpper => Some((same().0, same().1 / 2)),
            Padding::SameLower => Some((same().0, same().1.div_ceil(2))),
        }
    }
}

impl Patches {
    /// Of a Conv, Gemm or MatMul with a weight of these dimensions; `None` if they cannot be worked with.
    pub(super) fn new(op: &Op, weight: &[usize]) -> Option<Patches> {
        let patches = match (op.op_type.as_str(), weight) {
            ("Conv", [_, fan_in, kernel @ ..]) => {
                let list = |name: &str, n: usize, open: usize| match op.ints(name) {
                    Some(l) if l.len() == n => l.iter().map(|x| usize::try_from(*x).ok()).collect(),
                    Some(_) => None,
                    None => Some(vec![open; n]),
                };
                let n = kernel.len();
                let (strides, dilations) = (list("strides", n, 1)?, list("dilations", n, 1)?);
                let pads = list("pads", 2 * n, 0)?;
                let padding = |i: usize| match op.string("auto_pad").unwrap_or("NOTSET") {
                    "SAME_UPPER" => Padding::SameUpper,
                    "SAME_LOWER" => Padding::SameLower,
                    "VALID" => Padding::Explicit(0, 0),
                    _ => Padding::Explicit(pads[i], pads[n + i]),
                };
                let axes = (0..n).map(|i| Axis {
                    kernel: kernel[i],
                    stride: strides[i],
                    dilation: dilations[i],
                    padding: padding(i),
                });
                let axes: Vec<Axis> = axes.collect();
                axes.iter().all(|a| a.kernel > 0 && a.stride > 0).then_some(())?;
                let groups = usize::try_from(op.int("group").unwrap_or(1)).ok()?;
                let len = fan_in * kernel.iter().product::<usize>();
                Patches { groups, len, form: Form::Windows { channels: fan_in * groups, axes } }
            }
            ("Gemm", [a, b]) if op.int("transA").unwrap_or(0) == 0 => {
                let len = if op.int("transB").unwrap_or(0) != 0 { *b } else { *a };
                Patches { groups: 1, len, form: Form::Rows }
            }
            ("MatMul", [len, _]) => Patches { groups: 1, len: *len, form: Form::Rows },
            _ => return None,
        };
        (patches.len > 0 && patches.len <= LONGEST && patches.groups > 0).then_some(patches)
    }

    /// Patches of an array, no more than `most` of them and evenly spread, as rows: for each group one
    /// matrix. `None` if the array is no data for this contraction.
    pub(super) fn of(&self, dims: &[usize], data: &[f32], most: usize) -> Option<Vec<f32>> {
        match &self.form {
            Form::Rows => {
                (dims.last() == Some(&self.len)).then_some(())?;
                let rows = data.len() / self.len;
                let n = rows.min(most);
                let row = |i: usize| i * rows / n.max(1) * self.len;
                Some((0..n).flat_map(|i| &data[row(i)..row(i) + self.len]).copied().collect())
            }
            Form::Windows { channels, axes } => self.windows(*channels, axes, dims, data, most),
        }
    }

    fn windows(
        &self,
        channels: usize,
        axes: &[Axis],
        dims: &[usize],
        data: &[f32],
        most: usize,
    ) -> Option<Vec<f32>> {
        let [batch, c, space @ ..] = dims else { return None };
        (*c == channels && space.len() == axes.len()).then_some(())?;
        let on: Option<Vec<(usize, usize)>> = axes.iter().zip(space).map(|(a, n)| a.on(*n)).collect();
        let on = on?;
        let positions = batch * on.iter().map(|(n, _)| n).product::<usize>();
        let n = positions.min(most);
        let area: usize = space.iter().product();
        let window: usize = axes.iter().map(|a| a.kernel).product();
        let fan_in = channels / self.groups;
        let mut out = vec![0.0; self.groups * n * self.len];
        // Offsets into a channel of the elements of a window, where they are within the data.
        let mut offsets = vec![None; window];
        for i in 0..n {
            let mut position = i * positions / n;
            let mut corner = vec![0i64; axes.len()];
            for (k, axis) in axes.iter().enumerate().rev() {
                corner[k] = (position % on[k].0 * axis.stride) as i64 - on[k].1 as i64;
                position /= on[k].0;
            }
            for (w, offset) in offsets.iter_mut().enumerate() {
                *offset = place(w, axes, space, &corner);
            }
            for channel in 0..channels {
                let from = &data[(position * channels + channel) * area..][..area];
                let (group, c) = (channel / fan_in, channel % fan_in);
                let to = &mut out[(group * n + i) * self.len + c * window..][..window];
                for (to, offset) in to.iter_mut().zip(&offsets) {
                    if let Some(o) = offset {
                        *to = from[*o];
                    }
                }
            }
        }
        Some(out)
    }
}

/// The offset into a channel of an element of the window at a corner; `None` in the padding.
fn place(mut w: usize, axes: &[Axis], space: &[usize], corner: &[i64]) -> Option<usize> {
    let (mut offset, mut stride) = (0, 1);
    for k in (0..axes.len()).rev() {
        let at = corner[k] + (w % axes[k].kernel * axes[k].dilation) as i64;
        w /= axes[k].kernel;
        let at = usize::try_from(at).ok().filter(|at| *at < space[k])?;
        offset += at * stride;
        stride *= space[k];
    }
    Some(offset)
}

/// Sums over patches, for each group.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    len: usize,
    /// `Σ x xᵀ`
    sums: Vec<f32>,
    n: usize,
}

impl Moments {
    /// Of no patch.
    pub(super) fn new(p: &Patches) -> Moments {
        Moments { len: p.len, sums: vec![0.0; p.groups * p.len * p.len], n: 0 }
    }

    /// Bytes that the moments of a contraction take.
    pub(super) fn size(p: &Patches) -> usize {
        4 * p.groups * p.len * p.len
    }

    /// Takes in patches of float data.
    pub(super) fn add(&mut self, patches: &[f32], rounding: Rounding) {
        let len = self.len;
        let group = patches.len() / (self.sums.len() / len / len).max(1);
        let n = group / len;
        if n == 0 {
            return;
        }
        let rounded = rounding.rounded(patches);
        for (x, sums) in rounded.chunks_exact(group).zip(self.sums.chunks_exact_mut(len * len)) {
            product(x, n, len, sums);
        }
        self.n += n;
    }

    /// Number of patches.
    pub(super) fn count(&self) -> usize {
        self.n
    }

    /// `E[x xᵀ]` of a group.
    pub(super) fn of(&self, group: usize) -> Vec<f32> {
        let (size, n) = (self.len * self.len, self.n.max(1) as f32);
        self.sums[group * size..(group + 1) * size].iter().map(|s| s / n).collect()
    }
}

/// `c += aᵀ a` for a matrix of `n` rows of `len` elements.
fn product(a: &[f32], n: usize, len: usize, c: &mut [f32]) {
    let view = ArrayView2::from_shape((n, len), a);
    if let (Ok(a), Ok(mut c)) = (view, ArrayViewMut2::from_shape((len, len), c)) {
        general_mat_mul(1.0, &a.t(), &a, 1.0, &mut c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::affine::QuantParams;
    use squint_ir::{DType, Model, OpSpec};

    fn op(spec: OpSpec) -> Model {
        let mut m = Model::new("g", 17);
        m.main_mut().add_op(spec);
        m
    }

    fn patches(m: &Model, weight: &[usize]) -> Option<Patches> {
        let g = m.main();
        Patches::new(g.op(g.ops().next()?), weight)
    }

    #[test]
    fn windows_are_rows_with_zeros_in_the_padding() {
        let conv = op(OpSpec::new("Conv").attr("pads", vec![1i64, 0]).attr("strides", vec![2i64]));
        let p = patches(&conv, &[1, 2, 3]).unwrap();
        let data: Vec<f32> = (1..=8).map(|x| x as f32).collect();
        // Two channels of four: windows begin at -1 and 1.
        let rows = p.of(&[1, 2, 4], &data, 10).unwrap();
        assert_eq!(rows, [0.0, 1.0, 2.0, 0.0, 5.0, 6.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0]);
        assert_eq!(p.of(&[1, 2, 4], &data, 1).unwrap(), rows[..6]);
        assert_eq!(p.of(&[1, 3, 4], &data, 1), None);
    }

    #[test]
    fn each_group_has_a_matrix_of_its_own() {
        let conv = op(OpSpec::new("Conv").attr("group", 2i64));
        let p = patches(&conv, &[2, 1, 1, 1]).unwrap();
        let rows = p.of(&[2, 2, 1, 1], &[1.0, 2.0, 3.0, 4.0], 10).unwrap();
        assert_eq!(rows, [1.0, 3.0, 2.0, 4.0]);
        let mut moments = Moments::new(&p);
        moments.add(&rows, Rounding::Planned(DType::Uint8, QuantParams { scale: 1.0, zero_point: 0 }));
        assert_eq!((moments.of(0), moments.of(1)), (vec![5.0], vec![10.0]));
    }

    #[test]
    fn same_padding_is_put_where_the_operator_puts_it() {
        let axis = |padding| Axis { kernel: 4, stride: 1, dilation: 1, padding };
        assert_eq!(axis(Padding::SameUpper).on(5), Some((5, 1)));
        assert_eq!(axis(Padding::SameLower).on(5), Some((5, 2)));
        assert_eq!(axis(Padding::Explicit(0, 0)).on(3), None);
    }

    #[test]
    fn rows_of_matrices() {
        let gemm = op(OpSpec::new("Gemm").attr("transB", 1i64));
        assert_eq!(patches(&gemm, &[5, 2]).unwrap().len, 2);
        let matmul = op(OpSpec::new("MatMul"));
        let p = patches(&matmul, &[2, 5]).unwrap();
        assert_eq!(p.of(&[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(patches(&matmul, &[3, 2, 5]), None);
        assert_eq!(patches(&op(OpSpec::new("ConvTranspose")), &[1, 1, 3]), None);
    }
}
