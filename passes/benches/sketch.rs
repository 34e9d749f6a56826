//! Time per element of `Sketch::observe`, for the shapes of data that calibration sees, and per merge and
//! solve.
//!
//! `cargo bench -p squint-passes --bench sketch`

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use squint_passes::calibration::{Grid, Method, Sketch, solve};

const N_ELEMENTS: usize = 1 << 20;

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let normal = normal_numbers();
    let shapes: [(&str, Vec<f32>); 4] = [
        ("normal", normal.clone()),
        ("rectified", normal.iter().map(|x| x.max(0.0)).collect()),
        ("clipped to [0, 1]", normal.iter().map(|x| x.clamp(0.0, 1.0)).collect()),
        ("constant", vec![0.7; N_ELEMENTS]),
    ];
    for (name, data) in &shapes {
        for sample_len in [N_ELEMENTS, 100_000, 1000] {
            let mut sketch = Sketch::new();
            let time = fastest(|| {
                for sample in data.chunks_exact(sample_len) {
                    sketch.observe(black_box(sample));
                }
            });
            let n_observed = N_ELEMENTS / sample_len * sample_len;
            let nanoseconds = time.as_secs_f64() * 1e9 / n_observed as f64;
            writeln!(out, "observe {name:18} samples of {sample_len:8}: {nanoseconds:6.3} ns per element")?;
        }
    }
    let mut sketch = Sketch::new();
    sketch.observe(&normal);
    let other = sketch.clone();
    let time = fastest(|| sketch.merge(black_box(&other)));
    writeln!(out, "merge: {time:?}")?;
    for method in [Method::Percentile(99.99), Method::Entropy, Method::Mse, Method::Auto] {
        for grid in [Grid::U8, Grid::I8_SYMMETRIC] {
            let time = fastest(|| {
                black_box(solve(black_box(&sketch), method, &grid));
            });
            writeln!(out, "solve {method} on {grid}: {time:?}")?;
        }
    }
    Ok(())
}

fn fastest(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..20).map(time).min().unwrap_or_default()
}

/// Box and Muller's transform of a linear congruential generator.
fn normal_numbers() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..N_ELEMENTS).map(|_| normal() as f32).collect()
}
