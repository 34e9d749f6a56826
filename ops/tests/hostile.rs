//! No operator of any family panics, overflows or runs away on nonsense: random facts, attributes and tensors.

use squint_ir::{AttrValue, DType, Dim, Op, Tensor};
use squint_ops::{EvalCx, Fact, InferCx, Row, rows};
use std::sync::Arc;

const ROUNDS: usize = 1500;
const NUMBERS: &[i64] = &[0, 1, 1, 2, 2, 3, 4, -1, -1, -2, 7, 1 << 40, i64::MAX, i64::MIN];
const NAMES: &[&str] = &[
    "axis",
    "axes",
    "perm",
    "pads",
    "strides",
    "dilations",
    "kernel_shape",
    "group",
    "blocksize",
    "to",
    "k",
    "keepdims",
    "split",
    "num_outputs",
    "starts",
    "ends",
    "shape",
    "scales",
    "batch_dims",
    "batch_axis",
    "time_axis",
    "allowzero",
    "value",
    "value_ints",
    "start",
    "end",
    "transA",
    "transB",
    "hidden_size",
    "direction",
    "mode",
    "auto_pad",
    "output_padding",
    "output_shape",
    "ceil_mode",
    "fmod",
    "dtype",
    "upper",
    "num_groups",
    "block_size",
    "output_height",
    "select_last_index",
    "noop_with_empty_axes",
    "equation",
    "reduction",
    "broadcast",
    "largest",
];
const WORDS: &[&str] = &[
    "constant",
    "edge",
    "reflect",
    "wrap",
    "CRD",
    "LEFT",
    "RIGHT",
    "SAME_UPPER",
    "VALID",
    "reverse",
    "none",
    "ij,jk->ik",
];

#[test]
fn inference_survives_nonsense() {
    let mut random = Random(1);
    for row in rows() {
        for _ in 0..ROUNDS {
            let op = random.op(row);
            let inputs: Vec<Option<Fact>> = (0..random.below(6)).map(|_| random.fact()).collect();
            let cx = InferCx { op: &op, opset: random.opset(), inputs: &inputs, n_results: random.below(4) };
            let _ = (row.infer)(&cx);
        }
    }
}

#[test]
fn kernels_survive_nonsense() {
    let mut random = Random(2);
    for (row, eval) in rows().filter_map(|r| r.eval.map(|e| (r, e))) {
        for _ in 0..ROUNDS {
            let op = random.op(row);
            let tensors: Vec<Tensor> = (0..random.below(6)).map(|_| random.tensor()).collect();
            let inputs: Vec<Option<&Tensor>> =
                tensors.iter().map(|t| if random.below(8) == 0 { None } else { Some(t) }).collect();
            let cx = EvalCx { op: &op, opset: random.opset(), inputs: &inputs, n_results: random.below(4) };
            let _ = eval(&cx);
        }
    }
}

/// Knuth's linear congruential generator (MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn number(&mut self) -> i64 {
        NUMBERS[self.below(NUMBERS.len())]
    }

    fn opset(&mut self) -> i64 {
        1 + self.below(22) as i64
    }

    fn op(&mut self, row: &Row) -> Op {
        let mut op = Op::default();
        op.op_type = row.op_type.into();
        op.domain = row.domain.into();
        for _ in 0..self.below(6) {
            let name = NAMES[self.below(NAMES.len())];
            let value = match self.below(6) {
                0 | 1 => AttrValue::Int(self.number()),
                2 | 3 => AttrValue::Ints((0..self.below(5)).map(|_| self.number()).collect()),
                4 => AttrValue::string(WORDS[self.below(WORDS.len())]),
                _ => AttrValue::Tensor(Arc::new(self.tensor())),
            };
            op.set_attr(name, value);
        }
        op
    }

    fn fact(&mut self) -> Option<Fact> {
        let dtype = DType::ALL[self.below(DType::ALL.len())];
        match self.below(8) {
            0 => None,
            1 => Some(Fact::default()),
            2 | 3 => Some(Fact::constant(Arc::new(self.tensor()))),
            _ => {
                let rank = self.below(6);
                let shape: Vec<Dim> = (0..rank).map(|_| self.dim()).collect();
                let lengths = (rank < 2).then(|| (0..self.below(5)).map(|_| self.dim()).collect());
                Some(Fact { dims: lengths, ..Fact::new(Some(dtype), Some(shape)) })
            }
        }
    }

    fn dim(&mut self) -> Dim {
        match self.below(8) {
            0 => Dim::Symbol("N".into()),
            1 => Dim::Unknown,
            2 => Dim::Known(u64::MAX),
            _ => Dim::Known(self.number().unsigned_abs()),
        }
    }

    fn tensor(&mut self) -> Tensor {
        let dims: Vec<usize> = match self.below(12) {
            0 => vec![0, usize::MAX, usize::MAX],
            1 => vec![usize::MAX, 0],
            _ => (0..self.below(5)).map(|_| self.below(4)).collect(),
        };
        let len = if dims.contains(&0) { 0 } else { dims.iter().product() };
        let numbers: Vec<i64> = (0..len).map(|_| self.number()).collect();
        match self.below(6) {
            0 => Tensor::from_f32(&dims, &numbers.iter().map(|x| *x as f32).collect::<Vec<_>>()),
            1 => Tensor::from_bool(&dims, &numbers.iter().map(|x| *x > 1).collect::<Vec<_>>()),
            2 => Tensor::from_u8(&dims, &numbers.iter().map(|x| *x as u8).collect::<Vec<_>>()),
            3 => {
                let strings = numbers.iter().map(|x| x.to_string().into()).collect();
                Tensor::strings(&dims, strings).expect("invariant: dims match data")
            }
            _ => Tensor::from_i64(&dims, &numbers),
        }
    }
}
