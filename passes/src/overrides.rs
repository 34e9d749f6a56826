//! What the user asks of single nodes, tensors and types of operators, against what would be chosen.
//!
//! An override is a pattern and wishes: `conv*: float`, `tensor=/head/*: range=-1..3`, `type~^(Add|Mul)$: method=mse`.
//! The pattern is a glob (`*` stands for any characters) after `=`, a regular expression after `~`; without a kind in
//! front it is a glob for names of nodes and of tensors alike. Where several overrides say something of the same
//! thing, the last one holds.

use crate::calibration::Method;
use crate::config::glob;
use regex_lite::Regex;
use squint_ir::{DType, Graph};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Wishes for whatever a pattern fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// What it is about.
    pub pattern: Pattern,
    /// What is wanted.
    pub wish: Wish,
}

/// Fits names of nodes, names of tensors, or types of operators.
#[derive(Clone, Debug)]
pub struct Pattern {
    kind: Kind,
    text: String,
    regex: Option<Regex>,
}

/// What a pattern is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Names of nodes and of tensors.
    Name,
    Node,
    Tensor,
    Type,
}

/// What is wanted; nothing where nothing is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// Float for good (true), or not by an earlier override (false).
    pub float: Option<bool>,
    /// The integer type, which must be the one that the target takes.
    pub dtype: Option<DType>,
    /// The range of a tensor, instead of a measured one.
    pub range: Option<(f32, f32)>,
    /// How the range is chosen.
    pub method: Option<Method>,
    /// Whether the range is widened to be symmetric around zero.
    pub symmetric: Option<bool>,
    /// Whether a weight gets a scale for each output channel.
    pub per_channel: Option<bool>,
    /// Whether the scale is found in every run (true: in no other way; false: not in this one).
    pub dynamic: Option<bool>,
}

impl Wish {
    /// Takes over what a later wish says.
    fn replace_by(&mut self, later: &Wish) {
        self.float = later.float.or(self.float);
        self.dtype = later.dtype.or(self.dtype);
        self.range = later.range.or(self.range);
        self.method = later.method.or(self.method);
        self.symmetric = later.symmetric.or(self.symmetric);
        self.per_channel = later.per_channel.or(self.per_channel);
        self.dynamic = later.dynamic.or(self.dynamic);
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        (self.kind, &self.text, self.regex.is_some()) == (other.kind, &other.text, other.regex.is_some())
    }
}

impl Pattern {
    /// Fits the tensor of exactly this name.
    pub fn tensor(name: &str) -> Pattern {
        // A star in a name is any run of characters to a glob: only a regular expression can take it literally.
        let regex = name.contains('*').then(|| Regex::new(&format!("^{}$", regex_lite::escape(name))).ok());
        let regex = regex.flatten();
        let text = regex.as_ref().map_or(name.to_owned(), |r| r.as_str().to_owned());
        Pattern { kind: Kind::Tensor, text, regex }
    }

