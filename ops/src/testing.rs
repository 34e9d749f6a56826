//! Inference on facts written as text, for the table tests of the families.
//!
//! Operands and results are types joined by `; `: `float[N,3,?]`, the scalar `float[]`, `float` of unknown rank,
//! a `?` of which nothing is known, `-` for an omitted operand, and `int64[2] = 0 -1` for constant integers.
//! Attributes are `name=1`, `name=0.5`, `name=[1,2]` or `name=text`, joined by spaces.

use crate::{Fact, InferCx, InferError, row};
use squint_ir::{AttrValue, DType, Dim, Op, Shape, Tensor};
use std::sync::Arc;

/// One line of a table: operator (with `domain::` if not the default, and `:n` if it has `n` results), operator
/// set, attributes, operands, results.
pub(crate) type Case = (&'static str, i64, &'static str, &'static str, &'static str);

/// Checks every line of a table.
pub(crate) fn check(cases: &[Case]) {
    for (op, opset, attrs, operands, expected) in cases {
        let found = infer(op, *opset, attrs, operands).unwrap_or_else(|e| format!("error: {e}"));
        assert_eq!(found, *expected, "{op}-{opset} <{attrs}> ({operands})");
    }
}

/// Checks a table whose lines are `operator-version <attributes> (operands) -> results`; a line that is indented
/// more than the first goes on with the one before. What is refused has the result `error: ` and the message.
pub(crate) fn table(text: &str) {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().filter(|l| !l.trim().is_empty()) {
        match lines.last_mut() {
            Some(last) if indent(line) > indent(last) => *last = format!("{last} {}", line.trim()),
            _ => lines.push(line.to_owned()),
        }
    }
    for line in lines {
        let (call, expected) = line.trim().rsplit_once(") -> ").expect("results");
        let (head, operands) = call.split_once(" (").expect("operands");
        let (op, attrs) = head.split_once(" <").unwrap_or((head, ">"));
        let (op, opset) = op.rsplit_once('-').expect("version");
        let attrs = attrs.strip_suffix('>').expect("closing bracket");
        let found = infer(op, opset.parse().expect("version"), attrs, operands);
        let found = found.unwrap_or_else(|e| format!("error: {e}"));
        assert_eq!(found, expected, "{line}");
    }
}

/// Infers the results of an operator.
pub(crate) fn infer(op: &str, opset: i64, attrs: &str, operands: &str) -> Result<String, InferError> {
    let (op, n_results) = match op.rsplit_once(':') {
        Some((op, n)) if !op.ends_with(':') && n.parse::<usize>().is_ok() => (op, n.parse().expect("number")),
        _ => (op, 1),
    };
    let op = self::op(op, attrs);
    let inputs: Vec<Option<Fact>> = operands.split(';').map(str::trim).map(fact).collect();
    let row = row(&op.domain, &op.op_type).expect("the operator has a row");
    let facts = (row.infer)(&InferCx { op: &op, opset, inputs: &inputs, n_results })?;
    let show = |f: &Fact| {
        let name = f.dtype.map_or("?", DType::name);
        let dims = |s: &Shape| format!("[{}]", s.iter().map(Dim::to_string).collect::<Vec<_>>().join(","));
        format!("{name}{}", f.shape.as_ref().map_or(String::new(), dims))
    };
    Ok(facts.iter().map(show).collect::<Vec<_>>().join("; "))
}

/// An operator from its type and attributes.
pub(crate) fn op(op: &str, attrs: &str) -> Op {
    let (domain, op_type) = op.split_once("::").unwrap_or(("", op));
    let mut op = Op::default();
    op.domain = domain.into();
    op.op_type = op_type.into();
    for attr in attrs.split_whitespace() {
        let (name, text) = attr.split_once('=').expect("name=value");
        let list = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        let value = match (list, text.parse::<i64>(), text.parse::<f32>()) {
            (Some(l), ..) => {
                let items = l.split(',').filter(|x| !x.is_empty());
                AttrValue::Ints(items.map(|x| x.parse().expect("integer")).collect())
            }
            (_, Ok(i), _) => AttrValue::Int(i),
            (_, _, Ok(f)) => AttrValue::Float(f),
            _ => AttrValue::string(text),
        };
        op.set_attr(name, value);
    }
    op
}

fn fact(text: &str) -> Option<Fact> {
    let (ty, ints) = match text.split_once('=') {
        Some((t, v)) => (t.trim(), Some(v)),
        None => (text, None),
    };
    let (name, dims) = match ty.split_once('[') {
        Some((n, d)) => (n, Some(d.strip_suffix(']').expect("closing bracket"))),
        None => (ty, None),
    };
    if name == "-" {
        return None;
    }
    let dtype: Option<DType> = name.parse().ok();
    let dim = |d: &str| match (d, d.parse()) {
        ("?", _) => Dim::Unknown,
        (_, Ok(n)) => Dim::Known(n),
        _ => Dim::Symbol(d.into()),
    };
    let shape: Option<Shape> = dims.map(|d| d.split(',').filter(|x| !x.is_empty()).map(dim).collect());
    let Some(ints) = ints else { return Some(Fact::new(dtype, shape)) };
    let ints: Vec<i64> = ints.split_whitespace().map(|x| x.parse().expect("integer")).collect();
    let dims = squint_ir::types::known_dims(&shape.expect("a constant has a shape")).expect("known shape");
    Some(Fact::constant(Arc::new(Tensor::from_i64(&dims, &ints))))
}

/// Computes an operator.
pub(crate) fn eval(
    op: &str,
    opset: i64,
    attrs: &str,
    inputs: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, crate::EvalError> {
    let op = self::op(op, attrs);
    let eval = row(&op.domain, &op.op_type).and_then(|r| r.eval).expect("the operator has a kernel");
    eval(&crate::EvalCx { op: &op, opset, inputs, n_results: 1 })
}

#[test]
fn every_operator_has_one_row_and_ascending_versions() {
    let mut seen = std::collections::BTreeSet::new();
    for r in crate::rows() {
        assert!(seen.insert((r.domain, r.op_type)), "{} has two rows", r.op_type);
        assert!(!r.since.is_empty() && r.since.is_sorted(), "{}", r.op_type);
        assert!(!r.ports.is_empty() && !r.outs.is_empty(), "{}", r.op_type);
    }
}

/// Whatever the operands, inference answers; most rows are asked for less than they need.
#[test]
fn inference_never_panics() {
    let facts =
        ["?", "float", "float[]", "float[0]", "int64[1] = -1", "float[N,0,?,1]", "int64[3,1] = 9 -9 0"];
    let huge = "axis=-9223372036854775808 kernel_shape=[9223372036854775807] axes=[9223372036854775807,-4] group=7 \
                strides=[-1] pads=[9223372036854775807,1] hidden_size=0 num_groups=-1 block_size=-3 equation=a...->";
    for r in crate::rows() {
        for attrs in
            ["", huge, "axis=1 kernel_shape=[2,2] pads=[1,1,1,1] axes=[0] hidden_size=3 direction=up"]
        {
            for (i, first) in facts.iter().enumerate() {
                let second = facts[(i * 3 + 1) % facts.len()];
                for operands in
                    ["".to_owned(), (*first).to_owned(), [first, second, first, second].join("; ")]
                {
                    let name = if r.domain.is_empty() {
                        r.op_type.to_owned()
                    } else {
                        format!("{}::{}", r.domain, r.op_type)
                    };
                    let _ = infer(&name, 13, attrs, &operands);
                }
            }
        }
    }
}
