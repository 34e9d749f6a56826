//! Which function calls which, and what inlining all of it comes to.

use crate::pass::PassError;
use rustc_hash::{FxHashMap, FxHashSet};
use squint_ir::{Function, GraphId, Model, Op, OpId};
use std::collections::VecDeque;

/// Operators and values that inlining may make: where each function calls the next one twice, they double
/// with every function.
const MAX_SIZE: u64 = 1 << 24;
/// How deep calls and bodies may stand in each other: names grow with calls, and what walks bodies recurses.
const MAX_NESTING: u32 = 64;

/// Functions by what a call names: domain, name and overload.
pub(super) struct Callees<'a>(FxHashMap<(&'a str, &'a str, &'a str), usize>);

impl<'a> Callees<'a> {
    pub(super) fn new(functions: &'a [Function]) -> Callees<'a> {
        let mut by_key = FxHashMap::default();
        for (i, f) in functions.iter().enumerate() {
            by_key.entry((normal(&f.domain), f.name.as_str(), f.overload.as_str())).or_insert(i);
        }
        Callees(by_key)
    }

    /// The function that an operator calls, by its index.
    pub(super) fn of(&self, op: &Op) -> Option<usize> {
        self.0.get(&(normal(&op.domain), op.op_type.as_str(), op.overload.as_str())).copied()
    }
}

/// The default domain has two names.
pub(super) fn normal(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// A function for people: `domain::name:overload`.
pub(super) fn label(f: &Function) -> String {
    let overload = if f.overload.is_empty() { String::new() } else { format!(":{}", f.overload) };
    match normal(&f.domain) {
        "" => format!("{}{overload}", f.name),
        domain => format!("{domain}::{}{overload}", f.name),
    }
}

/// What one graph does, bodies included.
#[derive(Default)]
struct Summary<'a> {
    /// Calls: where, how many bodies deep, and of which function.
    calls: Vec<(GraphId, OpId, u32, usize)>,
    /// Number of operators and values; after [`CallGraph::measure`], with those of the functions called.
    size: u64,
    /// Levels of bodies; after [`CallGraph::measure`], of bodies and calls.
    nesting: u32,
    /// Domains of operators that are no calls, in order of first use.
    domains: Vec<&'a str>,
}

/// The calls of a model that is free of recursion and not too large when inlined.
pub(super) struct CallGraph<'a> {
    model: &'a Model,
    main: Summary<'a>,
    functions: Vec<Summary<'a>>,
    /// Functions that the main graph reaches, each after the functions it calls.
    order: Vec<usize>,
}

impl<'a> CallGraph<'a> {
    /// Finds the calls of a model.
    ///
    /// # Errors
    /// If functions call themselves, or inlining would make too large a model.
    pub(super) fn new(model: &'a Model) -> Result<CallGraph<'a>, PassError> {
        let callees = Callees::new(&model.functions);
        let summary = |graph| summarize(model, &callees, graph);
        let functions = model.functions.iter().map(|f| summary(f.graph)).collect::<Result<_, _>>()?;
        let mut calls = CallGraph { model, main: summary(model.main_id())?, functions, order: Vec::new() };
        calls.order = calls.callees_first()?;
        calls.measure()?;
        Ok(calls)
    }

    /// Calls of the main graph and its bodies.
    pub(super) fn main_calls(&self) -> impl Iterator<Item = (GraphId, OpId)> + '_ {
        self.main.calls.iter().map(|(graph, op, ..)| (*graph, *op))
    }

    /// Functions that will be inlined, with the domains of the operators they bring.
    pub(super) fn inlined_domains(&self) -> impl Iterator<Item = (&'a Function, &'a str)> + '_ {
        let each = |i: &usize| {
            let f = &self.model.functions[*i];
            self.functions[*i].domains.iter().map(move |d| (f, *d))
        };
        self.order.iter().flat_map(each)
    }

    /// Depth-first search; a chain of calls may be longer than the stack is deep.
    fn callees_first(&self) -> Result<Vec<usize>, PassError> {
        #[derive(Clone, Copy, PartialEq)]
        enum State {
            Unseen,
            Open,
            Done,
        }
        let mut state = vec![State::Unseen; self.functions.len()];
        let mut order = Vec::new();
        for (.., root) in &self.main.calls {
            // The chain of calls from the main graph, with the next call of each to follow.
            let mut path = vec![(*root, 0)];
            while let Some((f, next)) = path.last_mut() {
                let f = *f;
                match self.functions[f].calls.get(*next) {
                    _ if state[f] == State::Done => drop(path.pop()),
                    None => {
                        state[f] = State::Done;
                        order.push(f);
                    }
                    Some((.., callee)) => {
                        state[f] = State::Open;
                        *next += 1;
                        match state[*callee] {
                            State::Open => {
                                let open: Vec<usize> = path.iter().map(|(f, _)| *f).collect();
                                return Err(self.recursion(&open, *callee));
                            }
                            State::Unseen => path.push((*callee, 0)),
                            State::Done => (),
                        }
                    }
                }
            }
        }
        Ok(order)
    }

    fn recursion(&self, open: &[usize], again: usize) -> PassError {
        let start = open.iter().position(|f| *f == again).unwrap_or(0);
        let name = |f: &usize| format!("`{}`", label(&self.model.functions[*f]));
        let cycle: Vec<String> = open[start..].iter().chain([&again]).map(name).collect();
        let chain = cycle.join(" calls ");
        PassError::Model(format!("model functions must not call themselves, but {chain}"))
    }

    /// Adds what is called to size and nesting of what calls it.
    fn measure(&mut self) -> Result<(), PassError> {
        for i in &self.order {
            (self.functions[*i].size, self.functions[*i].nesting) = self.with_calls(&self.functions[*i]);
        }
        let (size, nesting) = self.with_calls(&self.main);
        let refuse = |what: String| {
            Err(PassError::Model(format!("inlining the functions of the model would make {what}")))
        };
        if size > MAX_SIZE {
            return refuse(format!("{size} operators and values, more than {MAX_SIZE}"));
        }
        if nesting > MAX_NESTING {
            return refuse(format!("calls and bodies nested {nesting} deep, more than {MAX_NESTING}"));
        }
        Ok(())
    }

    fn with_calls(&self, summary: &Summary<'_>) -> (u64, u32) {
        summary.calls.iter().fold((summary.size, summary.nesting), |(size, nesting), (_, _, depth, f)| {
            let callee = &self.functions[*f];
            let inside = depth.saturating_add(1).saturating_add(callee.nesting);
            (size.saturating_add(callee.size), nesting.max(inside))
        })
    }
}

fn summarize<'a>(model: &'a Model, callees: &Callees<'_>, root: GraphId) -> Result<Summary<'a>, PassError> {
    let mut summary = Summary::default();
    let mut seen = FxHashSet::default();
    let mut work = VecDeque::from([(root, 0)]);
    while let Some((id, depth)) = work.pop_front() {
        let g = model.graph(id);
        summary.nesting = summary.nesting.max(depth);
        summary.size += (g.op_count() + g.values().count()) as u64;
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            work.extend(g.op(op).bodies().map(|b| (b, depth + 1)));
            match callees.of(g.op(op)) {
                Some(callee) => summary.calls.push((id, op, depth, callee)),
                None => {
                    let domain = normal(&g.op(op).domain);
                    if seen.insert(domain) {
                        summary.domains.push(domain);
                    }
                }
            }
        }
    }
    Ok(summary)
}
