//! A matrix of f32 in a file that is mapped into memory: what is read row by row and may be larger than memory. The file is a
//! safetensors file with one tensor, so other programs can read it.

use crate::error::{Error, Result};
use crate::files::tensors::TensorWriter;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

const TENSOR: &str = "rows";
const SOURCE: &str = "source";

/// Rows in a mapped file, or in memory.
#[derive(Debug)]
pub struct Matrix {
    rows: usize,
    width: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(Vec<f32>),
    /// The rows begin at this byte of the file.
    File(Mmap, usize),
}

impl Matrix {
    /// Of numbers in memory.
    pub fn new(width: usize, words: Vec<f32>) -> Matrix {
        Matrix { rows: words.len() / width.max(1), width, content: Content::Memory(words) }
    }

    /// Bytes of the file of so many rows, but for its header.
    pub fn bytes(rows: usize, width: usize) -> u64 {
        4 * rows as u64 * width as u64
    }

    /// Maps a file that was made from `source`; `None` if there is none, or it was made from something else.
    pub fn open(path: &Path, source: &str) -> Result<Option<Matrix>> {
        let failed = |e| Error::io("read", path, e);
        if !path.exists() {
            return Ok(None);
        }
        let file = File::open(path).map_err(failed)?;
        // SAFETY: the file was given its name when it was complete, and this program never writes to it again.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let wrong = |problem: String| Error::Format { path: path.into(), problem };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| wrong(format!("no matrix: {e}")))?;
        if metadata.metadata().as_ref().and_then(|all| all.get(SOURCE)).map(String::as_str) != Some(source) {
            return Ok(None);
        }
        let info = metadata.info(TENSOR).ok_or_else(|| wrong(format!("no tensor `{TENSOR}`")))?;
        let &[rows, width] = &info.shape[..] else { return Err(wrong(format!("`{TENSOR}` is no matrix"))) };
        let first = 8 + header + info.data_offsets.0;
        let fits = first.is_multiple_of(4) && map.len() as u64 == first as u64 + Self::bytes(rows, width);
        if info.dtype != Dtype::F32 || !fits {
            return Err(wrong(format!("`{TENSOR}` is not {rows} x {width} floats")));
        }
        Ok(Some(Matrix { rows, width, content: Content::File(map, first) }))
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row.
    pub fn row(&self, row: usize) -> &[f32] {
        let words: &[f32] = match &self.content {
            Content::Memory(words) => words,
            Content::File(map, first) => bytemuck::cast_slice(&map[*first..]),
        };
        &words[row * self.width..(row + 1) * self.width]
    }
}

/// Writes a matrix whose rows come one after the other.
pub struct MatrixWriter<'p>(TensorWriter<'p>);

impl<'p> MatrixWriter<'p> {
    /// Of `rows` rows of `width` numbers, made from `source`.
    pub fn create(path: &'p Path, rows: usize, width: usize, source: &str) -> Result<MatrixWriter<'p>> {
        let metadata = HashMap::from([(SOURCE.to_string(), source.to_string())]);
        TensorWriter::create(path, metadata, [(TENSOR.to_string(), Dtype::F32, vec![rows, width])]).map(MatrixWriter)
    }

    /// Appends rows.
    pub fn push(&mut self, words: &[f32]) -> Result<()> {
        self.0.put(bytemuck::cast_slice(words))
    }

    /// The file takes its name.
    pub fn finish(self) -> Result<()> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back_from_a_file_of_the_same_source() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        assert!(Matrix::open(&path, "a").unwrap().is_none());
        let mut writer = MatrixWriter::create(&path, 3, 2, "a").unwrap();
        writer.push(&[1.0, 2.0]).unwrap();
        assert!(!path.exists(), "an incomplete file has no name");
        writer.push(&[3.0, 4.0, 5.0, -0.5]).unwrap();
        writer.finish().unwrap();
        let matrix = Matrix::open(&path, "a").unwrap().unwrap();
        assert_eq!((matrix.rows(), matrix.width()), (3, 2));
        assert_eq!((matrix.row(0), matrix.row(2)), (&[1.0, 2.0][..], &[5.0, -0.5][..]));
        assert!(Matrix::open(&path, "b").unwrap().is_none());
        let bytes = std::fs::read(&path).unwrap();
        let tensor = SafeTensors::deserialize(&bytes).unwrap().tensor("rows").unwrap().shape().to_vec();
        assert_eq!(tensor, [3, 2]);
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(Matrix::open(&path, "a").is_err());
        assert_eq!(Matrix::new(2, vec![1.0, 2.0, 3.0, 4.0]).row(1), [3.0, 4.0]);
    }
}
