//! Along which axis the channels of a value lie.

use crate::config::glob;
use crate::overrides::nearest;
use crate::pass::PassError;
use squint_ir::{Graph, OpId, Type, ValueId};

/// Operators whose data has its channels on axis 1, behind the batch.
const CHANNELS_FIRST: &[&str] = &[
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "MaxPool",
];

/// For each observed value that one of the patterns fits, the axis of its channels: 1 where one of its neighbours says
/// so or it has four axes or more, else the last.
///
/// # Errors
/// If a pattern fits no observed value.
pub(crate) fn channel_axes(
    g: &Graph,
    observed: &[ValueId],
    patterns: &[String],
) -> Result<Vec<Option<usize>>, PassError> {
    let fits = |v: ValueId, p: &str| glob(p.as_bytes(), g.value(v).name().as_bytes());
    if let Some(misfit) = patterns.iter().find(|p| !observed.iter().any(|v| fits(*v, p))) {
        let alike = nearest(misfit, observed.iter().map(|v| g.value(*v).name()));
        let hint = match alike.is_empty() {
            true => String::new(),
            false => format!("; did you mean `{}`?", alike.join("`, `")),
        };
        return Err(PassError::Config(format!("`{misfit}` fits no value that is measured{hint}")));
    }
    let wanted = |v: &ValueId| patterns.iter().any(|p| fits(*v, p));
    Ok(observed.iter().map(|v| wanted(v).then(|| axis(g, *v))).collect())
}

/// The axis of the channels of a value.
pub(crate) fn axis(g: &Graph, v: ValueId) -> usize {
    let channels_first = |op: OpId| {
        let op = g.op(op);
        op.is_onnx() && CHANNELS_FIRST.contains(&op.op_type.as_str())
    };
    let rank = g.ty(v).and_then(Type::shape).map(Vec::len);
    let neighbour = g
        .producer(v)
        .map(|(op, _)| op)
        .into_iter()
        .chain(g.uses(v).into_iter().map(|u| u.op))
        .any(channels_first);
    match rank {
        Some(0) => 0,
        Some(n) if n < 4 && !neighbour => n - 1,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::text;

    #[test]
    fn channels_lie_where_operators_say() {
        let model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[N,3,8,8] x, float[N,5,7] t, float[N,6] f, \
             float[4,3,1,1] w, float[2,5,1] k) => (float[N,4,8,8] y, float[N,2,7] u, float[N,6] h) \
             { y = Conv (x, w) u = Conv (t, k) h = Relu (f) }",
        );
        let model = model.unwrap();
        let g = model.main();
        let values: Vec<ValueId> = ["x", "y", "t", "h"].iter().map(|n| g.value_named(n).unwrap()).collect();
        let axes = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            channel_axes(g, &values, &patterns)
        };
        assert_eq!(axes(&["*"]).unwrap(), [Some(1), Some(1), Some(1), Some(1)]);
        assert_eq!(axes(&["x", "h"]).unwrap(), [Some(1), None, None, Some(1)]);
        assert_eq!(axes(&[]).unwrap(), [None; 4]);
        let error = axes(&["zz"]).unwrap_err().to_string();
        assert!(error.contains("`zz` fits no value that is measured"), "{error}");
    }
}