    fn fits(&self, text: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(text),
            None => glob(self.text.as_bytes(), text.as_bytes()),
        }
    }

    /// True if it is about a node of this name and operator type.
    pub fn fits_node(&self, name: &str, op_type: &str) -> bool {
        match self.kind {
            Kind::Name | Kind::Node => self.fits(name),
            Kind::Type => self.fits(op_type),
            Kind::Tensor => false,
        }
    }

    /// True if it is about tensors only.
    pub(crate) fn is_about_tensors(&self) -> bool {
        self.kind == Kind::Tensor
    }

    /// True if it is about a tensor of this name.
    pub fn fits_tensor(&self, name: &str) -> bool {
        matches!(self.kind, Kind::Name | Kind::Tensor) && self.fits(name)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let text = text.trim();
        let kinds = [("node", Kind::Node), ("tensor", Kind::Tensor), ("type", Kind::Type)];
        for (name, kind) in kinds {
            let Some(rest) = text.strip_prefix(name) else { continue };
            if let Some(pattern) = rest.strip_prefix('=') {
                return Ok(Pattern { kind, text: pattern.into(), regex: None });
            }
            if let Some(pattern) = rest.strip_prefix('~') {
                let regex = Regex::new(pattern).map_err(|e| format!("`{pattern}`: {e}"))?;
                return Ok(Pattern { kind, text: pattern.into(), regex: Some(regex) });
            }
        }
        match text {
            "" => Err("the pattern is empty".into()),
            _ => Ok(Pattern { kind: Kind::Name, text: text.into(), regex: None }),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.regex.is_some() { '~' } else { '=' };
        match self.kind {
            Kind::Name => f.write_str(&self.text),
            Kind::Node => write!(f, "node{sign}{}", self.text),
            Kind::Tensor => write!(f, "tensor{sign}{}", self.text),
            Kind::Type => write!(f, "type{sign}{}", self.text),
        }
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Wish, String> {
        let mut wish = Wish::default();
        for part in text.split(',').map(str::trim) {
            let (key, value) = part.split_once('=').map_or((part, None), |(k, v)| (k.trim(), Some(v.trim())));
            match (key, value) {
                ("float", v) => wish.float = Some(yes(v)?),
                ("symmetric", v) => wish.symmetric = Some(yes(v)?),
                ("per-channel", v) => wish.per_channel = Some(yes(v)?),
                ("dynamic", v) => wish.dynamic = Some(yes(v)?),
                ("int8" | "uint8" | "int16" | "uint16", None) => wish.dtype = dtype(key),
                ("type", Some(v)) => {
                    wish.dtype = Some(dtype(v).ok_or_else(|| format!("`{v}` is no integer type"))?);
                }
                ("method", Some(v)) => wish.method = Some(v.parse().map_err(|e| format!("{e}"))?),
                ("range", Some(v)) => wish.range = Some(range(v)?),
                _ => {
                    return Err(format!(
                        "`{part}` is none of float, int8, uint8, type=T, range=LO..HI, method=M, symmetric, \
                         per-channel, dynamic (the last three and float may have =yes or =no behind them)"
                    ));
                }
            }
        }
        Ok(wish)
    }
}

fn yes(value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("yes" | "true") => Ok(true),
        Some("no" | "false") => Ok(false),
        Some(other) => Err(format!("`{other}` is neither yes nor no")),
    }
}

fn dtype(name: &str) -> Option<DType> {
    [DType::Int8, DType::Uint8, DType::Int16, DType::Uint16].into_iter().find(|d| d.name() == name)
}

fn range(text: &str) -> Result<(f32, f32), String> {
    let number = |t: &str| t.trim().parse::<f32>().ok().filter(|x| x.is_finite());
    let ends = text.split_once("..").and_then(|(lo, hi)| Some((number(lo)?, number(hi)?)));
    ends.filter(|(lo, hi)| lo < hi).ok_or_else(|| format!("`{text}` is no range; write LO..HI, as -1..3.5"))
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |name: &str, wanted: Option<bool>| {
            wanted.map(|w| if w { name.to_owned() } else { format!("{name}=no") })
        };
        let parts = [
            flag("float", self.float),
            self.dtype.map(|d| format!("type={}", d.name())),
            self.range.map(|(lo, hi)| format!("range={lo}..{hi}")),
            self.method.map(|m| format!("method={m}")),
            flag("symmetric", self.symmetric),
            flag("per-channel", self.per_channel),
            flag("dynamic", self.dynamic),
        ];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

impl FromStr for Override {
    type Err = String;

    /// Reads `PATTERN: WISH, WISH`. Names and methods may hold colons, too: the first one that leaves wishes behind it
    /// separates.
    fn from_str(text: &str) -> Result<Override, String> {
        let mut failed = None;
        for (at, _) in text.match_indices(':') {
            match text[at + 1..].parse::<Wish>() {
                Ok(wish) => return Ok(Override { pattern: text[..at].parse()?, wish }),
                Err(e) if failed.is_none() || text[at..].starts_with(": ") => failed = Some(e),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or("write PATTERN: WISHES, for example `conv1: method=mse, symmetric`".into()))
    }
}

impl fmt::Display for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pattern, self.wish)
    }
}

/// What overrides say of a node, all together.
pub(crate) fn of_node(overrides: &[Override], name: &str, op_type: &str) -> Wish {
    together(overrides.iter().filter(|o| o.pattern.fits_node(name, op_type)))
}

/// What overrides say of a tensor: those for the node that makes it, and those for itself.
pub(crate) fn of_tensor(overrides: &[Override], g: &Graph, v: squint_ir::ValueId) -> Wish {
    let name = g.value(v).name();
    let maker = g.producer(v).map(|(op, _)| (g.label(op), g.op(op).qualified_type()));
    together(overrides.iter().filter(|o| {
        o.pattern.fits_tensor(name) || maker.as_ref().is_some_and(|(n, t)| o.pattern.fits_node(n, t))
    }))
}

