//! Costs of running an operator.

/// Nanoseconds of one core for an operator in integers and in float.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// With quantized operands and result.
    pub integer: u64,
    /// In float.
    pub float: u64,
}
