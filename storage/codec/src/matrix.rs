//! The generator matrix of a Reed–Solomon code and what follows from it.
//!
//! The matrix itself comes from the `reed-solomon-erasure` crate (by encoding unit vectors), as do
//! the vectorised field operations. Solving for missing shards is done here, because the crate
//! rebuilds only whole, equally long, mutable shards, and a range read needs a window of one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reed_solomon_erasure::galois_8::{ReedSolomon, add, div, mul, mul_slice, mul_slice_xor};

use crate::error::{CodecError, Result};
use crate::limits::CODING_WINDOW_LEN;

/// Coefficients of one shard as a linear combination of k others.
pub(crate) type Row = Vec<u8>;

/// All k + m rows over the data shards; the first k are the identity.
pub(crate) struct Generator {
    k: usize,
    rows: Vec<Row>,
}

type Cache = Mutex<BTreeMap<(u8, u8), Arc<Generator>>>;

impl Generator {
    /// The generator of a valid (k, m), computed once per process.
    pub(crate) fn get(k: u8, m: u8) -> Result<Arc<Generator>> {
        static CACHE: Cache = Mutex::new(BTreeMap::new());
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(generator) = cache.get(&(k, m)) {
            return Ok(Arc::clone(generator));
        }
        let generator = Arc::new(Generator::compute(usize::from(k), usize::from(m))?);
        cache.insert((k, m), Arc::clone(&generator));
        Ok(generator)
    }

    fn compute(k: usize, m: usize) -> Result<Generator> {
        let invalid = |_| CodecError::Geometry("Reed-Solomon parameters");
        let code = ReedSolomon::new(k, m).map_err(invalid)?;
        let mut rows: Vec<Row> = (0..k).map(|row| unit(k, row)).collect();
        rows.resize(k + m, vec![0; k]);
        for column in 0..k {
            let data: Vec<[u8; 1]> = unit(k, column).into_iter().map(|byte| [byte]).collect();
            let mut parity = vec![[0u8; 1]; m];
            code.encode_sep(&data, &mut parity).map_err(invalid)?;
            for (row, [coefficient]) in rows[k..].iter_mut().zip(parity) {
                row[column] = coefficient;
            }
        }
        Ok(Generator { k, rows })
    }

    /// The rows of the parity shards.
    pub(crate) fn parity_rows(&self) -> &[Row] {
        &self.rows[self.k..]
    }

    /// Coefficients that give shard `wanted` from exactly k distinct shards `present`.
    pub(crate) fn solve(&self, present: &[u8], wanted: u8) -> Result<Row> {
        let row_of = |shard: u8| {
            self.rows.get(usize::from(shard)).cloned().ok_or(CodecError::Geometry("shard index"))
        };
        let known: Vec<Row> = present.iter().map(|shard| row_of(*shard)).collect::<Result<_>>()?;
        let inverse = invert(known).ok_or(CodecError::Geometry("shards given twice"))?;
        let target = row_of(wanted)?;
        let combine = |column: usize| {
            target.iter().zip(&inverse).fold(0, |sum, (t, row)| add(sum, mul(*t, row[column])))
        };
        Ok((0..self.k).map(combine).collect())
    }
}

fn unit(len: usize, at: usize) -> Row {
    (0..len).map(|index| u8::from(index == at)).collect()
}

/// Gauss–Jordan over GF(2^8); `None` if the rows are not k independent ones.
fn invert(mut matrix: Vec<Row>) -> Option<Vec<Row>> {
    let n = matrix.len();
    if matrix.iter().any(|row| row.len() != n) {
        return None;
    }
    let mut inverse: Vec<Row> = (0..n).map(|row| unit(n, row)).collect();
    for column in 0..n {
        let pivot = (column..n).find(|row| matrix[*row][column] != 0)?;
        matrix.swap(column, pivot);
        inverse.swap(column, pivot);
        let scale = div(1, matrix[column][column]);
        for value in matrix[column].iter_mut().chain(inverse[column].iter_mut()) {
            *value = mul(*value, scale);
        }
        for row in (0..n).filter(|row| *row != column) {
            let factor = matrix[row][column];
            for index in 0..n {
                matrix[row][index] = add(matrix[row][index], mul(factor, matrix[column][index]));
                inverse[row][index] = add(inverse[row][index], mul(factor, inverse[column][index]));
            }
        }
    }
    Some(inverse)
}

/// `outputs[o] = Σ rows[o][i] · inputs[i]`, bytewise. Inputs may be shorter than the outputs: what
/// they lack counts as zero. Outputs must be zeroed and of one length.
pub(crate) fn combine(rows: &[Row], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let len = outputs.iter().map(|output| output.len()).max().unwrap_or(0);
    for start in (0..len).step_by(CODING_WINDOW_LEN) {
        let end = (start + CODING_WINDOW_LEN).min(len);
        for (index, input) in inputs.iter().enumerate() {
            let window = input.get(start..end.min(input.len())).unwrap_or_default();
            if window.is_empty() {
                continue;
            }
            for (row, output) in rows.iter().zip(outputs.iter_mut()) {
                let target = &mut output[start..start + window.len()];
                match (row[index], index) {
                    (0, _) => {}
                    (coefficient, 0) => mul_slice(coefficient, window, target),
                    (coefficient, _) => mul_slice_xor(coefficient, window, target),
                }
            }
        }
    }
}
