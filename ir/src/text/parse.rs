//! The grammar of models, graphs, nodes and functions: recursive descent with one token of lookahead.

use super::ast::{AttributeText, Declaration, FunctionText, GraphText, ModelText, Name, NodeText};
use super::lexer::{Kind, Lexer, Token};
use super::{ExternalRef, TextError, literal};
use crate::{Model, Tensor};

/// Graphs inside graphs and types inside types that are accepted; the stack bounds it.
const MAX_DEPTH: u32 = 64;

pub(super) struct Parser<'a, 'l> {
    lexer: Lexer<'a>,
    pub(super) token: Token<'a>,
    pub(super) load: &'l mut dyn FnMut(&ExternalRef) -> Result<Tensor, String>,
    depth: u32,
}

impl<'a, 'l> Parser<'a, 'l> {
    pub(super) fn new(
        text: &'a str,
        load: &'l mut dyn FnMut(&ExternalRef) -> Result<Tensor, String>,
    ) -> Result<Self, TextError> {
        let mut lexer = Lexer::new(text);
        let token = lexer.next()?;
        Ok(Parser { lexer, token, load, depth: 0 })
    }

    /// `model ::= header? graph function*`
    pub(super) fn model(mut self) -> Result<ModelText, TextError> {
        let header = self.header()?;
        let graph = self.graph()?;
        let mut functions = Vec::new();
        while self.token.kind != Kind::End {
            functions.push(self.function()?);
        }
        Ok(ModelText { header, graph, functions })
    }

    fn header(&mut self) -> Result<Model, TextError> {
        let mut model = Model::new("", 0);
        model.ir_version = 10;
        model.opsets.clear();
        if self.at(b'<') {
            self.list(b'<', b'>', |p| {
                let key = p.ident()?;
                p.expect(b':')?;
                match key.text {
                    "ir_version" => model.ir_version = p.int()?,
                    "opset_import" => model.opsets = p.opsets()?,
                    "producer_name" => model.producer_name = p.string()?,
                    "producer_version" => model.producer_version = p.string()?,
                    "domain" => model.domain = p.string()?,
                    "model_version" => model.model_version = Some(p.int()?),
                    "doc_string" => model.doc = p.string()?,
                    "metadata_props" => model.metadata = p.pairs()?,
                    other => return Err(p.error_at(key.at, format!("a model has no field `{other}`"))),
                }
                Ok(())
            })?;
        }
        Ok(model)
    }

    /// `function ::= header? name ('<' attributes '>')? inputs '=>' outputs types? nodes`
    fn function(&mut self) -> Result<FunctionText, TextError> {
        let (mut domain, mut overload, mut doc, mut opsets) = Default::default();
        if self.at(b'<') {
            self.list(b'<', b'>', |p| {
                let key = p.ident()?;
                p.expect(b':')?;
                match key.text {
                    "opset_import" => opsets = p.opsets()?,
                    "domain" => domain = p.string()?,
                    "overload" => overload = p.string()?,
                    "doc_string" => doc = p.string()?,
                    other => return Err(p.error_at(key.at, format!("a function has no field `{other}`"))),
                }
                Ok(())
            })?;
        }
        let name = self.name()?.text;
        let (mut attributes, mut defaults) = (Vec::new(), Vec::new());
        if self.at(b'<') {
            self.list(b'<', b'>', |p| {
                let name = p.name()?.text;
                if p.at(b':') || p.at(b'=') {
                    let value = p.attribute_value()?;
                    defaults.push(AttributeText { name, value });
                } else {
                    attributes.push(name);
                }
                Ok(())
            })?;
        }
        let at = self.token.at;
        let graph = self.graph_after(name)?;
        if graph.inputs.iter().chain(&graph.declarations).any(|d| d.konst.is_some()) {
            return Err(self.error_at(at, "a function has no constants of its own, only `Constant` nodes"));
        }
        Ok(FunctionText { domain, overload, doc, opsets, attributes, defaults, graph })
    }

    /// `graph ::= name inputs '=>' outputs declarations? nodes`
    pub(super) fn graph(&mut self) -> Result<GraphText, TextError> {
        let name = self.name()?.text;
        self.graph_after(name)
    }

    /// The rest of a graph whose name has been read.
    pub(super) fn graph_after(&mut self, name: String) -> Result<GraphText, TextError> {
        self.nested(|p| {
            let inputs = p.declarations(b'(', b')')?;
            if p.token.kind != Kind::Arrow {
                return Err(p.unexpected("`=>`"));
            }
            p.bump()?;
            let outputs = p.declarations(b'(', b')')?;
            if let Some(d) = outputs.iter().find(|d| d.konst.is_some()) {
                return Err(
                    p.error_at(d.name.at, format!("the output `{}` cannot have a default", d.name.text))
                );
            }
            let declarations = if p.at(b'<') { p.declarations(b'<', b'>')? } else { Vec::new() };
            p.expect(b'{')?;
            let mut nodes = Vec::new();
            while !p.eat(b'}')? {
                nodes.push(p.node()?);
            }
            Ok(GraphText { name, inputs, outputs, declarations, nodes })
        })
    }

    /// `type? name ('=' data)?`, separated by commas.
    fn declarations(&mut self, open: u8, close: u8) -> Result<Vec<Declaration>, TextError> {
        let mut all = Vec::new();
        self.list(open, close, |p| {
            let at = p.token.at;
            let ty = if p.at_type() { Some(p.ty()?) } else { None };
            let name = p.name()?;
            let konst = if p.eat(b'=')? { Some(p.tensor(at, &name.text, ty.as_ref())?) } else { None };
            all.push(Declaration { name, ty, konst });
            Ok(())
        })?;
        Ok(all)
    }

