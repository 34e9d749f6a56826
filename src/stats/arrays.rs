//! Sketches as tensors of a safetensors file, and back.

use safetensors::tensor::{Dtype, SafeTensors};
use squint_passes::calibration::{
    CHANNEL_BINS, ChannelSketches, MAX_BINS, MAX_CHANNELS, Sketch, SketchParts,
};

/// Tensors to be written: name, type, shape, bytes.
#[derive(Default)]
pub(super) struct Arrays(pub(super) Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Arrays {
    pub(super) fn add(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.0.push((name, dtype, shape.to_vec(), bytes));
    }

    /// The sketch of value `name`.
    pub(super) fn sketch(&mut self, name: &str, sketch: &Sketch) {
        let parts = sketch.to_parts();
        self.many(name, &[], &[sketch], parts.counts.len());
        if let Some(each) = &parts.each {
            let numbers: Vec<u64> = each.iter().map(|(i, ..)| *i).collect();
            let extremes =
                each.iter().flat_map(|(_, lo, hi)| [*lo, *hi]).flat_map(f32::to_le_bytes).collect();
            self.add(format!("{name}.numbers"), Dtype::U64, &[each.len()], words(numbers));
            self.add(format!("{name}.extremes"), Dtype::F32, &[each.len(), 2], extremes);
        }
    }

    /// The sketches of the channels of value `name`.
    pub(super) fn channels(&mut self, name: &str, channels: &ChannelSketches) {
        let sketches: Vec<&Sketch> = channels.sketches().iter().collect();
        let sizes = sketches.iter().map(|s| s.bin_counts().len() as u64).collect::<Vec<_>>();
        let name = format!("{name}.channels");
        self.many(&name, &[sketches.len()], &sketches, CHANNEL_BINS);
        self.add(format!("{name}.sizes"), Dtype::U64, &[sketches.len()], words(sizes));
    }

    /// Equal tensors of sketches, stacked along the axes `lead`; counts are filled up to `bins`.
    fn many(&mut self, name: &str, lead: &[usize], sketches: &[&Sketch], bins: usize) {
        let parts: Vec<SketchParts> = sketches.iter().map(|s| s.to_parts()).collect();
        let mut add = |what: &str, dtype, shape: &[usize], bytes: Vec<u8>| {
            self.add(format!("{name}.{what}"), dtype, &[lead, shape].concat(), bytes);
        };
        let counts = parts
            .iter()
            .flat_map(|p| p.counts.iter().copied().chain(std::iter::repeat_n(0, bins - p.counts.len())));
        add("counts", Dtype::U64, &[bins], words(counts));
        let edges = sketches.iter().flat_map(|s| {
            let width = s.bin_width();
            [f64::from(s.first_bin()) * width, width]
        });
        add("bins", Dtype::F64, &[2], edges.flat_map(f64::to_le_bytes).collect());
        add(
            "range",
            Dtype::F32,
            &[2],
            parts.iter().flat_map(|p| [p.min, p.max]).flat_map(f32::to_le_bytes).collect(),
        );
        let tallies = parts.iter().flat_map(|p| {
            [p.n_samples, p.n_numeric_samples, p.n_zeros, p.n_nans, p.n_pos_infs, p.n_neg_infs]
        });
        add("tallies", Dtype::U64, &[6], words(tallies));
        let sums = parts.iter().flat_map(|p| p.sum_of_mins.into_iter().chain(p.sum_of_maxs));
        add("sums", Dtype::U64, &[2, 6], words(sums));
    }
}

fn words(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The sketch of value `name`.
///
/// # Errors
/// If its tensors are missing or contradict each other.
pub(super) fn sketch(file: &SafeTensors<'_>, name: &str) -> Result<Sketch, String> {
    let counts = numbers(file, name, "counts", None)?;
    let mut parts = Stacked::read(file, name, 1)?.parts(0, counts, MAX_BINS);
    parts.each = each(file, name)?;
    Sketch::from_parts(parts).ok_or_else(|| contradicts(name))
}

/// The sketches of the channels of value `name`, along an axis.
///
/// # Errors
/// As [`sketch`].
pub(super) fn channels(file: &SafeTensors<'_>, name: &str, axis: usize) -> Result<ChannelSketches, String> {
    let prefix = format!("{name}.channels");
    let sizes = numbers(file, &prefix, "sizes", None)?;
    if sizes.len() > MAX_CHANNELS {
        return Err(contradicts(name));
    }
    let counts = numbers(file, &prefix, "counts", Some(sizes.len() * CHANNEL_BINS))?;
    let stacked = Stacked::read(file, &prefix, sizes.len())?;
    let one = |(i, (row, size)): (usize, (&[u64], &u64))| {
        let size = usize::try_from(*size).ok().filter(|n| *n <= row.len())?;
        let (used, rest) = row.split_at(size);
        let parts = stacked.parts(i, used.to_vec(), CHANNEL_BINS);
        Sketch::from_parts(parts).filter(|_| rest.iter().all(|count| *count == 0))
    };
    let rows = counts.chunks_exact(CHANNEL_BINS).zip(&sizes).enumerate();
    let sketches = rows.map(one).collect::<Option<Vec<Sketch>>>();
    let channels = sketches.and_then(|s| ChannelSketches::from_parts(axis, s));
    channels.ok_or_else(|| contradicts(name))
}

/// The tensors of sketches other than their counts.
struct Stacked {
    range: Vec<[u8; 4]>,
    tallies: Vec<u64>,
    sums: Vec<u64>,
}

impl Stacked {
    fn read(file: &SafeTensors<'_>, name: &str, n: usize) -> Result<Stacked, String> {
        let range = array::<4>(file, &format!("{name}.range"), Dtype::F32)?;
        if range.len() != 2 * n {
            return Err(format!("its tensor `{name}.range` has a wrong size"));
        }
        let (tallies, sums) =
            (numbers(file, name, "tallies", Some(6 * n))?, numbers(file, name, "sums", Some(12 * n))?);
        Ok(Stacked { range, tallies, sums })
    }

    fn parts(&self, i: usize, counts: Vec<u64>, max_bins: usize) -> SketchParts {
        let tally = |k: usize| self.tallies[6 * i + k];
        let limbs = |from: usize| std::array::from_fn(|k| self.sums[12 * i + from + k]);
        SketchParts {
            n_samples: tally(0),
            n_numeric_samples: tally(1),
            n_zeros: tally(2),
            n_nans: tally(3),
            n_pos_infs: tally(4),
            n_neg_infs: tally(5),
            min: f32::from_le_bytes(self.range[2 * i]),
            max: f32::from_le_bytes(self.range[2 * i + 1]),
            sum_of_mins: limbs(0),
            sum_of_maxs: limbs(6),
            max_bins,
            counts,
            each: None,
        }
    }
}

/// Number, least and greatest value of each sample.
type Each = Vec<(u64, f32, f32)>;

/// The extremes of each sample of a value, if the file has them.
fn each(file: &SafeTensors<'_>, name: &str) -> Result<Option<Each>, String> {
    let (numbers, extremes) = (format!("{name}.numbers"), format!("{name}.extremes"));
    if file.tensor(&numbers).is_err() {
        return Ok(None);
    }
    let numbers = array::<8>(file, &numbers, Dtype::U64)?;
    let pairs = array::<4>(file, &extremes, Dtype::F32)?;
    let (pairs, rest) = pairs.as_chunks::<2>();
    if pairs.len() != numbers.len() || !rest.is_empty() {
        return Err(format!("its tensor `{extremes}` has a wrong size"));
    }
    let entry = |(number, [lo, hi]): (&[u8; 8], &[[u8; 4]; 2])| {
        (u64::from_le_bytes(*number), f32::from_le_bytes(*lo), f32::from_le_bytes(*hi))
    };
    Ok(Some(numbers.iter().zip(pairs).map(entry).collect()))
}

fn numbers(file: &SafeTensors<'_>, name: &str, what: &str, n: Option<usize>) -> Result<Vec<u64>, String> {
    let found = array::<8>(file, &format!("{name}.{what}"), Dtype::U64)?;
    match n {
        Some(n) if n != found.len() => Err(format!("its tensor `{name}.{what}` has a wrong size")),
        _ => Ok(found.into_iter().map(u64::from_le_bytes).collect()),
    }
}

/// The elements of a tensor, each of `N` bytes.
///
/// # Errors
/// If there is none of this name and type.
pub(super) fn array<const N: usize>(
    file: &SafeTensors<'_>,
    name: &str,
    dtype: Dtype,
) -> Result<Vec<[u8; N]>, String> {
    let view = file.tensor(name).map_err(|_| format!("it has no tensor `{name}`"))?;
    if view.dtype() != dtype {
        return Err(format!("its tensor `{name}` has a wrong type"));
    }
    Ok(view.data().as_chunks::<N>().0.to_vec())
}

fn contradicts(name: &str) -> String {
    format!("its histogram of `{name}` contradicts itself")
}