fn together<'a>(overrides: impl Iterator<Item = &'a Override>) -> Wish {
    let mut all = Wish::default();
    overrides.for_each(|o| all.replace_by(&o.wish));
    all
}

/// The patterns that fit nothing in a graph, each with the names that are most like it.
pub fn misfits(overrides: &[Override], g: &Graph) -> Vec<(String, Vec<String>)> {
    let nodes: BTreeSet<(String, String)> = g.ops().map(|o| (g.label(o), g.op(o).qualified_type())).collect();
    let tensors: BTreeSet<&str> = g.values().map(|v| g.value(v).name()).collect();
    let fits = |p: &Pattern| {
        nodes.iter().any(|(n, t)| p.fits_node(n, t)) || tensors.iter().any(|t| p.fits_tensor(t))
    };
    let candidates = |kind: Kind| -> BTreeSet<&str> {
        let named = nodes.iter().map(|(n, _)| n.as_str());
        match kind {
            Kind::Node => named.collect(),
            Kind::Tensor => tensors.clone(),
            Kind::Type => nodes.iter().map(|(_, t)| t.as_str()).collect(),
            Kind::Name => named.chain(tensors.iter().copied()).collect(),
        }
    };
    let misfit = overrides.iter().filter(|o| !fits(&o.pattern));
    misfit.map(|o| (o.pattern.to_string(), nearest(&o.pattern.text, candidates(o.pattern.kind)))).collect()
}

/// Up to three names that are much like a text, the most alike first.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let scored = names.into_iter().map(|n| (strsim::normalized_damerau_levenshtein(text, n), n));
    let mut alike: Vec<(f64, &str)> = scored.filter(|(s, _)| *s > 0.5).collect();
    alike.sort_by(|(a, m), (b, n)| b.total_cmp(a).then(m.cmp(n)));
    alike.into_iter().take(3).map(|(_, n)| n.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use squint_ir::text;

    fn parsed(text: &str) -> Override {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "conv*: float",
            "node=a: float=no",
            "tensor=x:0: type=uint8, range=-1..3.5, method=mse, symmetric, per-channel=no, dynamic",
            "type~^(Add|Mul)$: method=percentile:99.9",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
        assert_eq!(parsed("a: int8").wish.dtype, Some(DType::Int8));
        let said = |text: &str| text.parse::<Override>().unwrap_err();
        assert!(said("conv").contains("PATTERN: WISHES"));
        assert!(said("a: range=3..1").contains("no range"));
        assert!(said("a: flaot").contains("none of float"));
        assert!(said("node~(: float").starts_with("`(`"));
        assert!(said(": float").contains("empty"));
    }

    #[test]
    fn the_last_word_counts() {
        let all = [parsed("type=Conv: float, method=mse"), parsed("b: float=no"), parsed("tensor=b: float")];
        assert_eq!(of_node(&all, "a", "Conv").float, Some(true));
        let b = of_node(&all, "b", "Conv");
        assert_eq!((b.float, b.method), (Some(false), Some(Method::Mse)));
        assert_eq!(of_node(&all, "c", "Add"), Wish::default());
    }

    #[test]
    fn tensors_with_stars_in_their_names_are_meant_literally() {
        assert!(Pattern::tensor("a*b").fits_tensor("a*b") && !Pattern::tensor("a*b").fits_tensor("axb"));
        assert_eq!(parsed(&format!("{}: float", Pattern::tensor("a*b"))).pattern, Pattern::tensor("a*b"));
    }

    #[test]
    fn misspelt_names_are_told_with_their_likes() {
        let model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]> g (float[2] x) => (float[2] y) { [conv1] h = Exp (x) [conv2] y = Neg (h) }",
        );
        let model = model.unwrap();
        let misfits = misfits(
            &[parsed("node=conv3: float"), parsed("type=Ex?: float"), parsed("x: float")],
            model.main(),
        );
        assert_eq!(misfits[0], ("node=conv3".into(), vec!["conv1".into(), "conv2".into()]));
        assert_eq!(misfits[1], ("type=Ex?".into(), vec!["Exp".into()]));
        assert_eq!(misfits.len(), 2);
    }
}
