//! An operator as a target sees it.

use squint_ir::{Graph, Op, OpId, Tensor, ValueId};
use squint_ops::{Class, Fact, Port, Row};
use std::sync::Arc;

/// An operator in its place: its row, and what is known of its operands and results.
pub struct Site<'a> {
    /// The graph around it.
    pub graph: &'a Graph,
    /// Which operator of the graph it is.
    pub id: OpId,
    /// The operator.
    pub op: &'a Op,
    /// Its row.
    pub row: &'static Row,
    /// Version of the default operator set.
    pub opset: i64,
    /// Operands by slot.
    pub operands: Vec<Option<Operand>>,
    /// Results by slot.
    pub results: Vec<Option<Operand>>,
}

/// What is known of an operand or result.
#[derive(Clone, Debug)]
pub struct Operand {
    /// The value.
    pub value: ValueId,
    /// Its type, shape and contents.
    pub fact: Fact,
    /// Its dimensions, seen in the data or known from the shape.
    pub dims: Option<Vec<usize>>,
}

impl Operand {
    /// The constant, if it is one.
    pub fn konst(&self) -> Option<&Arc<Tensor>> {
        self.fact.konst.as_ref()
    }

    /// Number of elements, if the dimensions are known.
    pub fn elements(&self) -> Option<u64> {
        self.dims.as_ref().map(|d| d.iter().map(|d| *d as u64).product())
    }

    /// Rank, if known.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len).or_else(|| self.fact.rank())
    }
}

impl<'a> Site<'a> {
    /// The site of an operator, or `None` if it has no row. `operand` says what is known of a value.
    pub fn new(
        graph: &'a Graph,
        id: OpId,
        opset: i64,
        operand: impl Fn(ValueId) -> Operand,
    ) -> Option<Site<'a>> {
        let op = graph.op(id);
        let row = squint_ops::row(&op.domain, &op.op_type)?;
        let describe = |vs: Vec<Option<ValueId>>| vs.into_iter().map(|v| v.map(&operand)).collect();
        let (operands, results) = (describe(graph.operands(id)), describe(graph.results(id)));
        Some(Site { graph, id, op, row, opset, operands, results })
    }

    /// The operand at a slot.
    pub fn operand(&self, slot: usize) -> Option<&Operand> {
        self.operands.get(slot).and_then(Option::as_ref)
    }

    /// The first result.
    pub fn result(&self) -> Option<&Operand> {
        self.results.first().and_then(Option::as_ref)
    }

    /// Slots of operands that are activations to be quantized: `Act` ports, and `Weight` ports without a
    /// constant.
    pub fn activations(&self) -> Vec<u32> {
        (0u32..)
            .zip(&self.operands)
            .filter(|(slot, o)| match (self.row.port(*slot), o) {
                (_, None) => false,
                (Port::Act, Some(_)) => true,
                (Port::Weight(_), Some(o)) => o.konst().is_none(),
                _ => false,
            })
            .map(|(slot, _)| slot)
            .collect()
    }

    /// The slot of the constant weight of a contraction, with its output-channel axis.
    pub fn weight(&self) -> Option<(u32, &Operand, Option<usize>)> {
        (0u32..).zip(&self.operands).find_map(|(slot, o)| match (self.row.port(slot), o) {
            (Port::Weight(axis), Some(o)) if o.konst().is_some() => {
                Some((slot, o, axis.resolve(self.op, o.konst()?.rank())))
            }
            _ => None,
        })
    }

    /// Multiply–accumulates of a contraction; 0 for other operators or where shapes are unknown.
    pub fn macs(&self) -> u64 {
        if self.row.class == Class::Contraction { self.multiplications().unwrap_or(0) } else { 0 }
    }

    /// Multiply–accumulates of a contraction, in float or in integers already; `None` for other operators, 0 where
    /// shapes are unknown.
    pub fn multiplications(&self) -> Option<u64> {
        let weight = match self.op.op_type.as_str() {
            "Conv" | "ConvTranspose" | "Gemm" | "MatMul" => 1,
            "ConvInteger" | "MatMulInteger" | "MatMulIntegerToFloat" | "DynamicQuantizeMatMul" => 1,
            "QLinearConv" | "QLinearMatMul" | "QGemm" => 3,
            _ => return None,
        };
        Some(self.macs_with(weight).unwrap_or(0))
    }

    fn macs_with(&self, weight: usize) -> Option<u64> {
        let out = self.result().and_then(Operand::elements);
        let dims = |slot: usize| self.operand(slot).and_then(|o| o.dims.as_deref());
        match self.op.op_type.as_str() {
            // Each output element sums over the weight's input channels and kernel.
            "Conv" | "ConvInteger" | "QLinearConv" => {
                Some(out? * dims(weight)?.iter().skip(1).product::<usize>() as u64)
            }
            // Each input element is multiplied with every weight of its channel.
            "ConvTranspose" => {
                let x = self.operand(0).and_then(Operand::elements)?;
                Some(x * dims(weight)?.iter().skip(1).product::<usize>() as u64)
            }
            _ => {
                let trans = self.op.int("transA").unwrap_or(0) != 0;
                let a = dims(0)?;
                Some(out? * *if trans { a.first() } else { a.last() }? as u64)
            }
        }
    }
}
