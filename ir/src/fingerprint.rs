//! Content hashes of the main graph: is it the graph that statistics were measured on, and if not, where does
//! it differ?
//!
//! Hashed are operator sets, inputs, outputs and operators in execution order, with their names, attributes,
//! bodies and constants (SHA-256). Documentation, metadata, recorded types of inner values and ids are not: they
//! change nothing that a run computes. Each operator also has two short digests, of what it is and of its
//! constants, so that the first difference can be named.

use crate::{AttrValue, Cycle, Graph, GraphId, Model, OpId, Tensor, ValueId};
use sha2::{Digest, Sha256};

/// The identity of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Hash of everything, in hexadecimal.
    pub hash: String,
    /// Operators in execution order.
    pub ops: Vec<OpPrint>,
}

/// The identity of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpPrint {
    /// Its name, or that of its first result.
    pub label: String,
    /// Its type, with the domain if that is not the default.
    pub op_type: String,
    /// Digest of its type, attributes, bodies and the names of operands and results.
    pub structure: u64,
    /// Digest of its constant operands.
    pub constants: u64,
}

impl Fingerprint {
    /// The fingerprint of the main graph.
    ///
    /// # Errors
    /// If operators wait for each other.
    pub fn of(model: &Model) -> Result<Fingerprint, Cycle> {
        let g = model.main();
        let mut whole = Hash::new();
        for (domain, version) in &model.opsets {
            whole.text(domain).number(*version as u64);
        }
        for v in &g.inputs {
            let ty = g.ty(*v).map(|t| t.to_string()).unwrap_or_default();
            whole.text(g.value(*v).name()).text(&ty);
        }
        for v in &g.outputs {
            whole.text(g.value(*v).name());
        }
        let mut ops = Vec::with_capacity(g.op_count());
        for op in g.topo()? {
            let structure = structure(model, g, op)?.short();
            let constants = constants(g, op).short();
            whole.number(structure).number(constants);
            ops.push(OpPrint {
                label: g.label(op),
                op_type: g.op(op).qualified_type(),
                structure,
                constants,
            });
        }
        Ok(Fingerprint { hash: whole.hex(), ops })
    }

    /// The first difference of `other` from this graph; `None` if they are the same.
    pub fn difference(&self, other: &Fingerprint) -> Option<String> {
        if self.hash == other.hash {
            return None;
        }
        let describe = |op: &OpPrint| format!("`{}` ({})", op.label, op.op_type);
        for (i, (a, b)) in (1..).zip(self.ops.iter().zip(&other.ops)) {
            if (&a.label, &a.op_type) != (&b.label, &b.op_type) {
                return Some(format!(
                    "operator {i} is {} in the one, {} in the other",
                    describe(a),
                    describe(b)
                ));
            }
            if a.structure != b.structure {
                return Some(format!("operator {} has other attributes, operands or results", describe(a)));
            }
            if a.constants != b.constants {
                return Some(format!("operator {} has other weights or constants", describe(a)));
            }
        }
        let (n, m) = (self.ops.len(), other.ops.len());
        match self.ops.get(m).or_else(|| other.ops.get(n)) {
            Some(first) => {
                Some(format!("the one has {n} operators, the other {m}; {} is in one only", describe(first)))
            }
            None => Some("their operator sets, inputs or outputs differ".into()),
        }
    }
}

/// All of an operator but its constants.
fn structure(model: &Model, g: &Graph, op: OpId) -> Result<Hash, Cycle> {
    let mut hash = Hash::new();
    let o = g.op(op);
    hash.text(&o.qualified_type()).text(&o.overload).text(&g.label(op));
    let mut attributes: Vec<_> = o.attributes.iter().collect();
    attributes.sort_by(|a, b| a.name.cmp(&b.name));
    for a in attributes {
        hash.text(&a.name);
        for body in a.value.graphs() {
            hash.text(&self::body(model, *body)?);
        }
        hash.attribute(&a.value);
    }
    let name = |v: Option<ValueId>| v.map_or("", |v| g.value(v).name());
    for (part, values) in
        [("operands", g.operands(op)), ("captures", g.captures(op)), ("results", g.results(op))]
    {
        hash.text(part);
        for v in values {
            hash.text(name(v));
        }
    }
    Ok(hash)
}

