//! What a plan is made for: types and dimensions of the inputs.
//!
//! Making a plan takes as long as running a sample of a small model, and sentences rarely have the same length. So
//! dimensions that the model leaves open stay open in the plan where that is as good ([`crate::open`]), and one plan serves
//! all lengths.
//!
//! Which dimensions are open depends on the model and on the sample alone, not on the samples before it. So results do
//! not depend on the order of the samples.

use crate::inputs::Input;
use tract_onnx::prelude::*;

/// A dimension of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Known(usize),
    /// Any number from 2 on; the same for all that have this number.
    Open(usize),
}

/// Type and dimensions of each input, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature(Vec<(DatumType, Vec<Extent>)>);

impl Signature {
    /// That of these inputs and no others.
    pub(crate) fn exact(arrays: &[TValue]) -> Signature {
        let known = |a: &TValue| a.shape().iter().map(|n| Extent::Known(*n)).collect();
        Signature(arrays.iter().map(|a| (a.datum_type(), known(a))).collect())
    }

    /// With all dimensions open that `inputs` leave open; `None` if there are none. Dimensions of 0 and 1 are not: with
    /// the one there is nothing to compute, and the other is broadcast. Dimensions that are equal stay equal.
    pub(crate) fn opened(&self, inputs: &[Input]) -> Option<Signature> {
        let mut sizes: Vec<usize> = vec![];
        let mut opened = self.clone();
        for (input, (_, extents)) in inputs.iter().zip(&mut opened.0) {
            for (axis, extent) in extents.iter_mut().enumerate() {
                let Extent::Known(n) = *extent else { continue };
                if n > 1 && input.leaves_open(axis) {
                    let number = sizes.iter().position(|s| *s == n);
                    *extent = Extent::Open(number.unwrap_or(sizes.len()));
                    if number.is_none() {
                        sizes.push(n);
                    }
                }
            }
        }
        (!sizes.is_empty()).then_some(opened)
    }

    /// What tract is to know of each input; open dimensions become symbols.
    ///
    /// # Errors
    /// If tract does not take what is said about a symbol.
    pub(crate) fn facts(&self, symbols: &SymbolScope) -> TractResult<Vec<InferenceFact>> {
        let mut open: Vec<Symbol> = vec![];
        let mut facts = vec![];
        for (datum_type, extents) in &self.0 {
            let mut dims: TVec<TDim> = tvec!();
            for extent in extents {
                dims.push(match *extent {
                    Extent::Known(n) => n.to_dim(),
                    Extent::Open(number) => {
                        // Numbers are given in the order in which they appear.
                        if number == open.len() {
                            let symbol = symbols.new_with_prefix("n");
                            symbols.add_assertion(format!("{symbol} >= 2"))?;
                            open.push(symbol);
                        }
                        open[number].to_dim()
                    }
                });
            }
            facts.push(InferenceFact::dt_shape(*datum_type, dims));
        }
        Ok(facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::inputs_of;
    use squint_ir::{DType, Dim, Model, Type};

    fn model(shapes: &[&[Dim]]) -> Model {
        let mut model = Model::new("g", 17);
        let g = model.main_mut();
        for (i, shape) in shapes.iter().enumerate() {
            let x = g.add_value(&format!("x{i}"), Some(Type::tensor(DType::Float, Some(shape.to_vec()))));
            g.inputs.push(x);
        }
        model
    }

    fn opened(shapes: &[&[Dim]], dims: &[&[usize]]) -> Option<Vec<Vec<Extent>>> {
        let arrays: Vec<TValue> =
            dims.iter().map(|d| Tensor::zero::<f32>(d).unwrap().into_tvalue()).collect();
        let inputs = inputs_of(&model(shapes)).unwrap();
        Some(Signature::exact(&arrays).opened(&inputs)?.0.into_iter().map(|(_, e)| e).collect())
    }

    #[test]
    fn what_is_left_open_is_open_and_equal_stays_equal() {
        use Extent::{Known, Open};
        let [batch, length] = ["batch", "length"].map(|s| Dim::Symbol(s.into()));
        let ids = [batch, length, Dim::Known(7)];
        let mask = [Dim::Unknown, Dim::Known(7)];
        let both: &[&[Dim]] = &[&ids, &mask];
        let of = |dims: &[&[usize]]| opened(both, dims);
        assert_eq!(
            of(&[&[1, 9, 7], &[9, 7]]).unwrap(),
            [vec![Known(1), Open(0), Known(7)], vec![Open(0), Known(7)]]
        );
        // Another length, the same plan; other equalities, another one.
        assert_eq!(of(&[&[1, 9, 7], &[9, 7]]), of(&[&[1, 5, 7], &[5, 7]]));
        assert_eq!(
            of(&[&[3, 9, 7], &[4, 7]]).unwrap(),
            [vec![Open(0), Open(1), Known(7)], vec![Open(2), Known(7)]]
        );
        assert_eq!(of(&[&[1, 1, 7], &[0, 7]]), None);
        assert_eq!(opened(&[&[Dim::Known(4)]], &[&[4]]), None);
    }
}
