//! Constants made by formula, so that fixtures need no weights: `["location": "gen:randn?seed=1&std=0.1"]`.
//!
//! | location | elements |
//! |---|---|
//! | `gen:randn?seed=0&mean=0&std=1` | normal (Box and Muller), rounded to 12 bits of fraction |
//! | `gen:uniform?seed=0&lo=-1&hi=1` | uniform in `[lo, hi)`, rounded likewise |
//! | `gen:iota?start=0&step=1` | `start`, `start + step`, … |
//! | `gen:fill?value=0` | all the same |
//!
//! Random bits come from SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
//! generators", 2014). The rounding makes the elements independent of the last bit of the mathematical
//! library.

use super::ExternalRef;
use crate::{Bytes, DType, Tensor, tensor};

/// Largest constant, in elements, that is made.
const LIMIT: usize = 1 << 24;

/// Makes the constant of a location that begins with `gen:`; a loader for [`super::parse_with`].
///
/// # Errors
/// If the location is of another kind, has an unknown name or parameter, or asks for too much.
pub fn generate(external: &ExternalRef) -> Result<Tensor, String> {
    let location = external.get("location").unwrap_or_default();
    let formula = location.strip_prefix("gen:").ok_or_else(|| format!("`{location}` is not a formula"))?;
    let n = external.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= LIMIT);
    let n = n.ok_or_else(|| format!("a generated constant has at most {LIMIT} elements"))?;
    let (name, query) = formula.split_once('?').unwrap_or((formula, ""));
    let values = elements(name, query, n)?;
    from_f64s(external.dtype, &external.dims, &values)
}

fn elements(name: &str, query: &str, n: usize) -> Result<Vec<f64>, String> {
    let mut given = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let parsed = pair.split_once('=').and_then(|(k, v)| Some((k, v.parse::<f64>().ok()?)));
        given.push(parsed.ok_or_else(|| format!("`{pair}` is not of the form `name=number`"))?);
    }
    let known: &[(&str, f64)] = match name {
        "randn" => &[("seed", 0.0), ("mean", 0.0), ("std", 1.0)],
        "uniform" => &[("seed", 0.0), ("lo", -1.0), ("hi", 1.0)],
        "iota" => &[("start", 0.0), ("step", 1.0)],
        "fill" => &[("value", 0.0)],
        _ => {
            return Err(format!(
                "there is no formula `{name}`; there are `randn`, `uniform`, `iota` and `fill`"
            ));
        }
    };
    if let Some((key, _)) = given.iter().find(|(k, _)| !known.iter().any(|(name, _)| k == name)) {
        return Err(format!("`{name}` has no parameter `{key}`"));
    }
    let p: Vec<f64> = known
        .iter()
        .map(|(k, default)| given.iter().find(|(g, _)| g == k).map_or(*default, |(_, v)| *v))
        .collect();
    let mut random = SplitMix(p[0] as u64);
    Ok(match name {
        "randn" => (0..n).map(|_| p[1] + p[2] * rounded(random.normal())).collect(),
        "uniform" => (0..n).map(|_| p[1] + (p[2] - p[1]) * rounded(random.unit())).collect(),
        "iota" => (0..n).map(|i| p[0] + p[1] * i as f64).collect(),
        _ => vec![p[0]; n],
    })
}

fn from_f64s(dtype: DType, dims: &[usize], values: &[f64]) -> Result<Tensor, String> {
    let floats = || values.iter().map(|x| *x as f32);
    let raw: Bytes = match dtype {
        DType::Float => floats().flat_map(f32::to_le_bytes).collect(),
        DType::Double => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::Float16 => floats().flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::Bfloat16 => floats().flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        DType::Bool => values.iter().map(|x| u8::from(*x != 0.0)).collect(),
        _ => {
            let (lo, hi) =
                dtype.int_range().ok_or_else(|| format!("no constant of type {dtype} can be generated"))?;
            let ints = values.iter().map(|x| (x.round_ties_even() as i64).clamp(lo, hi));
            match dtype.bits() {
                bits if bits < 8 => tensor::pack_bits(ints, bits),
                bits => ints.flat_map(|x| x.to_le_bytes().into_iter().take(bits / 8)).collect(),
            }
        }
    };
    Tensor::raw(dtype, dims, raw).map_err(|e| e.to_string())
}

fn rounded(x: f64) -> f64 {
    (x * 4096.0).round() / 4096.0
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, with 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(dtype: DType, dims: &[usize], location: &str) -> Result<Tensor, String> {
        let entries = vec![("location".to_owned(), location.to_owned())];
        generate(&ExternalRef { name: "w".into(), dtype, dims: dims.to_vec(), entries })
    }

    #[test]
    fn formulas_make_what_they_say() {
        let iota = make(DType::Int8, &[2, 2], "gen:iota?start=-1&step=64").unwrap();
        assert_eq!(iota.to_i64s().unwrap(), [-1, 63, 127, 127]);
        assert_eq!(make(DType::Float, &[2], "gen:fill?value=0.5").unwrap().to_f32s(), [0.5, 0.5]);
        let normal = make(DType::Float, &[4000], "gen:randn?seed=3&std=2&mean=1").unwrap().to_f64s();
        let mean = normal.iter().sum::<f64>() / 4000.0;
        let std = (normal.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4000.0).sqrt();
        assert!((mean - 1.0).abs() < 0.15 && (std - 2.0).abs() < 0.15, "{mean} {std}");
        let uniform = make(DType::Float, &[1000], "gen:uniform?lo=2&hi=3").unwrap().to_f64s();
        assert!(uniform.iter().all(|x| (2.0..=3.0).contains(x)));
        assert_eq!(
            make(DType::Float, &[3], "gen:randn?seed=1"),
            make(DType::Float, &[3], "gen:randn?seed=1")
        );
        assert_ne!(
            make(DType::Float, &[3], "gen:randn?seed=1"),
            make(DType::Float, &[3], "gen:randn?seed=2")
        );
    }

    #[test]
    fn wrong_formulas_are_refused() {
        for (location, message) in [
            ("weights.bin", "`weights.bin` is not a formula"),
            ("gen:noise", "there is no formula `noise`"),
            ("gen:randn?sigma=1", "`randn` has no parameter `sigma`"),
            ("gen:randn?std", "`std` is not of the form `name=number`"),
        ] {
            assert!(make(DType::Float, &[1], location).unwrap_err().starts_with(message));
        }
        assert!(make(DType::Float, &[1 << 40, 1 << 40], "gen:iota").unwrap_err().contains("at most"));
        assert!(make(DType::String, &[1], "gen:iota").is_err());
    }
}
