//! Arrays in files, read a slice at a time; those of `.npy` files and `.npz` archives are found here.
//!
//! An array that is stored plainly (a `.npy` file, an entry of an archive written by `numpy.savez`, a
//! tensor of a `.safetensors` file) is read where it lies, by offset. One that is compressed or in Fortran
//! order cannot be: it is unpacked once, when its first slice is asked for, into a temporary file (memory
//! while it is small).

use super::npy::{Header, read_header};
use squint_ir::{DType, Tensor};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::SpooledTempFile;
use zip::{CompressionMethod, ZipArchive};

/// Unpacked arrays up to this size stay in memory.
const SPOOL_IN_MEMORY: usize = 16 << 20;

/// An array in a file.
pub(crate) struct Array {
    header: Header,
    source: Source,
    /// The data in C order, once slices were asked for that the source cannot give.
    spool: Mutex<Option<SpooledTempFile>>,
}

enum Source {
    /// Plain data at an offset of a file.
    File { file: Arc<Mutex<File>>, offset: u64 },
    /// A compressed entry of an archive.
    Entry { archive: Arc<Mutex<Archive>>, entry: usize },
    /// A tensor that was decoded.
    Memory(Tensor),
}

type Archive = ZipArchive<BufReader<File>>;

/// Opens a `.npy` file.
///
/// # Errors
/// What is wrong with the file, without its name.
pub(crate) fn open_npy(path: &Path) -> Result<Array, String> {
    let file = open(path)?;
    let mut reader = BufReader::new(&file);
    let header = read_header(&mut reader)?;
    let offset = header.len;
    check_room(&file, offset, &header)?;
    Ok(Array::new(header, Source::File { file: Arc::new(Mutex::new(file)), offset }))
}

/// Opens an `.npz` archive: its arrays by name, in the order of the archive.
///
/// # Errors
/// What is wrong with the file, without its name.
pub(crate) fn open_npz(path: &Path) -> Result<Vec<(String, Array)>, String> {
    let file = open(path)?;
    let plain = Arc::new(Mutex::new(file.try_clone().map_err(|e| e.to_string())?));
    let broken = |e: zip::result::ZipError| format!("is not an `.npz` archive, or is truncated ({e})");
    let archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let entries = archive.len();
    let archive = Arc::new(Mutex::new(archive));
    let mut out = Vec::new();
    for entry in 0..entries {
        let mut zip = locked(&archive);
        let mut packed = zip.by_index(entry).map_err(broken)?;
        let name = packed.name().map_err(broken)?.into_owned();
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        let header = read_header(&mut packed).map_err(|e| format!("array `{name}` {e}"))?;
        let start = packed.data_start().filter(|_| packed.compression() == CompressionMethod::Stored);
        drop(packed);
        drop(zip);
        let source = match start {
            Some(start) => {
                let offset = start + header.len;
                check_room(&locked(&plain), offset, &header).map_err(|e| format!("array `{name}` {e}"))?;
                Source::File { file: plain.clone(), offset }
            }
            None => Source::Entry { archive: archive.clone(), entry },
        };
        out.push((name, Array::new(header, source)));
    }
    Ok(out)
}

impl Array {
    fn new(header: Header, source: Source) -> Array {
        Array { header, source, spool: Mutex::new(None) }
    }

    /// An array whose data lies in a file as it is: little-endian and in C order.
    ///
    /// # Errors
    /// If the file is too short, or elements of this type are not whole bytes.
    pub(crate) fn stored(
        file: &Arc<Mutex<File>>,
        offset: u64,
        dtype: DType,
        dims: &[usize],
    ) -> Result<Array, String> {
        let header = plain(dtype, dims)?;
        check_room(&locked(file), offset, &header)?;
        Ok(Array::new(header, Source::File { file: file.clone(), offset }))
    }

    /// An array in memory.
    ///
    /// # Errors
    /// If its elements are not whole bytes.
    pub(crate) fn of(tensor: Tensor) -> Result<Array, String> {
        Ok(Array::new(plain(tensor.dtype(), tensor.dims())?, Source::Memory(tensor)))
    }

    /// Element type.
    pub(crate) fn dtype(&self) -> DType {
        self.header.dtype
    }

