//! Which function calls which, and what inlining all of it comes to.

use crate::pass::PassError;
use rustc_hash::{FxHashMap, FxHashSet};
use squint_ir::{Function, GraphId, Model, Op, OpId};

/// Operators that inlining may make: functions that call each other twice double with every level.
const MAX_OPS: u64 = 1 << 22;
/// Levels of bodies that inlining may make.
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
    /// Operators that are no calls; after [`CallGraph::measure`], with those of the functions called.
    ops: u64,
    /// Levels of bodies; after [`CallGraph::measure`], with those of the functions called.
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
        let mut calls =
            CallGraph { model, main: summary(model.main_id())?, functions, order: Vec::new() };
        calls.order = calls.callees_first()?;
        calls.measure()?;
        Ok(calls)
    }

    /// Calls of the main graph and its bodies.
    pub(super) fn from_main(&self) -> impl Iterator<Item = (GraphId, OpId)> + '_ {
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

    /// Adds what is called to operators and nesting of what calls it.
    fn measure(&mut self) -> Result<(), PassError> {
        let with_calls = |s: &Summary<'_>, functions: &[Summary<'_>]| {
            s.calls.iter().fold((s.ops, s.nesting), |(ops, nesting), (_, _, depth, f)| {
                // A function that returns an input takes an operator for each result.
                let results = self.model.graph(self.model.functions[*f].graph).outputs.len() as u64;
                let inner = functions[*f].ops.saturating_add(results);
                (ops.saturating_add(inner), nesting.max(depth.saturating_add(functions[*f].nesting)))
            })
        };
        for i in &self.order {
            let sizes = with_calls(&self.functions[*i], &self.functions);
            (self.functions[*i].ops, self.functions[*i].nesting) = sizes;
        }
        (self.main.ops, self.main.nesting) = with_calls(&self.main, &self.functions);
        if self.main.ops > MAX_OPS {
            return Err(PassError::Model(format!(
                "inlining the functions of the model would make {} operators, more than {MAX_OPS}",
                self.main.ops
            )));
        }
        if self.main.nesting > MAX_NESTING {
            return Err(PassError::Model(format!(
                "inlining the functions of the model would nest bodies {} deep, more than {MAX_NESTING}",
                self.main.nesting
            )));
        }
        Ok(())
    }
}

fn summarize<'a>(model: &'a Model, callees: &Callees<'_>, root: GraphId) -> Result<Summary<'a>, PassError> {
    let mut summary = Summary::default();
    let mut seen = FxHashSet::default();
    let mut work = vec![(root, 0)];
    while let Some((id, depth)) = work.pop() {
        let g = model.graph(id);
        summary.nesting = summary.nesting.max(depth);
        for op in g.topo().map_err(|c| PassError::Model(c.to_string()))? {
            work.extend(g.op(op).bodies().map(|b| (b, depth + 1)));
            match callees.of(g.op(op)) {
                Some(callee) => summary.calls.push((id, op, depth, callee)),
                None => {
                    summary.ops += 1;
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
