//! Costs of running an operator.

/// Nanoseconds of one core for an operator in integers and in float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// With quantized operands and result.
    pub integer: u64,
    /// In float.
    pub float: u64,
}

/// Costs that grow linearly: so much for each call and each unit of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Nanoseconds for a call.
    pub call: f64,
    /// Nanoseconds for a unit: an element, or a multiply–accumulate.
    pub unit: f64,
}

impl Cost {
    /// Nanoseconds for so many units.
    pub fn of(self, units: u64) -> u64 {
        (self.call + self.unit * units as f64) as u64
    }
}
