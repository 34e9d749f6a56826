//! Operators that own bodies, recurrent networks, sequences and optionals.
//!
//! Source: ONNX `Operators.md`. What `If`, `Loop` and `Scan` give depends on their bodies, which an operator's
//! own inference does not see: nothing is said here, and type inference of a model asks the bodies. Sequences
//! and optionals are no tensors, so a [`Fact`] says nothing of them.

use crate::infer::{Inferred, dtype, equal, expect_rank, nothing, shape};
use crate::{Class, Fact, InferCx, Out, Port, Row};
use squint_ir::{DType, Dim};

const BODIES: &[i64] = &[1, 11, 13, 16, 19, 21, 23, 24, 25];
/// Data, the weights of the gates, recurrent weights, bias, lengths, first states, weights of the peepholes.
const RECURRENT: &[Port] = &[
    Port::Act,
    // [directions, gates * hidden, input]: rows are channels.
    Port::Weight(crate::WeightAxis::Second),
    Port::Weight(crate::WeightAxis::Second),
    Port::Bias,
    Port::Index,
    Port::Act,
    Port::Act,
    Port::Param,
];

const fn other(op_type: &'static str, since: &'static [i64], ports: &'static [Port]) -> Row {
    Row::new(op_type, since, Class::Other, nothing).ports(ports)
}

const fn index(op_type: &'static str, since: &'static [i64], infer: fn(&InferCx<'_>) -> Inferred) -> Row {
    Row::new(op_type, since, Class::Index, infer).outs(&[Out::Plain])
}

pub(crate) const ROWS: &[Row] = &[
    Row::new("If", BODIES, Class::Control, nothing).ports(&[Port::Index]),
    Row::new("Loop", BODIES, Class::Control, nothing).ports(&[Port::Index, Port::Index, Port::Act]),
    Row::new("Scan", &[8, 9, 11, 16, 19, 21, 23, 24, 25], Class::Control, nothing),
    Row::new("LSTM", &[1, 7, 14, 22], Class::Recurrent, recurrent).ports(RECURRENT),
    Row::new("GRU", &[1, 3, 7, 14, 22], Class::Recurrent, recurrent).ports(RECURRENT),
    Row::new("RNN", &[1, 7, 14, 22], Class::Recurrent, recurrent).ports(RECURRENT),
    other("SequenceConstruct", &[11], &[Port::Act]),
    other("SequenceEmpty", &[11], &[Port::Act]),
    other("SequenceInsert", &[11], &[Port::Act, Port::Act, Port::Index]),
    other("SequenceErase", &[11], &[Port::Act, Port::Index]),
    other("SequenceAt", &[11], &[Port::Act, Port::Index]),
    other("SplitToSequence", &[11, 24], &[Port::Act, Port::Index]),
    other("ConcatFromSequence", &[11], &[Port::Act]),
    Row::new("SequenceMap", &[17], Class::Control, nothing),
    index("SequenceLength", &[11], infer_length),
    other("Optional", &[15, 28], &[Port::Act]),
    Row::new("OptionalGetElement", &[15, 18, 28], Class::Other, infer_element).outs(&[Out::Same(0)]),
    index("OptionalHasElement", &[15, 18, 28], infer_presence),
];

/// Results: all states `[sequence, directions, batch, hidden]`, then the last one (for LSTM also of the cell)
/// `[directions, batch, hidden]`; with `layout` 1 the batch comes first.
pub(crate) fn recurrent(cx: &InferCx<'_>) -> Inferred {
    let dtype = dtype(cx, 0);
    let directions = match cx.op.string("direction").unwrap_or("forward") {
        "forward" | "reverse" => Dim::Known(1),
        "bidirectional" => Dim::Known(2),
        other => return cx.error(format!("`direction` is `{other}`")),
    };
    let mut hidden = match cx.op.int("hidden_size").map(u64::try_from) {
        Some(Ok(n)) if n > 0 => Dim::Known(n),
        Some(_) => return cx.error("`hidden_size` is not positive"),
        None => Dim::Unknown,
    };
    // The recurrent weight is [directions, gates * hidden, hidden]; the dynamically quantized one is transposed.
    if let Some(r) = shape(cx, 2) {
        expect_rank(r, 3, "operand R")?;
        if cx.op.op_type != "DynamicQuantizeLSTM" {
            hidden = equal(&hidden, &r[2], "`hidden_size` and operand R")?;
        }
    }
    let batch_first = cx.op.int("layout").unwrap_or(0) != 0;
    let (mut sequence, mut batch) = (Dim::Unknown, Dim::Unknown);
    if let Some(x) = shape(cx, 0) {
        expect_rank(x, 3, "operand X")?;
        (sequence, batch) = (x[0].clone(), x[1].clone());
        if batch_first {
            std::mem::swap(&mut sequence, &mut batch);
        }
    }
    let (all, last) = if batch_first {
        (vec![batch.clone(), sequence, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![sequence, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let mut out = vec![Fact::new(dtype, Some(all))];
    out.resize(cx.n_results.clamp(1, 3), Fact::new(dtype, Some(last)));
    Ok(out)
}

fn infer_length(_: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(Some(DType::Int64), Some(Vec::new()))])
}

fn infer_presence(_: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(Some(DType::Bool), Some(Vec::new()))])
}

/// Since version 18 the operand may be a plain tensor, which goes through.
fn infer_element(cx: &InferCx<'_>) -> Inferred {
    Ok(vec![Fact::new(dtype(cx, 0), shape(cx, 0).cloned())])
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes() {
        table(
            "
            LSTM:3-14 <hidden_size=7>
                (float[S,N,5]; float[1,28,5]; float[1,28,7]) -> float[S,1,N,7]; float[1,N,7]; float[1,N,7]
            GRU:2-14 <hidden_size=7 direction=bidirectional layout=1>
                (float[N,S,5]; float[2,21,5]; float[2,21,7]) -> float[N,S,2,7]; float[N,2,7]
            RNN-14 (float[S,N,5]; float[1,7,5]; float[1,7,7]) -> float[S,1,N,7]
            LSTM-14 (float; float; float) -> float[?,1,?,?]
            LSTM-14 <hidden_size=8>
                (float[S,N,5]; float[1,28,5]; float[1,28,7]) -> error: `hidden_size` and operand R: 8 is not 7
            LSTM-14 <hidden_size=-1> (float[S,N,5]) -> error: `hidden_size` is not positive
            GRU-14 (float[S,5]) -> error: operand X has rank 2, not 3
            If:2-16 (bool[]) -> ?; ?
            SequenceLength-11 (?) -> int64[]
            OptionalGetElement-18 (float[N]) -> float[N]
            ",
        );
    }
}
