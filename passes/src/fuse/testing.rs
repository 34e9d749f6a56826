//! Proof by example: a rule runs on a model in text, and the model computes what it computed before.
//!
//! Operators run through the kernels of `squint-ops`; those that are never folded (convolutions, pools,
//! normalisation) have plain reference kernels here. Inputs and `gen:` constants are pseudo-random.

use super::{rule_named, rules};
use crate::config::Config;
use crate::pass::{Changed, Pass, PassCx};
use rustc_hash::FxHashMap;
use squint_ir::{DType, Model, Op, Tensor, ValueId};
use squint_ops::{EvalCx, kernel};

/// Runs a rule that must fire, checks the outputs, and returns the operators that are left.
pub(crate) fn fires(rule: &str, text: &str) -> String {
    let (model, changed, notes) = apply(rule, text);
    assert_eq!(changed, Changed::Yes, "{rule} must fire: {notes}");
    ops(&model)
}

/// Runs a rule that must not fire, and returns why.
pub(crate) fn misses(rule: &str, text: &str) -> String {
    let (_, changed, notes) = apply(rule, text);
    assert_eq!(changed, Changed::No, "{rule} must not fire");
    notes
}

/// Runs a rule: the model afterwards, whether it changed, and the notes.
pub(crate) fn apply(rule: &str, text: &str) -> (Model, Changed, String) {
    let mut model = parse(text);
    let before = outputs(&model);
    let known: Vec<_> = model.main().ops().collect();
    let config = Config::new("cpu-vnni");
    let mut cx = PassCx::new(&config);
    let changed = rule_named(rule).expect("the rule exists").run(&mut model, &mut cx).expect("no fault");
    let after = outputs(&model);
    assert_eq!(before.len(), after.len());
    for ((name, a), (other, b)) in before.iter().zip(&after) {
        assert_eq!((name, a.dims(), a.dtype()), (other, b.dims(), b.dtype()), "{rule}");
        for (a, b) in a.to_f64s().into_iter().zip(b.to_f64s()) {
            let equal = a == b || (a.is_nan() && b.is_nan());
            assert!(equal || (a - b).abs() <= 1e-5 * (1.0 + a.abs()), "{rule}: `{name}` was {a}, is {b}");
        }
    }
    let g = model.main();
    for op in g.ops().filter(|o| !known.contains(o)).map(|o| &g.op(o).op_type) {
        let becomes = rules::all().find(|r| r.name == rule).expect("the rule exists").becomes;
        let named = becomes.split(|c: char| !c.is_alphanumeric()).any(|word| word == op);
        assert!(named, "{rule} makes {op}, but says `{becomes}`");
    }
    let notes = cx.notes.iter().map(|n| format!("{}: {}", n.place, n.message)).collect::<Vec<_>>().join("; ");
    (model, changed, notes)
}

/// Operator types in order of execution.
pub(crate) fn ops(model: &Model) -> String {
    let g = model.main();
    let order = g.topo().expect("no cycle");
    order.iter().map(|o| g.op(*o).op_type.clone()).collect::<Vec<_>>().join(" ")
}

/// Reads a model; `["location": "gen:randn"]` makes a pseudo-random constant.
pub(crate) fn parse(text: &str) -> Model {
    let load = &mut |r: &squint_ir::text::ExternalRef| Ok(random(&r.name, r.dtype, &r.dims));
    squint_ir::text::parse_with(text, load).expect("the fixture is ONNX text")
}

