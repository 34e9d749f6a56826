//! Another element type throughout a model: in constants, in declared types, and in attributes that hold tensors or
//! name an element type, together.
//!
//! For executors and targets that lack a type and have a wider one. Graphs, values and operators keep their ids; what
//! crosses the border of the model, and operators that know only the old type, are the caller's business.

use crate::{AttrValue, DType, Graph, Model, Op, Tensor, Type};
use std::sync::Arc;

/// Which element types become which.
#[derive(Clone, Copy, Debug)]
pub struct Retype {
    /// Floating-point types narrower than binary32.
    pub from: &'static [DType],
    /// Binary32.
    pub to: DType,
}

/// Attributes of the default domain that name an element type by its code.
const DTYPE_ATTRIBUTES: &[&str] = &["to", "dtype", "output_dtype", "softmax_precision", "stash_type"];

impl Retype {
    /// True if one of the types occurs in a constant, a declared type or an attribute of the model.
    pub fn occurs(self, model: &Model) -> bool {
        model.graph_ids().any(|id| {
            let g = model.graph(id);
            let value = |v| {
                g.konst(v).is_some_and(|t| self.has(t.dtype()))
                    || g.ty(v).is_some_and(|t| self.ty(t).is_some())
            };
            let attributes =
                |op: &Op| op.attributes.iter().any(|a| self.attribute(&a.name, &a.value).is_some());
            g.values().any(value) || g.ops().any(|op| attributes(g.op(op)))
        })
    }

    /// True if the type is one of those that change.
    pub fn has(self, dtype: DType) -> bool {
        self.from.contains(&dtype)
    }

    /// Changes every constant and type of a graph, and the attributes of the operators that `which` picks. Bodies are
    /// graphs of their own.
    pub fn graph(self, g: &mut Graph, which: impl Fn(&Op) -> bool) {
        for v in g.values().collect::<Vec<_>>() {
            if let Some(t) = g.konst(v).and_then(|t| self.tensor(t)) {
                g.set_const(v, Some(Arc::new(t)));
            }
            let ty = g.ty(v).and_then(|t| self.ty(t));
            if ty.is_some() {
                g.set_type(v, ty);
            }
        }
        for op in g.ops().collect::<Vec<_>>() {
            if !which(g.op(op)) {
                continue;
            }
            for a in &mut g.op_mut(op).attributes {
                if let Some(value) = self.attribute(&a.name, &a.value) {
                    a.value = value;
                }
            }
        }
    }

    /// The tensor with another element type, `None` if it stays as it is.
    pub fn tensor(self, t: &Tensor) -> Option<Tensor> {
        self.has(t.dtype()).then(|| Tensor::from_f32(t.dims(), &t.f32s()))
    }

    /// The type with another element type, `None` if it stays as it is.
    pub fn ty(self, ty: &Type) -> Option<Type> {
        Some(match ty {
            Type::Tensor { dtype, shape } if self.has(*dtype) => Type::tensor(self.to, shape.clone()),
            Type::Sequence(t) => Type::Sequence(Box::new(self.ty(t)?)),
            Type::Optional(t) => Type::Optional(Box::new(self.ty(t)?)),
            Type::Map(k, t) => Type::Map(*k, Box::new(self.ty(t)?)),
            _ => return None,
        })
    }

    /// The attribute with another element type, `None` if it stays as it is.
    fn attribute(self, name: &str, value: &AttrValue) -> Option<AttrValue> {
        let named =
            |code: i64| i32::try_from(code).ok().and_then(DType::from_code).is_some_and(|d| self.has(d));
        let arc = |t: &Arc<Tensor>| self.tensor(t).map_or_else(|| t.clone(), Arc::new);
        Some(match value {
            AttrValue::Int(code) if DTYPE_ATTRIBUTES.contains(&name) && named(*code) => {
                AttrValue::Int(i64::from(self.to.code()))
            }
            AttrValue::Tensor(t) => AttrValue::Tensor(Arc::new(self.tensor(t)?)),
            AttrValue::Tensors(all) if all.iter().any(|t| self.has(t.dtype())) => {
                AttrValue::Tensors(all.iter().map(arc).collect())
            }
            AttrValue::Type(ty) => AttrValue::Type(self.ty(ty)?),
            AttrValue::Types(all) if all.iter().any(|t| self.ty(t).is_some()) => {
                AttrValue::Types(all.iter().map(|t| self.ty(t).unwrap_or_else(|| t.clone())).collect())
            }
            _ => return None,
        })
    }
}
