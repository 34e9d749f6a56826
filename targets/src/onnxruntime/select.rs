//! Which operators, with the conversions around them, become integer kernels
//! (`qdq_selector_action_transformer.cc`, `qdq_selectors.cc`).

use super::absorb::{self, Kept};
use super::kernels::{Kernel, MATMUL_TO_FLOAT, Pattern, kernel, suits};
use super::linear::{Differs, Linear, code_type, same};
use super::sim::{Gone, Sim};
use squint_ir::{DType, OpId, ValueId};

/// Replaces every operator that fits a pattern by its kernel.
pub(super) fn select_all(sim: &mut Sim) -> bool {
    let mut changed = false;
    for op in sim.order() {
        if !sim.g.has_op(op) || !sim.g.op(op).is_onnx() {
            continue;
        }
        if let Ok(found) = select(sim, op) {
            apply(sim, op, &found);
            changed = true;
        } else if let Some(weight) = block_weight(sim, op).filter(|_| !is_clamped(sim, op)) {
            sim.remove(weight, Gone::Into(op));
            let node = sim.g.op_mut(op);
            node.op_type = "MatMulNBits".into();
            node.domain = "com.microsoft".into();
            changed = true;
        }
    }
    changed
}

/// An operator with the conversions that become part of its kernel.
pub(super) struct Selection {
    kernel: &'static Kernel,
    /// DequantizeLinear by operand slot.
    dqs: Vec<(u32, OpId)>,
    qs: Vec<OpId>,
    clamp: Option<OpId>,
}

