//! Safetensors, read and written tensor by tensor: a file that is as large as the memory it came from does not take it twice.

use super::WholeFile;
use crate::error::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Headers are not longer than this; the format says so.
const MAX_HEADER: u64 = 100_000_000;

/// An open file, of which the header is in memory.
pub struct TensorReader {
    path: PathBuf,
    file: Mutex<File>,
    /// Where the tensors begin.
    start: u64,
    header: Metadata,
}

impl TensorReader {
    /// Reads and checks the header. `what` is what the file should be, for messages.
    pub fn open(path: &Path, what: &str) -> Result<TensorReader> {
        let failed = |e| Error::io("read", path, e);
        let wrong = |problem: String| Error::Format { path: path.into(), problem: format!("not a {what}: {problem}") };
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut length = [0; 8];
        if bytes < 8 {
            return Err(wrong(format!("it has {bytes} bytes")));
        }
        file.read_exact(&mut length).map_err(failed)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER.min(bytes - 8) {
            return Err(wrong("it does not begin as safetensors do, or its header is cut off".into()));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(failed)?;
        let header: Metadata = serde_json::from_slice(&text).map_err(|e| wrong(format!("its header: {e}")))?;
        let (start, promised) = (8 + length, header.data_len() as u64);
        if bytes - start != promised {
            return Err(wrong(format!("{} bytes of tensors are there, {promised} should be", bytes - start)));
        }
        Ok(TensorReader { path: path.into(), file: Mutex::new(file), start, header })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the header says beside the tensors, by key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Type and shape of a tensor, if there is one of this name.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// The bytes of a tensor; `None` if there is none of this name.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(info) = self.info(name) else { return Ok(None) };
        let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
        self.read(info, &mut bytes)?;
        Ok(Some(bytes))
    }

    /// Reads a tensor of this file into as many bytes as it has.
    pub fn read(&self, info: &TensorInfo, to: &mut [u8]) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read =
            file.seek(SeekFrom::Start(self.start + info.data_offsets.0 as u64)).and_then(|_| file.read_exact(to));
        read.map_err(|e| Error::io("read", &self.path, e))
    }
}

/// Writes the tensors that were announced, in this order. The file takes its name at the end.
pub struct TensorWriter<'p> {
    path: &'p Path,
    file: WholeFile<'p>,
    missing: usize,
}

impl<'p> TensorWriter<'p> {
    /// Writes the header. Tensors of wider types come first, so that all are aligned.
    pub fn create(
        path: &'p Path,
        metadata: HashMap<String, String>,
        tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>)>,
    ) -> Result<TensorWriter<'p>> {
        let mut end = 0;
        let place = |(name, dtype, shape): (String, Dtype, Vec<usize>)| {
            let begin = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorInfo { dtype, shape, data_offsets: (begin, end) })
        };
        let tensors = tensors.into_iter().map(place).collect();
        let header = Metadata::new(Some(metadata), tensors).expect("names are unique and sizes fit");
        let mut header = serde_json::to_string(&header).expect("names and numbers serialise");
        // The tensors begin at a multiple of 8 bytes, as the format asks.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let length = (header.len() as u64).to_le_bytes();
        let mut writer =
            TensorWriter { path, file: WholeFile::create(path)?, missing: length.len() + header.len() + end };
        writer.put(&length)?;
        writer.put(header.as_bytes())?;
        Ok(writer)
    }

    /// Appends what comes next of the tensors.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.missing = self.missing.checked_sub(bytes.len()).expect("no more than announced");
        self.file.write_all(bytes).map_err(|e| Error::io("write", self.path, e))
    }

    /// On disk, then under its name.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.missing, 0, "bytes that were announced are missing");
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    #[test]
    fn what_is_written_piece_by_piece_is_a_file_of_safetensors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.safetensors");
        let tensors = [("b".to_string(), Dtype::F32, vec![2, 1]), ("a".to_string(), Dtype::U8, vec![3])];
        let mut writer = TensorWriter::create(&path, HashMap::from([("k".into(), "v".into())]), tensors).unwrap();
        writer.put(bytemuck::cast_slice(&[1.5f32])).unwrap();
        assert!(!path.exists(), "an incomplete file has no name");
        writer.put(bytemuck::cast_slice(&[-2.0f32])).unwrap();
        writer.put(b"abc").unwrap();
        writer.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("b").unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[2, 1][..]));
        assert_eq!(tensor.data(), bytemuck::cast_slice::<f32, u8>(&[1.5, -2.0]));

        let reader = TensorReader::open(&path, "thing").unwrap();
        assert_eq!(
            (reader.metadata("k"), reader.metadata("l"), reader.names()),
            (Some("v"), None, vec!["b".into(), "a".into()])
        );
        assert_eq!(reader.bytes("a").unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(reader.bytes("b").unwrap().as_deref(), Some(tensor.data()));
        assert_eq!(reader.bytes("c").unwrap(), None);
        for length in 0..bytes.len() {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = TensorReader::open(&path, "thing").map(drop).unwrap_err().to_string();
            assert!(error.contains("not a thing: "), "{length}: {error}");
        }
        std::fs::write(&path, [bytes.as_slice(), b"!"].concat()).unwrap();
        assert!(TensorReader::open(&path, "thing").is_err(), "a byte too many");
    }
}