/// Constants among the operands and captures of an operator.
fn constants(g: &Graph, op: OpId) -> Hash {
    let mut hash = Hash::new();
    for (slot, v) in (0u64..).zip(g.operands(op).into_iter().chain(g.captures(op))) {
        if let Some(t) = v.and_then(|v| g.konst(v)) {
            hash.number(slot).tensor(t);
        }
    }
    hash
}

/// The body of a control operator, constants included.
fn body(model: &Model, id: GraphId) -> Result<String, Cycle> {
    let g = model.graph(id);
    let mut hash = Hash::new();
    for v in g.inputs.iter().chain(&g.outputs) {
        hash.text(g.value(*v).name());
    }
    for op in g.topo()? {
        hash.text(&structure(model, g, op)?.hex()).text(&constants(g, op).hex());
    }
    Ok(hash.hex())
}

/// SHA-256 of a sequence of items, each with its length in front, so that no two sequences run together.
struct Hash(Sha256);

impl Hash {
    fn new() -> Hash {
        Hash(Sha256::new())
    }

    fn number(&mut self, x: u64) -> &mut Hash {
        self.0.update(x.to_le_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Hash {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Hash {
        self.bytes(text.as_bytes())
    }

    fn tensor(&mut self, t: &Tensor) -> &mut Hash {
        self.text(t.dtype().name());
        for d in t.dims() {
            self.number(*d as u64);
        }
        match t.as_strings() {
            Some(strings) => strings.iter().for_each(|s| {
                self.bytes(s);
            }),
            None => {
                self.bytes(t.bytes());
            }
        }
        self
    }

    fn attribute(&mut self, value: &AttrValue) {
        match value {
            AttrValue::Tensor(t) => {
                self.tensor(t);
            }
            AttrValue::Tensors(ts) => ts.iter().for_each(|t| {
                self.tensor(t);
            }),
            // Bodies are hashed by content: their ids mean nothing.
            AttrValue::Graph(_) | AttrValue::Graphs(_) => (),
            // Bit patterns, so that all NaN and both zeros are told apart.
            AttrValue::Float(x) => {
                self.text("float").number(x.to_bits().into());
            }
            AttrValue::Floats(xs) => {
                self.text("floats");
                for x in xs {
                    self.number(x.to_bits().into());
                }
            }
            other => {
                self.text(&format!("{other:?}"));
            }
        }
    }

    fn hex(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }

    fn short(self) -> u64 {
        let bytes = self.0.finalize();
        bytes[..8].iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    const MODEL: &str = "<ir_version: 8, opset_import: [\"\" : 17]>\n\
        g (float[N,2] x) => (float[N,2] y) <float[2] w = {1, 2}> { [m] a = Mul (x, w) [r] y = LeakyRelu <alpha = 0.1> (a) }";

    fn print(source: &str) -> Fingerprint {
        Fingerprint::of(&text::parse(source).unwrap()).unwrap()
    }

    #[test]
    fn the_first_difference_is_named() {
        let original = print(MODEL);
        assert_eq!(original.difference(&print(MODEL)), None);
        let cases = [
            ("{1, 2}", "{1, 3}", "operator `m` (Mul) has other weights or constants"),
            (
                "alpha = 0.1",
                "alpha = 0.2",
                "operator `r` (LeakyRelu) has other attributes, operands or results",
            ),
            ("Mul (x, w)", "Div (x, w)", "operator 1 is `m` (Mul) in the one, `m` (Div) in the other"),
            ("17", "18", "their operator sets, inputs or outputs differ"),
            (
                "[r] y",
                "[i] z = Neg (a) [r] y",
                "operator 2 is `r` (LeakyRelu) in the one, `i` (Neg) in the other",
            ),
        ];
        for (from, to, expected) in &cases {
            assert_eq!(original.difference(&print(&MODEL.replace(from, to))).unwrap(), *expected);
        }
    }
}