    /// Lengths of the axes.
    pub(crate) fn dims(&self) -> &[usize] {
        &self.header.dims
    }

    /// Reads the whole array.
    ///
    /// # Errors
    /// If the data is shorter than the header says, or cannot be read.
    pub(crate) fn whole(&self) -> Result<Tensor, String> {
        let data = match self.direct(0, self.header.data_len) {
            Some(data) => data?,
            None => {
                let mut data = Vec::new();
                self.unpack(&mut data)?;
                data
            }
        };
        self.tensor(self.dims(), data)
    }

    /// Reads `count` entries of the first axis, from `start` on; the result keeps that axis.
    ///
    /// # Errors
    /// If the data is shorter than the header says, or cannot be read.
    ///
    /// # Panics
    /// If there are fewer entries.
    pub(crate) fn rows(&self, start: usize, count: usize) -> Result<Tensor, String> {
        let mut dims = self.dims().to_vec();
        assert!(start + count <= dims[0], "invariant: rows lie inside the array");
        let row = self.header.data_len / dims[0];
        dims[0] = count;
        let (from, len) = ((start * row) as u64, count * row);
        let data = match self.direct(from, len) {
            Some(data) => data?,
            None => {
                let mut spool = locked(&self.spool);
                let file = match &mut *spool {
                    Some(file) => file,
                    none => {
                        let mut file = SpooledTempFile::new(SPOOL_IN_MEMORY);
                        self.unpack(&mut file)?;
                        none.insert(file)
                    }
                };
                read_at(file, from, len)?
            }
        };
        self.tensor(&dims, data)
    }

    /// Bytes of the data, if they need not be unpacked first.
    fn direct(&self, from: u64, len: usize) -> Option<Result<Vec<u8>, String>> {
        match &self.source {
            _ if self.header.fortran => None,
            Source::File { file, offset } => Some(read_at(&mut *locked(file), offset + from, len)),
            Source::Memory(t) => Some(Ok(t.bytes()[from as usize..][..len].to_vec())),
            Source::Entry { .. } => None,
        }
    }

    /// Writes all data in C order.
    fn unpack(&self, out: &mut impl Write) -> Result<(), String> {
        if !self.header.fortran {
            return self.copy_data(out);
        }
        let mut data = Vec::new();
        self.copy_data(&mut data)?;
        out.write_all(&to_c_order(&data, self.dims(), self.dtype().bits() / 8)).map_err(|e| e.to_string())
    }

    /// Copies the data as it is stored, no more of it than the header says.
    fn copy_data(&self, out: &mut impl Write) -> Result<(), String> {
        let want = self.header.data_len as u64;
        let copied = match &self.source {
            Source::File { file, offset } => {
                let mut file = locked(file);
                file.seek(SeekFrom::Start(*offset)).and_then(|_| io::copy(&mut (&mut *file).take(want), out))
            }
            Source::Entry { archive, entry } => {
                let mut zip = locked(archive);
                let mut packed = zip.by_index(*entry).map_err(|e| e.to_string())?;
                let skipped = io::copy(&mut (&mut packed).take(self.header.len), &mut io::sink());
                skipped.and_then(|_| io::copy(&mut packed.take(want), out))
            }
            Source::Memory(t) => io::copy(&mut &t.bytes()[..], out),
        };
        match copied.map_err(truncated)? {
            n if n == want => Ok(()),
            n => Err(format!("is truncated: {want} bytes of data expected, {n} found")),
        }
    }

    fn tensor(&self, dims: &[usize], mut data: Vec<u8>) -> Result<Tensor, String> {
        if self.header.big_endian {
            data.chunks_exact_mut(self.dtype().bits() / 8).for_each(<[u8]>::reverse);
        }
        Tensor::raw(self.dtype(), dims, data.into()).map_err(|e| e.to_string())
    }
}

/// The layout of little-endian data in C order.
fn plain(dtype: DType, dims: &[usize]) -> Result<Header, String> {
    if dtype.bits() < 8 {
        return Err(format!("has elements of type {dtype}, which are not whole bytes and cannot be read"));
    }
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let data_len = count
        .and_then(|n| dtype.packed_len(n))
        .ok_or_else(|| format!("has the impossible shape {dims:?}"))?;
    Ok(Header { dtype, big_endian: false, fortran: false, dims: dims.to_vec(), data_len, len: 0 })
}