    /// `node ::= label? names '=' (domain '.')? type (':' overload)? attributes? '(' names ')' attributes?`
    fn node(&mut self) -> Result<NodeText, TextError> {
        let mut name = String::new();
        if self.eat(b'[')? {
            if !self.at(b']') {
                name = self.name()?.text;
            }
            self.expect(b']')?;
        }
        let results = self.names()?;
        if results.is_empty() && name.is_empty() && !self.at(b'=') {
            return Err(self.unexpected("a node or `}`"));
        }
        self.expect(b'=')?;
        let mut domain = String::new();
        let mut op_type = self.name()?.text;
        while self.eat(b'.')? {
            if !domain.is_empty() {
                domain.push('.');
            }
            domain.push_str(&op_type);
            op_type = self.name()?.text;
        }
        let overload = if self.eat(b':')? { self.name()?.text } else { String::new() };
        let mut attributes = self.attributes()?;
        self.expect(b'(')?;
        let operands = self.names()?;
        self.expect(b')')?;
        if attributes.is_empty() {
            attributes = self.attributes()?;
        }
        Ok(NodeText { name, domain, op_type, overload, attributes, operands, results })
    }

    fn attributes(&mut self) -> Result<Vec<AttributeText>, TextError> {
        let mut all = Vec::new();
        if self.at(b'<') {
            self.list(b'<', b'>', |p| {
                let name = p.name()?.text;
                let value = p.attribute_value()?;
                all.push(AttributeText { name, value });
                Ok(())
            })?;
        }
        Ok(all)
    }

    /// Names that may be omitted: by an empty string, or by a comma with nothing before it.
    fn names(&mut self) -> Result<Vec<Name>, TextError> {
        let mut all = Vec::new();
        loop {
            match self.token.kind {
                Kind::Ident | Kind::Str => all.push(self.name()?),
                Kind::Punct(b',') => all.push(Name { text: String::new(), at: self.token.at }),
                _ => break,
            }
            if !self.eat(b',')? {
                break;
            }
        }
        Ok(all)
    }

    fn opsets(&mut self) -> Result<Vec<(String, i64)>, TextError> {
        let mut all = Vec::new();
        self.list(b'[', b']', |p| {
            let domain = p.string()?;
            p.expect(b':')?;
            all.push((domain, p.int()?));
            Ok(())
        })?;
        Ok(all)
    }

    /// `'[' (string ':' string) ,* ']'`
    pub(super) fn pairs(&mut self) -> Result<Vec<(String, String)>, TextError> {
        let mut all = Vec::new();
        self.list(b'[', b']', |p| {
            let key = p.string()?;
            p.expect(b':')?;
            all.push((key, p.string()?));
            Ok(())
        })?;
        Ok(all)
    }

    /// Items between brackets, separated by commas; there may be none.
    pub(super) fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), TextError>,
    ) -> Result<(), TextError> {
        self.expect(open)?;
        if self.eat(close)? {
            return Ok(());
        }
        loop {
            item(self)?;
            if !self.eat(b',')? {
                return self.expect(close);
            }
        }
    }

    /// Runs a rule that can contain itself.
    pub(super) fn nested<T>(
        &mut self,
        rule: impl FnOnce(&mut Self) -> Result<T, TextError>,
    ) -> Result<T, TextError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error_at(self.token.at, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = rule(self);
        self.depth -= 1;
        result
    }

    /// An identifier or a quoted name.
    pub(super) fn name(&mut self) -> Result<Name, TextError> {
        let at = self.token.at;
        match self.token.kind {
            Kind::Ident => Ok(Name { text: self.bump()?.text.into(), at }),
            Kind::Str => Ok(Name { text: self.string()?, at }),
            _ => Err(self.unexpected("a name")),
        }
    }

    fn ident(&mut self) -> Result<Token<'a>, TextError> {
        if self.token.kind == Kind::Ident { self.bump() } else { Err(self.unexpected("a word")) }
    }

    /// A string that is text: escapes are resolved.
    pub(super) fn string(&mut self) -> Result<String, TextError> {
        match self.token.kind {
            Kind::Str => Ok(literal::unquote(self.bump()?.text)),
            _ => Err(self.unexpected("a string")),
        }
    }

    pub(super) fn int(&mut self) -> Result<i64, TextError> {
        match self.token.kind {
            Kind::Int => {
                let token = self.bump()?;
                let wide = |_| self.error_at(token.at, format!("`{}` does not fit 64 bits", token.text));
                token.text.parse().map_err(wide)
            }
            _ => Err(self.unexpected("an integer")),
        }
    }

    /// The current token, which becomes the next one.
    pub(super) fn bump(&mut self) -> Result<Token<'a>, TextError> {
        let next = self.lexer.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    pub(super) fn at(&self, punct: u8) -> bool {
        self.token.kind == Kind::Punct(punct)
    }

    pub(super) fn eat(&mut self, punct: u8) -> Result<bool, TextError> {
        let found = self.at(punct);
        if found {
            self.bump()?;
        }
        Ok(found)
    }

    pub(super) fn expect(&mut self, punct: u8) -> Result<(), TextError> {
        if self.eat(punct)? { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(punct)))) }
    }

    pub(super) fn unexpected(&self, wanted: &str) -> TextError {
        self.error_at(self.token.at, format!("expected {wanted}, found {}", self.token.describe()))
    }

    pub(super) fn error_at(&self, at: usize, message: impl Into<String>) -> TextError {
        TextError::new(self.lexer.text, at, message)
    }
}