/// A small pseudo-random tensor (xorshift, seeded by a name), in -1..1.
fn random(name: &str, dtype: DType, dims: &[usize]) -> Tensor {
    assert_eq!(dtype, DType::Float, "only float inputs are made up");
    let mut state =
        name.bytes().fold(0x9e37_79b9_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let data: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    Tensor::from_f32(dims, &data)
}

/// Names and contents of the outputs of the main graph on made-up inputs. Symbolic lengths become 2.
pub(crate) fn outputs(model: &Model) -> Vec<(String, Tensor)> {
    let g = model.main();
    let mut env: FxHashMap<ValueId, Tensor> = FxHashMap::default();
    for v in &g.inputs {
        let ty = g.ty(*v).expect("inputs have types");
        let dims = ty.shape().map(|s| s.iter().map(|d| d.known().unwrap_or(2) as usize).collect::<Vec<_>>());
        let input =
            random(g.value(*v).name(), ty.dtype().expect("dense"), &dims.unwrap_or_else(|| vec![2, 3]));
        env.insert(*v, input);
    }
    let get = |env: &FxHashMap<ValueId, Tensor>, v: ValueId| match g.konst(v) {
        Some(t) => t.as_ref().clone(),
        None => env.get(&v).expect("made before it is used").clone(),
    };
    for id in g.topo().expect("no cycle") {
        let inputs: Vec<Option<Tensor>> =
            g.operands(id).into_iter().map(|v| v.map(|v| get(&env, v))).collect();
        let results = g.results(id);
        let made = compute(model, g.op(id), &inputs, results.len());
        env.extend(results.into_iter().zip(made).filter_map(|(v, t)| Some((v?, t))));
    }
    g.outputs.iter().map(|v| (g.value(*v).name().to_owned(), get(&env, *v))).collect()
}

fn compute(model: &Model, op: &Op, inputs: &[Option<Tensor>], n_results: usize) -> Vec<Tensor> {
    let inputs: Vec<Option<&Tensor>> = inputs.iter().map(Option::as_ref).collect();
    if let Some(eval) = squint_ops::row(&op.domain, &op.op_type).and_then(|r| r.eval) {
        let opset = model.opset(&op.domain).expect("an opset");
        return eval(&EvalCx { op, opset, inputs: &inputs, n_results }).expect("the operator computes");
    }
    let x = inputs[0].expect("an operand");
    if x.rank() == 3 && ["Conv", "ConvTranspose", "MaxPool", "AveragePool"].contains(&op.op_type.as_str()) {
        return vec![along_one_axis(model, op, &inputs)];
    }
    vec![match op.op_type.as_str() {
        "Conv" => conv(op, x, inputs[1].expect("a weight"), inputs.get(2).copied().flatten()),
        "ConvTranspose" => {
            conv_transpose(op, x, inputs[1].expect("a weight"), inputs.get(2).copied().flatten())
        }
        "AveragePool" => pool(op, x, true),
        "MaxPool" => pool(op, x, false),
        "GlobalAveragePool" => {
            let mut whole = op.clone();
            whole.set_attr("kernel_shape", x.dims()[2..].iter().map(|d| *d as i64).collect::<Vec<_>>());
            pool(&whole, x, true)
        }
        "BatchNormalization" => batch_normalization(op, &inputs),
        "LayerNormalization" => normalize(op, &inputs, true),
        "RMSNormalization" => normalize(op, &inputs, false),
        "Dropout" | "Identity" => x.clone(),
        other => panic!("no reference kernel for {other}"),
    }]
}

/// An operator on sequences as one on pictures of one column.
fn along_one_axis(model: &Model, op: &Op, inputs: &[Option<&Tensor>]) -> Tensor {
    let mut op = op.clone();
    for name in ["kernel_shape", "strides", "dilations"] {
        if let Some([k]) = op.ints(name) {
            let list = vec![*k, 1];
            op.set_attr(name, list);
        }
    }
    if let Some([extra]) = op.ints("output_padding") {
        let list = vec![*extra, 0];
        op.set_attr("output_padding", list);
    }
    if let Some([before, behind]) = op.ints("pads") {
        let list = vec![*before, 0, *behind, 0];
        op.set_attr("pads", list);
    }
    let column = |t: &Tensor| match *t.dims() {
        [a, b, c] => t.reshaped(&[a, b, c, 1]).expect("as many elements"),
        _ => t.clone(),
    };
    let inputs: Vec<Option<Tensor>> = inputs.iter().map(|t| t.map(column)).collect();
    let made = compute(model, &op, &inputs, 1).remove(0);
    made.reshaped(&made.dims()[..3]).expect("as many elements")
}

/// Strides, dilations and leading and trailing padding of an operator of two spatial axes.
struct Geometry {
    stride: [usize; 2],
    dilation: [usize; 2],
    begin: [usize; 2],
    end: [usize; 2],
}

impl Geometry {
    fn of(op: &Op, x: &Tensor, kernel: [usize; 2]) -> Geometry {
        let list = |name: &str, default: usize| match op.ints(name) {
            Some(v) => v.iter().map(|x| *x as usize).collect(),
            None => vec![default; 4],
        };
        let (s, d, mut p) = (list("strides", 1), list("dilations", 1), list("pads", 0));
        if let Some(side @ ("SAME_UPPER" | "SAME_LOWER")) = op.string("auto_pad") {
            for i in 0..2 {
                let n = x.dims()[2 + i];
                let covered = (n.div_ceil(s[i]) - 1) * s[i] + (kernel[i] - 1) * d[i] + 1;
                let total = covered.saturating_sub(n);
                let small = total / 2;
                (p[i], p[2 + i]) =
                    if side == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
            }
        }
        Geometry { stride: [s[0], s[1]], dilation: [d[0], d[1]], begin: [p[0], p[1]], end: [p[2], p[3]] }
    }

    fn out(&self, i: usize, n: usize, k: usize) -> usize {
        (n + self.begin[i] + self.end[i] - (k - 1) * self.dilation[i] - 1) / self.stride[i] + 1
    }

    /// Position in the input of tap `k` of window `o`, if it is not in the padding.
    fn at(&self, i: usize, o: usize, k: usize, n: usize) -> Option<usize> {
        (o * self.stride[i] + k * self.dilation[i]).checked_sub(self.begin[i]).filter(|p| *p < n)
    }
}

fn four(t: &Tensor) -> [usize; 4] {
    t.dims().try_into().expect("rank 4")
}

fn conv(op: &Op, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    let ([n, c, ih, iw], [m, cg, kh, kw]) = (four(x), four(w));
    let per_group = m / op.int("group").unwrap_or(1) as usize;
    let geo = Geometry::of(op, x, [kh, kw]);
    let (oh, ow) = (geo.out(0, ih, kh), geo.out(1, iw, kw));
    let (xd, wd) = (x.to_f64s(), w.to_f64s());
    let bias = b.map(Tensor::to_f64s);
    let mut out = Vec::new();
    for (ni, mi, y, z) in product([n, m, oh, ow]) {
        let mut sum = bias.as_ref().map_or(0.0, |b| b[mi]);
        for (ci, _, a, e) in product([cg, 1, kh, kw]) {
            if let (Some(iy), Some(ix)) = (geo.at(0, y, a, ih), geo.at(1, z, e, iw)) {
                let cin = mi / per_group * cg + ci;
                sum += xd[((ni * c + cin) * ih + iy) * iw + ix] * wd[((mi * cg + ci) * kh + a) * kw + e];
            }
        }
        out.push(sum as f32);
    }
    Tensor::from_f32(&[n, m, oh, ow], &out)
}

fn conv_transpose(op: &Op, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Tensor {
    let ([n, c, ih, iw], [_, mg, kh, kw]) = (four(x), four(w));
    let groups = op.int("group").unwrap_or(1) as usize;
    let geo = Geometry::of(op, x, [kh, kw]);
    let extra = |i: usize| op.ints("output_padding").map_or(0, |p| p[i] as usize);
    let len = |i: usize, n: usize, k: usize| {
        (n - 1) * geo.stride[i] + (k - 1) * geo.dilation[i] + 1 + extra(i) - geo.begin[i] - geo.end[i]
    };
    let (m, oh, ow) = (mg * groups, len(0, ih, kh), len(1, iw, kw));
    let (xd, wd) = (x.to_f64s(), w.to_f64s());
    let bias = b.map_or(vec![0.0; m], Tensor::to_f64s);
    let mut out: Vec<f64> = product([n, m, oh, ow]).map(|(_, mi, _, _)| bias[mi]).collect();
    for (ni, ci, y, z) in product([n, c, ih, iw]) {
        for (mi, _, a, e) in product([mg, 1, kh, kw]) {
            if let (Some(oy), Some(ox)) = (geo.at(0, y, a, oh), geo.at(1, z, e, ow)) {
                let cout = ci / (c / groups) * mg + mi;
                out[((ni * m + cout) * oh + oy) * ow + ox] +=
                    xd[((ni * c + ci) * ih + y) * iw + z] * wd[((ci * mg + mi) * kh + a) * kw + e];
            }
        }
    }
    Tensor::from_f32(&[n, m, oh, ow], &out.iter().map(|x| *x as f32).collect::<Vec<_>>())
}

fn pool(op: &Op, x: &Tensor, average: bool) -> Tensor {
    let [n, c, ih, iw] = four(x);
    let k = op.ints("kernel_shape").expect("a kernel");
    let (kh, kw) = (k[0] as usize, k[1] as usize);
    let geo = Geometry::of(op, x, [kh, kw]);
    let (oh, ow) = (geo.out(0, ih, kh), geo.out(1, iw, kw));
    let xd = x.to_f64s();
    let all = op.int("count_include_pad").unwrap_or(0) != 0;
    let out: Vec<f32> = product([n, c, oh, ow])
        .map(|(ni, ci, y, z)| {
            let taps = product([1, 1, kh, kw]).filter_map(|(_, _, a, e)| {
                let (iy, ix) = (geo.at(0, y, a, ih)?, geo.at(1, z, e, iw)?);
                Some(xd[((ni * c + ci) * ih + iy) * iw + ix])
            });
            let taps: Vec<f64> = taps.collect();
            let count = if all { kh * kw } else { taps.len() };
            let y = if average {
                taps.iter().sum::<f64>() / count as f64
            } else {
                taps.into_iter().fold(f64::MIN, f64::max)
            };
            y as f32
        })
        .collect();
    Tensor::from_f32(&[n, c, oh, ow], &out)
}

fn batch_normalization(op: &Op, inputs: &[Option<&Tensor>]) -> Tensor {
    let x = inputs[0].expect("x");
    let p: Vec<Vec<f64>> = inputs[1..5].iter().map(|t| t.expect("a parameter").to_f64s()).collect();
    let eps = f64::from(op.float("epsilon").unwrap_or(1e-5));
    let (c, inner) = (x.dims()[1], kernel::strides(x.dims())[1]);
    let f = |(i, v): (usize, f64)| {
        let k = i / inner % c;
        ((v - p[2][k]) / (p[3][k] + eps).sqrt() * p[0][k] + p[1][k]) as f32
    };
    Tensor::from_f32(x.dims(), &x.to_f64s().into_iter().enumerate().map(f).collect::<Vec<_>>())
}

/// LayerNormalization, or (not centred) RMSNormalization.
fn normalize(op: &Op, inputs: &[Option<&Tensor>], centred: bool) -> Tensor {
    let x = inputs[0].expect("x");
    let axis = kernel::resolve_axis(op.int("axis").unwrap_or(-1), x.rank()).expect("an axis");
    let n: usize = x.dims()[axis..].iter().product();
    let eps = f64::from(op.float("epsilon").unwrap_or(1e-5));
    let scale = inputs[1].expect("a scale").to_f64s();
    let bias = inputs.get(2).copied().flatten().map_or(vec![0.0; n], Tensor::to_f64s);
    let rows = x.to_f64s();
    let out = rows.chunks(n).flat_map(|row| {
        let mean = if centred { row.iter().sum::<f64>() / n as f64 } else { 0.0 };
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let f = move |(i, v): (usize, &f64)| (i, (v - mean) / (var + eps).sqrt());
        row.iter().enumerate().map(f)
    });
    let out: Vec<f32> = out.map(|(i, v)| (v * scale[i] + bias[i]) as f32).collect();
    Tensor::from_f32(x.dims(), &out)
}

fn product(n: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let total = n.iter().product();
    (0..total).map(move |i: usize| {
        let (j, d) = (i / n[3], i % n[3]);
        let (j, c) = (j / n[2], j % n[2]);
        (j / n[1], j % n[1], c, d)
    })
}
