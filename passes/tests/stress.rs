//! The range that each method finds on a stress distribution, as the table of `docs/calibration.md`.
//!
//! 200,000 standard normal numbers in eight samples, and the outliers 40 and -35 in the last.

use squint_passes::calibration::{Grid, Method, Sketch, solve};

fn stress() -> Sketch {
    let mut state = 7_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    // Box and Muller.
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    let mut sketch = Sketch::new();
    for sample in 0..8 {
        let mut data: Vec<f32> = (0..25_000).map(|_| normal() as f32).collect();
        if sample == 7 {
            data.extend([40.0, -35.0]);
        }
        sketch.observe(&data);
    }
    sketch
}

#[test]
fn the_table_in_the_documentation_is_what_is_computed() {
    let sketch = stress();
    let mut table = "| method | int8, symmetric | uint8, asymmetric |\n|---|---|---|\n".to_owned();
    for name in [
        "minmax",
        "mean-minmax",
        "percentile:99.9",
        "percentile:99.99",
        "percentile:99.999",
        "entropy",
        "mse",
        "lp:1",
        "auto",
    ] {
        let method: Method = name.parse().unwrap();
        let (s, a) = (solve(&sketch, method, &Grid::I8_SYMMETRIC), solve(&sketch, method, &Grid::U8));
        table += &format!("| `{name}` | ±{:.2} | {:.2} .. {:.2} |\n", s.hi, a.lo, a.hi);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/calibration.md");
    let docs = std::fs::read_to_string(path).unwrap();
    assert!(docs.contains(&table), "docs/calibration.md should contain\n{table}");
}