fn read_at(file: &mut (impl Read + Seek), offset: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut data = vec![0u8; len];
    file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(&mut data)).map_err(truncated)?;
    Ok(data)
}

/// Opens a file.
///
/// # Errors
/// What the system says.
pub(crate) fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|e| format!("cannot be opened: {e}"))
}

/// Checks that a file is long enough before memory is taken for what its header promises.
fn check_room(file: &File, offset: u64, header: &Header) -> Result<(), String> {
    let have = file.metadata().map_err(|e| e.to_string())?.len().saturating_sub(offset);
    match header.data_len as u64 {
        want if want <= have => Ok(()),
        want => Err(format!("is truncated: {want} bytes of data expected, {have} found")),
    }
}

fn truncated(e: io::Error) -> String {
    format!("is truncated or damaged ({e})")
}

/// A panic while a file was being read leaves no broken state behind: every read seeks first.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reorders elements of `size` bytes from first-axis-fastest to last-axis-fastest.
fn to_c_order(data: &[u8], dims: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = size;
    for d in dims {
        strides.push(stride);
        stride *= d;
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; dims.len()];
    let mut at = 0;
    for _ in 0..data.len() / size {
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < dims[axis] {
                break;
            }
            at -= strides[axis] * dims[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::{npy_bytes, npz_bytes, write};

    #[test]
    fn rows_are_read_from_plain_compressed_and_fortran_arrays() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
        let plain = npy_bytes("<f4", false, &[4, 3, 2], &Tensor::from_f32(&[24], &values));
        let path = write(&dir, "a.npy", &plain);
        assert_eq!(
            open_npy(&path).unwrap().rows(1, 2).unwrap(),
            Tensor::from_f32(&[2, 3, 2], &values[6..18])
        );
        for compress in [false, true] {
            let path = write(&dir, "a.npz", &npz_bytes(&[("x", plain.clone())], compress));
            let arrays = open_npz(&path).unwrap();
            assert_eq!(arrays[0].0, "x");
            for i in [2, 0, 3] {
                let row = Tensor::from_f32(&[1, 3, 2], &values[i * 6..][..6]);
                assert_eq!(arrays[0].1.rows(i, 1).unwrap(), row, "row {i}, compressed: {compress}");
            }
            assert_eq!(arrays[0].1.whole().unwrap().to_f32s(), values);
        }
        // Element (i, j) of a 2x3 array is stored at i + 2 j.
        let stored = Tensor::from_f32(&[6], &[0., 3., 1., 4., 2., 5.]);
        let fortran = npy_bytes("<f4", true, &[2, 3], &stored);
        for array in [
            open_npy(&write(&dir, "f.npy", &fortran)).unwrap(),
            open_npz(&write(&dir, "f.npz", &npz_bytes(&[("x", fortran.clone())], false)))
                .unwrap()
                .remove(0)
                .1,
        ] {
            assert_eq!(array.whole().unwrap().to_f32s(), [0., 1., 2., 3., 4., 5.]);
            assert_eq!(array.rows(1, 1).unwrap().to_f32s(), [3., 4., 5.]);
        }
    }

    #[test]
    fn big_endian_elements_are_turned() {
        let dir = tempfile::tempdir().unwrap();
        let stored = Tensor::raw(DType::Int32, &[1], vec![0, 0, 1, 2].into()).unwrap();
        let path = write(&dir, "b.npy", &npy_bytes(">i4", false, &[1], &stored));
        assert_eq!(open_npy(&path).unwrap().whole().unwrap().to_i64s().unwrap(), [258]);
    }

    #[test]
    fn short_data_is_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let huge = npy_bytes("<f4", false, &[1 << 40], &Tensor::from_f32(&[1], &[0.0]));
        assert!(open_npy(&write(&dir, "h.npy", &huge)).err().unwrap().contains("truncated"));
        let packed = open_npz(&write(&dir, "h.npz", &npz_bytes(&[("x", huge)], true))).unwrap();
        assert!(packed[0].1.whole().err().unwrap().contains("truncated"));
    }
}
