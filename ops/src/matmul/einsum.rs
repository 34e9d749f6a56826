//! The shape of `Einsum`: each letter of the equation names a length.
//!
//! Source: ONNX `Einsum`, which is `numpy.einsum`. Without `->` the result has the letters that occur once, in
//! alphabetical order, after the broadcast axes of `...`.

use crate::infer::{Inferred, dtype, equal, shape};
use crate::kernel::broadcast_shapes;
use crate::{Fact, InferCx, InferError};
use squint_ir::{Dim, Shape};
use std::collections::BTreeMap;

pub(super) fn infer(cx: &InferCx<'_>) -> Inferred {
    let dtype = (0..cx.inputs.len()).find_map(|i| dtype(cx, i));
    let Some(equation) = cx.op.string("equation") else { return Ok(vec![Fact::of(dtype)]) };
    let equation: String = equation.split_whitespace().collect();
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l, Some(r)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != cx.inputs.len() {
        return cx.error(format!("equation has {} terms for {} operands", terms.len(), cx.inputs.len()));
    }
    let mut lengths: BTreeMap<char, (Dim, usize)> = BTreeMap::new();
    let mut ellipses: Option<Vec<Shape>> = Some(Vec::new());
    for (slot, term) in terms.iter().enumerate() {
        let (head, tail) = term.split_once("...").unwrap_or((term, ""));
        let letters: Vec<char> = head.chars().chain(tail.chars()).collect();
        if let Some(bad) = letters.iter().find(|c| !c.is_ascii_alphabetic()) {
            return cx.error(format!("equation has `{bad}`"));
        }
        let operand = shape(cx, slot);
        let spare = operand.map(|s| s.len().checked_sub(letters.len()));
        let has_ellipsis = term.contains("...");
        if let (Some(s), Some(None | Some(1..))) = (operand, spare)
            && (!has_ellipsis || spare == Some(None))
        {
            return cx.error(format!("term `{term}` does not fit rank {} of operand {slot}", s.len()));
        }
        let spare = spare.flatten();
        for (i, letter) in letters.iter().enumerate() {
            let at = if i < head.len() { i } else { i + spare.unwrap_or(0) };
            let dim = operand.and_then(|s| s.get(at)).unwrap_or(&Dim::Unknown);
            let entry = lengths.entry(*letter).or_insert((Dim::Unknown, 0));
            entry.0 = match (&entry.0, dim) {
                (_, d) if entry.1 == 0 => d.clone(),
                // A length of 1 broadcasts.
                (Dim::Known(1), d) | (d, Dim::Known(1)) => d.clone(),
                (a, b) => equal(a, b, &format!("lengths of `{letter}`"))?,
            };
            entry.1 += 1;
        }
        if has_ellipsis {
            let middle = operand.zip(spare).map(|(s, n)| s[head.len()..head.len() + n].to_vec());
            ellipses = ellipses.zip(middle).map(|(mut all, m)| {
                all.push(m);
                all
            });
        }
    }
    let Some(ellipses) = ellipses else { return Ok(vec![Fact::of(dtype)]) };
    let Some(batch) = broadcast_shapes(&ellipses.iter().collect::<Vec<_>>()) else {
        return cx.error("axes under `...` do not broadcast");
    };
    let out = match right {
        None => {
            let once = lengths.values().filter(|(_, n)| *n == 1).map(|(d, _)| d.clone());
            batch.into_iter().chain(once).collect()
        }
        Some(right) => {
            let (head, tail) = right.split_once("...").map_or((right, None), |(h, t)| (h, Some(t)));
            let length = |c: char| match lengths.get(&c) {
                Some((d, _)) => Ok(d.clone()),
                None => Err(InferError(format!("`{c}` of the result is in no term"))),
            };
            let mut out: Shape = head.chars().map(length).collect::<Result<_, _>>()?;
            if let Some(tail) = tail {
                out.extend(batch);
                out.extend(tail.chars().map(length).collect::<Result<Shape, _>>()?);
            }
            out
        }
    };
    Ok(vec![Fact::new(dtype, Some(out))])
}

#[cfg(test)]
mod tests {
    use crate::testing::table;

    #[test]
    fn shapes() {
        table(
            "
            Einsum-12 <equation=bij,bjk->bik> (float[N,3,4]; float[N,4,5]) -> float[N,3,5]
            Einsum-12 <equation=ij,jk> (float[3,4]; float[4,5]) -> float[3,5]
            Einsum-12 <equation=...ij,...jk->...ik> (float[2,1,3,4]; float[7,4,5]) -> float[2,7,3,5]
            Einsum-12 <equation=ii->> (float[3,3]) -> float[]
            Einsum-12 <equation=ba> (float[2,3]) -> float[3,2]
            Einsum-12 <equation=bhwc,hkc->bhwk> (float[2,7,7,8]; float[7,9,8]) -> float[2,7,7,9]
            Einsum-12 <equation=ij->ik> (float[2,3]) -> error: `k` of the result is in no term
            Einsum-12 <equation=ij,jk> (float[3,4]; float[5,6]) -> error: lengths of `j`: 4 is not 5
            Einsum-12 <equation=ijk> (float[3,4]) -> error: term `ijk` does not fit rank 2 of operand 0
            Einsum-12 <equation=ij->j> (float) -> float[?]
            ",
        );
    }
}
