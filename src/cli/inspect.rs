//! `squint inspect`.

use super::check::{errors, examine};
use super::failure::Failure;
use super::inferred::{operators_without_row, types};
use super::model_file::{Input, constants, size_on_disk};
use super::options::Format;
use super::summary::bytes;
use super::talk::Talk;
use clap::Args;
use serde_json::{Value, json};
use squint::Model;
use squint::ir::{Dim, Type, ValueId, ValueTable};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Show what a model consists of, and check that it is well-formed.
#[derive(Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: Input,
    /// List everything that is wrong with the model, and exit with status 1 if there is any error. Of external data
    /// that have checksums, these are compared.
    #[arg(long)]
    check: bool,
    /// List the values of the main graph with their types, as far as they can be inferred.
    #[arg(long)]
    types: bool,
    /// How it is written to standard output.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Inspect {
    pub(crate) fn run(self, talk: &Talk) -> Result<(), Failure> {
        let (mut model, found) =
            if self.check { examine(&self.model)? } else { (self.model.load(talk)?, Vec::new()) };
        let types = if self.types { Some(types(&mut model, talk)?) } else { None };
        let facts = Facts::of(&model, size_on_disk(&self.model.path, &model)?);
        let mut out = io::stdout().lock();
        match self.format {
            Format::Json => {
                let mut all = facts.json(&model);
                if self.check {
                    let list =
                        found.iter().map(|f| json!({"severity": f.severity.to_string(), "message": f.line}));
                    all["violations"] = list.collect();
                }
                if let Some(types) = &types {
                    all["values"] = values(&model, types).map(|(name, ty)| value_json(name, ty)).collect();
                    all["operators_without_inference"] = operators_without_row(&model).into_iter().collect();
                }
                writeln!(out, "{all:#}")?;
            }
            Format::Text => {
                facts.text(&mut out, &model)?;
                for (i, (name, ty)) in types.iter().flat_map(|types| values(&model, types)).enumerate() {
                    let label = if i == 0 { "values" } else { "" };
                    let ty = ty.map_or("of unknown type".into(), Type::to_string);
                    writeln!(out, "{label:<12}{name}: {ty}")?;
                }
                for f in &found {
                    writeln!(out, "\n{}", f.drawn)?;
                }
            }
        }
        out.flush()?;
        match errors(&found) {
            0 => Ok(()),
            n => Err(Failure::Found(format!(
                "`{}` is not a valid model: {n} error{}",
                self.model.path.display(),
                if n > 1 { "s" } else { "" }
            ))),
        }
    }
}

/// What is counted.
struct Facts {
    bytes: u64,
    /// Operators by type, most frequent first.
    operators: Vec<(String, usize)>,
    /// Elements and bytes of constants by element type.
    constants: BTreeMap<&'static str, (usize, usize)>,
}

impl Facts {
    fn of(model: &Model, bytes: u64) -> Facts {
        let mut types: BTreeMap<String, usize> = BTreeMap::new();
        for g in model.graph_ids().map(|id| model.graph(id)) {
            for o in g.ops() {
                *types.entry(g.op(o).qualified_type()).or_default() += 1;
            }
        }
        let mut operators: Vec<_> = types.into_iter().collect();
        operators.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let mut by_type: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for t in constants(model) {
            let entry = by_type.entry(t.dtype().name()).or_default();
            *entry = (entry.0 + t.len(), entry.1 + t.bytes().len());
        }
        Facts { bytes, operators, constants: by_type }
    }

    fn text(&self, out: &mut impl Write, model: &Model) -> io::Result<()> {
        let mut line = |label: &str, text: String| writeln!(out, "{label:<12}{text}");
        let producer = [model.producer_name.as_str(), model.producer_version.as_str()].join(" ");
        line("graph", model.main().name.clone())?;
        if !producer.trim().is_empty() {
            line("producer", producer.trim().into())?;
        }
        let opsets: Vec<String> = model.opsets.iter().map(|(d, v)| format!("{} {v}", domain(d))).collect();
        line("opsets", format!("{} (IR version {})", opsets.join(", "), model.ir_version))?;
        for (label, values) in [("input", needed(model)), ("output", model.main().outputs.clone())] {
            for (i, v) in values.into_iter().enumerate() {
                let (name, ty) = signature(model, v);
                line(if i == 0 { label } else { "" }, format!("{name}: {ty}"))?;
            }
        }
        let count: usize = self.operators.iter().map(|(_, n)| n).sum();
        line("operators", count.to_string())?;
        for (op, n) in &self.operators {
            line("", format!("{n:>5} {op}"))?;
        }
        for (i, (dtype, (n, size))) in self.constants.iter().enumerate() {
            line(if i == 0 { "constants" } else { "" }, format!("{n} of {dtype}, {}", bytes(*size as u64)))?;
        }
        if !model.functions.is_empty() {
            line("functions", model.functions.len().to_string())?;
        }
        line("size", bytes(self.bytes))
    }

    fn json(&self, model: &Model) -> Value {
        let types = |values: Vec<ValueId>| -> Value {
            let one = |v| {
                let (name, ty) = signature(model, v);
                json!({"name": name, "type": ty})
            };
            values.into_iter().map(one).collect()
        };
        let opsets = model.opsets.iter().map(|(d, v)| (domain(d).to_owned(), json!(v)));
        let operators = self.operators.iter().map(|(op, n)| (op.clone(), json!(n)));
        let constants =
            self.constants.iter().map(|(d, (n, b))| ((*d).to_owned(), json!({"elements": n, "bytes": b})));
        json!({
            "graph": model.main().name,
            "producer": {"name": model.producer_name, "version": model.producer_version},
            "ir_version": model.ir_version,
            "opsets": opsets.collect::<serde_json::Map<_, _>>(),
            "inputs": types(needed(model)),
            "outputs": types(model.main().outputs.clone()),
            "operators": operators.collect::<serde_json::Map<_, _>>(),
            "constants": constants.collect::<serde_json::Map<_, _>>(),
            "functions": model.functions.len(),
            "bytes": self.bytes,
        })
    }
}

/// Values of the main graph by name, with what is known of their types.
fn values<'a>(
    model: &'a Model,
    types: &'a ValueTable<Type>,
) -> impl Iterator<Item = (&'a str, Option<&'a Type>)> {
    let g = model.main();
    g.values().map(|v| (g.value(v).name(), types.get(v)))
}

/// Element type and dimensions by themselves; a length is a number, a symbol's name, or null.
fn value_json(name: &str, ty: Option<&Type>) -> Value {
    let length = |d: &Dim| match d {
        Dim::Known(n) => json!(n),
        Dim::Symbol(s) => json!(s),
        Dim::Unknown => Value::Null,
    };
    let dims = ty.and_then(Type::shape).map(|s| s.iter().map(length).collect::<Vec<_>>());
    let dtype = ty.and_then(Type::dtype).map(|d| d.name());
    json!({"name": name, "type": ty.map(Type::to_string), "dtype": dtype, "dims": dims})
}

/// Inputs without a default: those that must be fed.
fn needed(model: &Model) -> Vec<ValueId> {
    let g = model.main();
    g.inputs.iter().copied().filter(|v| g.konst(*v).is_none()).collect()
}

fn signature(model: &Model, v: ValueId) -> (String, String) {
    let g = model.main();
    (g.value(v).name().to_owned(), g.ty(v).map_or("of unknown type".into(), ToString::to_string))
}

fn domain(d: &str) -> &str {
    if d.is_empty() { "ai.onnx" } else { d }
}