/// Why an operator does not become an integer kernel.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Miss {
    /// It has none on this target.
    NoKernel,
    /// Its attributes or shapes do not suit the kernel.
    Unsuited(&'static str),
    /// Nothing it reads is dequantized.
    NothingQuantized,
    /// An operand is not dequantized.
    Operand(ValueId),
    /// A DequantizeLinear before it is also a graph output or read by a body.
    Shared(ValueId),
    /// Its result is not quantized.
    Result(ValueId),
    /// Its result has other readers than the QuantizeLinear.
    OtherReaders(ValueId),
    /// Its result is also a graph output.
    GraphOutput(ValueId),
    /// The Relu or Clip behind it is not implied by the quantization of its result.
    Clamp(OpId, Kept),
    /// Integer types that do not go together.
    Types(String),
    /// An integer type without kernel.
    Width(DType),
    /// The bias is not a 32-bit integer.
    BiasType(Option<DType>),
    /// The bias has another scale than the product of those of data and weight; by how much at most.
    BiasScale(f64),
    /// The bias has a zero point, or one scale where the weight has many.
    BiasParams(&'static str),
    /// Moving elements needs the same parameters before and behind.
    Params(Differs),
    /// Comparing elements needs a positive scale.
    NegativeScale,
}

/// The pattern around `op`.
///
/// # Errors
/// What is missing.
pub(super) fn select(sim: &Sim, op: OpId) -> Result<Selection, Miss> {
    let kernel = kernel(&sim.g.op(op).op_type).filter(|_| sim.g.op(op).is_onnx()).ok_or(Miss::NoKernel)?;
    if let Some(site) = sim.site(op) {
        suits(&site).map_err(Miss::Unsuited)?;
    }
    let dqs: Vec<(u32, OpId)> = (0u32..)
        .zip(sim.g.operands(op))
        .filter_map(|(slot, v)| {
            let (p, _) = sim.g.producer(v?)?;
            sim.is_dq(p).then_some((slot, p))
        })
        .collect();
    let clamp = clamp(sim, op);
    let qs = quantizers(sim, clamp.unwrap_or(op));
    if dqs.is_empty() {
        return Err(Miss::NothingQuantized);
    }
    let found = Selection { kernel, dqs, qs, clamp };
    if let Some(c) = clamp {
        let q = match found.qs.as_slice() {
            [q] => *q,
            _ => return Err(unquantized(sim, c)),
        };
        absorb::redundant(sim, c, q).map_err(|why| Miss::Clamp(c, why))?;
    }
    found.check(sim, op)?;
    Ok(found)
}

impl Selection {
    fn check(&self, sim: &Sim, op: OpId) -> Result<(), Miss> {
        let all = sim.g.operands(op).iter().flatten().count();
        match self.kernel.pattern {
            Pattern::Conv => {
                self.group(sim, op, all, false)?;
                let (x, w, y) = (self.data(sim, 0)?, self.data(sim, 1)?, self.out(sim));
                self.narrow(&[x, w])?;
                products(sim, x, w)?;
                equal(x, y)?;
                self.bias(sim)
            }
            Pattern::MatMul => {
                let (x, w) = (self.data(sim, 0)?, self.data(sim, 1)?);
                self.narrow(&[x, w])?;
                products(sim, x, w)?;
                if self.qs.is_empty() {
                    return self.matmul_to_float(sim, op);
                }
                self.group(sim, op, all, false)?;
                equal(x, self.out(sim))
            }
            Pattern::Gemm => {
                self.group(sim, op, all, true)?;
                let (a, b) = (self.data(sim, 0)?, self.data(sim, 1)?);
                self.narrow(&[a, b])?;
                if a == DType::Int8 && b != a {
                    return Err(Miss::Types(format!("{a} data needs an {a} weight, not {b}")));
                }
                if let Some(y) = self.out(sim) {
                    equal(a, Some(y))?;
                }
                match self.dqs.get(2) {
                    Some((_, dq)) if code_type(sim, *dq) != Some(DType::Int32) => {
                        Err(Miss::BiasType(code_type(sim, *dq)))
                    }
                    _ => Ok(()),
                }
            }
            Pattern::Unary => {
                self.group(sim, op, 1, false)?;
                let x = self.data(sim, 0)?;
                self.narrow(&[x])?;
                equal(x, self.out(sim))
            }
            Pattern::All => {
                self.group(sim, op, all, false)?;
                self.alike(sim)
            }
            Pattern::Where => {
                self.group(sim, op, 2, false)?;
                self.alike(sim)
            }
            Pattern::Moved { wide, ordered } => self.moved(sim, op, wide, ordered),
            Pattern::Read => {
                self.node_group(sim, op, 1)?;
                let linear = Linear::of(sim, self.dqs[0].1).ok_or(Miss::Params(Differs::NotScalar))?;
                match (linear.constant_scalars(sim), linear.zero_point) {
                    (false, _) => Err(Miss::Params(Differs::NotScalar)),
                    (_, None) => Err(Miss::Params(Differs::NoZeroPoint)),
                    _ => self.narrow(&[self.data(sim, 0)?]),
                }
            }
        }
    }

    /// The conversions belong to this operator alone, and there are as many as there have to be.
    fn group(&self, sim: &Sim, op: OpId, n: usize, float_result: bool) -> Result<(), Miss> {
        self.node_group(sim, op, n)?;
        let end = self.clamp.unwrap_or(op);
        if self.qs.is_empty() {
            return if float_result { Ok(()) } else { Err(unquantized(sim, end)) };
        }
        let results = sim.g.results(op).iter().flatten().count();
        if results != self.qs.len() || self.qs.len() != sim.edges(op).len() || sim.makes_output(op) {
            return Err(unquantized(sim, op));
        }
        Ok(())
    }

    fn node_group(&self, sim: &Sim, op: OpId, n: usize) -> Result<(), Miss> {
        if self.dqs.len() != n {
            let missing = (0u32..).zip(sim.g.operands(op)).filter_map(|(s, v)| Some((s, v?)));
            let index = |s: u32| sim.site(op).is_some_and(|x| x.row.port(s) == squint_ops::Port::Index);
            let mut missing = missing.filter(|(s, _)| !index(*s) && self.dqs.iter().all(|(d, _)| d != s));
            return Err(missing.next().map_or(Miss::NothingQuantized, |(_, v)| Miss::Operand(v)));
        }
        for (_, dq) in &self.dqs {
            if sim.only_edge(*dq).is_none() {
                return Err(sim.result(*dq).map_or(Miss::NothingQuantized, Miss::Shared));
            }
        }
        if !self.qs.is_empty() && sim.makes_output(op) {
            return Err(unquantized(sim, op));
        }
        Ok(())
    }

    /// The integer type that arrives with the `i`-th DequantizeLinear.
    fn data(&self, sim: &Sim, i: usize) -> Result<DType, Miss> {
        let (_, dq) = self.dqs.get(i).ok_or(Miss::NothingQuantized)?;
        code_type(sim, *dq).ok_or_else(|| Miss::Types("an operand has an unknown type".into()))
    }

    fn out(&self, sim: &Sim) -> Option<DType> {
        code_type(sim, *self.qs.first()?)
    }

    /// Only 8-bit integers have arithmetic.
    fn narrow(&self, types: &[DType]) -> Result<(), Miss> {
        match types.iter().find(|t| !matches!(t, DType::Int8 | DType::Uint8)) {
            Some(t) => Err(Miss::Width(*t)),
            None => Ok(()),
        }
    }

    /// All operands and results have the same type.
    fn alike(&self, sim: &Sim) -> Result<(), Miss> {
        let first = self.data(sim, 0)?;
        self.narrow(&[first])?;
        for i in 1..self.dqs.len() {
            let other = self.data(sim, i)?;
            if other != first {
                return Err(Miss::Types(format!("its operands are {first} and {other}")));
            }
        }
        equal(first, self.out(sim))
    }

    fn moved(&self, sim: &Sim, op: OpId, wide: bool, ordered: bool) -> Result<(), Miss> {
        if let Some(c) = self.clamp {
            return Err(unquantized(sim, c));
        }
        self.group(sim, op, 1, false)?;
        let (x, dq) = (self.data(sim, 0)?, self.dqs[0].1);
        let sixteen = matches!(x, DType::Int16 | DType::Uint16);
        if sixteen && !wide {
            return Err(Miss::Width(x));
        }
        for q in &self.qs {
            equal(x, code_type(sim, *q))?;
            if ordered
                && Linear::of(sim, *q).and_then(|l| l.scale(sim)).is_none_or(|s| s.is_nan() || s <= 0.0)
            {
                return Err(Miss::NegativeScale);
            }
            same(sim, *q, dq).map_err(Miss::Params)?;
        }
        Ok(())
    }

    fn matmul_to_float(&self, sim: &Sim, op: OpId) -> Result<(), Miss> {
        match self.dqs.len() {
            2 => self.node_group(sim, op, 2),
            _ => Err(Miss::NothingQuantized),
        }
    }

    /// A bias is 32-bit integers with the product of scales.
    fn bias(&self, sim: &Sim) -> Result<(), Miss> {
        let Some((_, dq)) = self.dqs.get(2) else { return Ok(()) };
        if code_type(sim, *dq) != Some(DType::Int32) {
            return Err(Miss::BiasType(code_type(sim, *dq)));
        }
        super::bias::matches(sim, self.dqs[0].1, self.dqs[1].1, *dq)
    }
}

/// The operator right behind, if it is a Relu or Clip that nothing but its own reader sees.
fn clamp(sim: &Sim, op: OpId) -> Option<OpId> {
    let [u] = sim.edges(op)[..] else { return None };
    let node = sim.g.op(u.op);
    let clamps = matches!(node.op_type.as_str(), "Relu" | "Clip") && !u.capture;
    (clamps && sim.edges(u.op).len() == 1 && !sim.makes_output(u.op)).then_some(u.op)
}

/// Every QuantizeLinear that reads a result, a second one of the same value included.
fn quantizers(sim: &Sim, op: OpId) -> Vec<OpId> {
    sim.edges(op).into_iter().filter(|u| !u.capture && u.slot == 0 && sim.is_q(u.op)).map(|u| u.op).collect()
}

/// Why a result is not quantized in the way that is looked for.
fn unquantized(sim: &Sim, op: OpId) -> Miss {
    let results: Vec<ValueId> = sim.g.results(op).into_iter().flatten().collect();
    for v in &results {
        let uses = sim.g.uses(*v);
        let quantizers = uses.iter().filter(|u| sim.is_q(u.op)).count();
        if sim.is_output(*v) {
            return Miss::GraphOutput(*v);
        }
        if quantizers == 0 {
            return Miss::Result(*v);
        }
        if uses.len() > 1 {
            return Miss::OtherReaders(*v);
        }
    }
    results.first().map_or(Miss::NoKernel, |v| Miss::Result(*v))
}

fn products(sim: &Sim, x: DType, w: DType) -> Result<(), Miss> {
    if x == DType::Int8 && !sim.signed {
        return Err(Miss::Types("its data is int8, and only uint8 has a kernel".into()));
    }
    if x == DType::Int8 && w != x {
        return Err(Miss::Types(format!("int8 data needs an int8 weight, not {w}")));
    }
    Ok(())
}

fn equal(a: DType, b: Option<DType>) -> Result<(), Miss> {
    match b {
        Some(b) if b != a => Err(Miss::Types(format!("its operand is {a} and its result {b}"))),
        _ => Ok(()),
    }
}

/// Puts the kernel in the place of the operator and its conversions.
fn apply(sim: &mut Sim, op: OpId, found: &Selection) {
    let linear: Vec<Linear> = found.dqs.iter().filter_map(|(_, dq)| Linear::of(sim, *dq)).collect();
    let quantized: Vec<(ValueId, Option<ValueId>, Option<ValueId>)> = found
        .qs
        .iter()
        .filter_map(|q| Some((sim.result(*q)?, sim.g.operand(*q, 1), sim.g.operand(*q, 2))))
        .collect();
    let moved = matches!(found.kernel.pattern, Pattern::Moved { .. } | Pattern::Read);
    for gone in found.dqs.iter().map(|(_, dq)| *dq).chain(found.qs.iter().copied()).chain(found.clamp) {
        sim.remove(gone, Gone::Into(op));
    }
    let results: Vec<Option<ValueId>> = sim.g.results(op);
    let mut quantized_results = quantized.iter();
    for (slot, v) in (0u32..).zip(results) {
        if v.is_some()
            && let Some((out, ..)) = quantized_results.next()
        {
            sim.g.set_result(op, slot, Some(*out));
        }
    }
    if moved {
        if let Some(l) = linear.first() {
            sim.g.set_operand(op, 0, Some(l.data));
        }
        return;
    }
    let mut operands: Vec<Option<ValueId>> = Vec::new();
    let out = quantized.first().map(|(_, s, z)| [*s, *z]);
    match found.kernel.pattern {
        Pattern::MatMul if out.is_none() => {
            operands.extend(linear.iter().map(|l| Some(l.data)));
            operands.extend(linear.iter().map(|l| Some(l.scale)));
            operands.extend(linear.iter().map(|l| l.zero_point));
        }
        Pattern::All if found.kernel.name == "QLinearConcat" => {
            operands.extend(out.into_iter().flatten());
            operands.extend(linear.iter().flat_map(|l| [Some(l.data), Some(l.scale), l.zero_point]));
        }
        _ => {
            if found.kernel.pattern == Pattern::Where {
                operands.push(sim.g.operand(op, 0));
            }
            operands.extend(linear.iter().take(2).flat_map(|l| [Some(l.data), Some(l.scale), l.zero_point]));
            operands.extend(out.into_iter().flatten());
            operands.extend(linear.get(2).map(|l| Some(l.data)));
        }
    }
    let (name, domain) = match (found.kernel.pattern, out) {
        (Pattern::MatMul, None) => (MATMUL_TO_FLOAT, "com.microsoft"),
        _ => (found.kernel.name, found.kernel.domain),
    };
    let old = sim.g.operands(op).len() as u32;
    let node = sim.g.op_mut(op);
    node.op_type = name.into();
    node.domain = domain.into();
    for slot in 0..old.max(operands.len() as u32) {
        sim.g.set_operand(op, slot, operands.get(slot as usize).copied().flatten());
    }
}

/// True for a product whose only reader is a Relu or Clip that something reads: the selectors take the clamp for the one
/// before a quantizer, find none, and leave the product (seen in 1.31.1).
fn is_clamped(sim: &Sim, op: OpId) -> bool {
    let only = sim.g.result(op, 0).and_then(|v| sim.g.only_use(v));
    let clamp = only.map(|u| u.op).filter(|o| sim.g.op(*o).is("Relu") || sim.g.op(*o).is("Clip"));
    clamp.and_then(|o| sim.g.result(o, 0)).is_some_and(|v| !sim.g.is_output(v))
}

/// The DequantizeLinear of a weight of few bits before a product with float data (`DQMatMulNodeGroupSelector`).
fn block_weight(sim: &Sim, op: OpId) -> Option<OpId> {
    let node = sim.g.op(op);
    let gemm = node.is("Gemm");
    if !gemm && !node.is("MatMul") {
        return None;
    }
    let dq = |slot| sim.parent(op, slot).filter(|p| sim.is_dq(*p));
    let weight = dq(1)?;
    if dq(0).is_some() || sim.edges(op).iter().any(|u| sim.is_q(u.op)) || sim.only_edge(weight).is_none() {
        return None;
    }
    let l = Linear::of(sim, weight)?;
    let bits = sim.dtype(l.data)?.bits();
    let scale_type = sim.dtype(l.scale)?;
    if !matches!(bits, 2 | 4 | 8)
        || !matches!(scale_type, DType::Float | DType::Float16)
        || sim.dtype(l.data)?.is_float()
        || ![Some(l.data), Some(l.scale), l.zero_point].into_iter().flatten().all(|v| sim.is_constant(v))
    {
        return None;
    }
    let dims = |v: ValueId| sim.dims(v);
    let (w, s) = (dims(l.data)?, dims(l.scale)?);
    let [k, n] = w[..] else { return None };
    let z = match l.zero_point {
        Some(z) => Some(dims(z)?),
        None => None,
    };
    let axis = sim.g.op(weight).int("axis");
    let block = sim.g.op(weight).int("block_size").unwrap_or(0);
    if block > 0 {
        let b = block as usize;
        if axis != Some(0) || b < 16 || !b.is_power_of_two() || s != [k.div_ceil(b), n] {
            return None;
        }
    } else if !(s.is_empty() || (s == [n] && axis.is_none_or(|a| a == 1))) {
        return None;
    }
    if z.is_some_and(|z| z != s) {
        return None;
    }
    if gemm {
        let one = |name: &str| (node.float(name).unwrap_or(1.0) - 1.0).abs() <= 1e-6;
        let plain = node.int("transA").unwrap_or(0) == 0 && node.int("transB").unwrap_or(0) == 0;
        let bias = sim.g.operand(op, 2);
        let fits = bias.is_none_or(|b| one("beta") && dims(b).is_some_and(|d| d == [n]));
        if !one("alpha") || !plain || !fits {
            return None;
        }
    }
    Some(weight)
}
