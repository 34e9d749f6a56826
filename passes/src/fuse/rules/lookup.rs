//! Rows of a table that are looked up.

use super::super::{Miss, Rewrite, Rule};
use squint_ir::{DType, Dim, OpSpec, Tensor};

pub(super) const RULES: &[Rule] = rules! {
    /// A one-hot vector times a matrix is a row of the matrix: `(x = [0, …, n−1]) · W = W'[Clip(x, −1, n)]`, where `W'` is
    /// `W` with a row of zeros behind, which both −1 and `n` take.
    "one-hot-to-gather":
        "e = Equal (x, iota!); c = Cast (e); y = MatMul (c, w!)",
        "e = Equal (iota!, x); c = Cast (e); y = MatMul (c, w!)"
        => "i = Squeeze (x, a'); k = Clip (i, l', h'); y = Gather (w', k)", one_hot_to_gather;
};

fn one_hot_to_gather(rw: &mut Rewrite<'_, '_>) -> Result<(), Miss> {
    if rw.model.onnx_opset() < 13 {
        return Err("Clip takes integers since operator set 12, Squeeze an operand since 13".into());
    }
    let x = rw.fact("x");
    let dtype =
        x.dtype.filter(|d| matches!(d, DType::Int32 | DType::Int64)).ok_or("numbers that are no indices")?;
    let rank = x.rank().ok_or("the rank of the numbers is unknown")?;
    let last = x.shape.as_ref().and_then(|s| s.last());
    if last != Some(&Dim::Known(1)) {
        return Err("the numbers have no last axis of length 1".into());
    }
    let (iota, weight) = (rw.konst("iota")?, rw.konst("w")?);
    let n = iota.len();
    let counts = iota.to_i64s().is_some_and(|all| all.iter().enumerate().all(|(i, k)| *k == i as i64));
    if !counts || iota.rank() > rank || iota.dims().last() != Some(&n) {
        return Err("it is not compared with 0, 1, 2 and so on along the last axis".into());
    }
    let [rows, columns] = *weight.dims() else { return Err("the weight is no matrix".into()) };
    if rows != n || weight.dtype() != DType::Float {
        return Err("the weight does not fit, or is not float".into());
    }
    rw.expect_free_weight("w")?;
    let mut table = weight.f32s().to_vec();
    table.resize((n + 1) * columns, 0.0);
    let scalar = |i: i64| match dtype {
        DType::Int32 => Tensor::raw(DType::Int32, &[], (i as i32).to_le_bytes().to_vec().into()),
        _ => Ok(Tensor::scalar_i64(i)),
    };
    let bound = |i: i64| scalar(i).map_err(|e| Miss::from(e.to_string()));
    let (least, greatest) = (bound(-1)?, bound(n as i64)?);
    let table = rw.add_const("w", Tensor::from_f32(&[n + 1, columns], &table));
    let axis = rw.add_const("x", Tensor::from_i64(&[1], &[-1]));
    let (least, greatest) = (rw.add_const("x", least), rw.add_const("x", greatest));
    let indices = rw.emit(OpSpec::new("Squeeze").operands([rw.v("x"), axis]), "indices");
    let clipped = rw.emit(OpSpec::new("Clip").operands([indices, least, greatest]), "in_table");
    let name = rw.op("y").name.clone();
    rw.replace_root(OpSpec::new("Gather").name(name).attr("axis", 0i64).operands([table, clipped]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::fuse::testing::{fires, misses};

    fn model(iota: &str, body: &str) -> String {
        format!(
            "<ir_version: 8, opset_import: [\"\" : 15]> m (float[2,4] f) => (float[N,M,K] y) \
             <float four = {{4}}, int64[1] last = {{2}}, {iota}, float[3,5] w = [\"location\": \"gen:randn\"]> \
             {{ g = Mul (f, four) t = Cast <to = 7> (g) x = Unsqueeze (t, last) {body} c = Cast <to = 1> (e) \
             y = MatMul (c, w) }}"
        )
    }

    #[test]
    fn rows_are_looked_up_and_what_is_no_row_is_zero() {
        // Made-up inputs lie between -4 and 4: below, within and above the rows.
        let iota = "int64[1,1,3] i = {0, 1, 2}";
        for body in ["e = Equal (x, i)", "e = Equal (i, x)"] {
            let left = fires("one-hot-to-gather", &model(iota, body));
            assert_eq!(left, "Mul Cast Unsqueeze Squeeze Clip Gather");
        }
    }

    #[test]
    fn other_comparisons_stay() {
        let why = misses("one-hot-to-gather", &model("int64[1,1,3] i = {0, 2, 1}", "e = Equal (x, i)"));
        assert!(why.contains("0, 1, 2"), "{why}");
    }
}
