//! Operators that ONNX Runtime quantizes anew in every run, and what they cost.
//!
//! - A matrix product: DynamicQuantizeMatMul, or one MatMulIntegerToFloat for each of those that share an operand
//!   (`matmul_integer_to_float.cc`, `dynamic_quantize_matmul_fusion.cc`).
//! - An LSTM: DynamicQuantizeLSTM (`dynamic_quantize_lstm.cc`), which quantizes its data once and its state in every
//!   step.
//! - Not a convolution: ConvInteger is not fused with what is around it, and slower than in float.

use super::Processor;
use super::costs::Work;
use crate::{Dynamic, DynamicKernel, Site};
use squint_ir::DType;

const PRODUCT: DynamicKernel =
    DynamicKernel { name: "DynamicQuantizeMatMul", activations: &[0], weights: &[1] };

/// Data and the first state are quantized; the state between steps, too.
const LSTM: DynamicKernel =
    DynamicKernel { name: "DynamicQuantizeLSTM", activations: &[0, 5], weights: &[1, 2] };

/// What the runtime does with an operator that is to quantize its activations in every run.
pub(super) fn support(site: &Site<'_>) -> Dynamic {
    if !site.op.is_onnx() {
        return none("not an ONNX operator: only its own domain knows it");
    }
    match site.op.op_type.as_str() {
        "MatMul" | "Gemm" => product(site),
        "LSTM" => lstm(site),
        "Conv" | "ConvTranspose" => {
            none("a convolution that quantizes its activations in every run is slower than one in float")
        }
        _ => none("only matrix products and LSTMs can quantize their activations in every run"),
    }
}

fn none(reason: &'static str) -> Dynamic {
    Dynamic::None { reason }
}

fn product(site: &Site<'_>) -> Dynamic {
    let op = site.op;
    if let Some(reason) = unlike_float(site, &PRODUCT, 2) {
        return none(reason);
    }
    if site.operand(0).and_then(|x| x.rank()) == Some(1) {
        return none("a vector times a matrix has no integer kernel");
    }
    let plain = op.int("transA").unwrap_or(0) == 0
        && op.float("alpha").unwrap_or(1.0) == 1.0
        && op.float("beta").unwrap_or(1.0) == 1.0;
    if plain {
        Dynamic::Kernel(PRODUCT)
    } else {
        none("Gemm with transA, alpha or beta has no integer kernel")
    }
}

fn lstm(site: &Site<'_>) -> Dynamic {
    if let Some(reason) = unlike_float(site, &LSTM, 3) {
        return none(reason);
    }
    match site.op.int("layout").unwrap_or(0) {
        0 => Dynamic::Kernel(LSTM),
        _ => none("an LSTM with the batch first has no integer kernel"),
    }
}

/// What keeps an operator from integers: data or weights (of such a rank) that are not as the kernel wants them.
fn unlike_float(site: &Site<'_>, kernel: &DynamicKernel, rank: usize) -> Option<&'static str> {
    let data = site.operand(0)?;
    match data.fact.dtype {
        Some(DType::Float) => {}
        Some(_) => return Some("only float32 activations have integer kernels"),
        None => return Some("its element type is unknown"),
    }
    if data.konst().is_some() {
        return Some("its data operand is the constant");
    }
    for slot in kernel.weights {
        match site.operand(*slot as usize).map(|w| w.konst()) {
            Some(Some(w)) if w.dtype() != DType::Float => return Some("its weight is not float32"),
            Some(Some(w)) if w.rank() != rank || w.is_empty() => {
                return Some("its weight is not one matrix");
            }
            Some(Some(_)) => {}
            _ => return Some("its weight is not a constant"),
        }
    }
    None
}

impl Processor {
    /// Cost of an operator that quantizes its activation in every run, where `readers` of its kind share that.
    pub(super) fn dynamic(&self, site: &Site<'_>, readers: usize) -> Option<u64> {
        if site.op.op_type == "LSTM" {
            return Some(self.table.lstm_u8.cost(recurrent(site)?));
        }
        let (x, out) = (site.operand(0)?.elements()?, site.result()?.elements()?);
        site.operand(1)?.elements()?;
        // Quantizing the result costs more than leaving it in float, and the row of planned products has that in it.
        // The same row for both, as a planned product may leave its result in float, too: then all that is dearer here
        // is to find the range.
        let product = self.operator(site).integer;
        let quantize = match readers {
            // The runtime joins the two: there is no call for it.
            0 | 1 => self.table.dynamic_quantize.without_call().each(x),
            _ => self.table.dynamic_quantize.each(x) / readers as u64,
        };
        // A bias that is added behind is added by the kernel.
        let bias = if has_bias_behind(site) { self.table.add_f32.each(out) } else { 0 };
        (out > 0).then_some((quantize + product).saturating_sub(bias))
    }

    /// Cost of an LSTM in float; 0 where lengths are unknown, and for other recurrent operators.
    pub(super) fn recurrent(&self, site: &Site<'_>) -> u64 {
        let work = if site.op.op_type == "LSTM" { recurrent(site) } else { None };
        work.map_or(0, |work| self.table.lstm_f32.cost(work))
    }
}

/// True for a MatMul whose result is only read by an Add of a constant row.
fn has_bias_behind(site: &Site<'_>) -> bool {
    let g = site.graph;
    let add = || {
        let reader = g.only_use(g.result(site.id, 0)?)?;
        let row = g.konst(g.operand(reader.op, 1 - reader.slot.min(1))?)?;
        Some(g.op(reader.op).is("Add") && row.rank() == 1)
    };
    site.op.op_type == "MatMul" && add().unwrap_or(false)
}

/// Work of an LSTM: data `[steps, batch, inputs]`, weights `[directions, 4 hidden, inputs]`.
fn recurrent(site: &Site<'_>) -> Option<Work> {
    let (x, w) = (site.operand(0)?.dims.as_deref()?, site.operand(1)?.dims.as_deref()?);
    let (&[steps, batch, inputs], &[directions, gates, _]) = (x, w) else { return None };
    let hidden = gates / 4;
    let rows = (steps * batch * directions) as u64;
    Some(Work {
        macs: rows * (gates * (inputs + hidden)) as u64,
        fetches: (directions * gates * (inputs + steps * hidden)) as u64,
        elements: rows * hidden as u64,
    })
}
