//! Types and host-side values. Everything on a device is 32 bits wide: f32, or u32 for ids, lengths and random words.

use bytemuck::cast_slice;

/// The id that stands for nothing: no item, no target, no sequence. -1 in the I32 tensors of golden files.
pub const NONE: u32 = u32::MAX;
/// The score of what cannot be chosen, and is not to be seen; infinities are not portable.
pub const LOWEST: f32 = -1e30;

/// What an element is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// A float.
    F32,
    /// An id, a length, or random bits.
    U32,
}

/// Row-major shape and element type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// What an element is.
    pub dtype: DType,
    /// Row-major; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// Floats of a shape.
    pub fn f32(shape: &[usize]) -> Self {
        TensorType { dtype: DType::F32, shape: shape.to_vec() }
    }

    /// Integers of a shape.
    pub fn u32(shape: &[usize]) -> Self {
        TensorType { dtype: DType::U32, shape: shape.to_vec() }
    }

    /// Number of elements; also the size in 32-bit words.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows when everything but the last axis is flattened.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}", if self.dtype == DType::F32 { "f32" } else { "u32" }, self.shape)
    }
}

/// A host tensor in device precision. U32 elements are kept as the bits of an f32, so that one vector type serves all.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Shape and element type.
    pub ty: TensorType,
    /// The elements, row-major.
    pub words: Vec<f32>,
}

impl Tensor {
    /// Of floats; panics if shape and length differ.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Tensor { ty: TensorType::f32(shape), words: data }
    }

    /// Of integers; panics if shape and length differ.
    pub fn u32(shape: &[usize], data: &[u32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len());
        Tensor { ty: TensorType::u32(shape), words: bytemuck::cast_vec(data.to_vec()) }
    }

    /// The elements of a tensor of integers.
    pub fn as_u32(&self) -> &[u32] {
        cast_slice(&self.words)
    }
}

/// A value of the reference executor: f64, or u32 as it is.
#[derive(Clone, Debug)]
pub struct Array {
    /// Shape and element type.
    pub ty: TensorType,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    F64(Vec<f64>),
    U32(Vec<u32>),
}

impl Array {
    /// Zeros of a type.
    pub fn zeros(ty: &TensorType) -> Self {
        let data = match ty.dtype {
            DType::F32 => Data::F64(vec![0.0; ty.len()]),
            DType::U32 => Data::U32(vec![0; ty.len()]),
        };
        Array { ty: ty.clone(), data }
    }

    /// From device precision.
    pub fn from_words(ty: &TensorType, words: &[f32]) -> Self {
        let data = match ty.dtype {
            DType::F32 => Data::F64(words.iter().map(|&x| f64::from(x)).collect()),
            DType::U32 => Data::U32(cast_slice(words).to_vec()),
        };
        Array { ty: ty.clone(), data }
    }

    /// Of floats; panics if type and length differ.
    pub fn from_f64(ty: &TensorType, values: Vec<f64>) -> Self {
        assert_eq!((ty.dtype, ty.len()), (DType::F32, values.len()));
        Array { ty: ty.clone(), data: Data::F64(values) }
    }

    /// The same content under a type of the same length.
    pub fn with_type(self, ty: &TensorType) -> Self {
        assert_eq!((self.ty.dtype, self.ty.len()), (ty.dtype, ty.len()));
        Array { ty: ty.clone(), data: self.data }
    }

    /// Back to device precision.
    pub fn to_words(&self) -> Vec<f32> {
        match &self.data {
            Data::F64(values) => values.iter().map(|&x| x as f32).collect(),
            Data::U32(values) => cast_slice(values).to_vec(),
        }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }

    /// Length of the last axis.
    pub fn width(&self) -> usize {
        self.ty.width()
    }

    /// Rows when everything but the last axis is flattened.
    pub fn rows(&self) -> usize {
        self.ty.rows()
    }

    /// The elements of a float array.
    pub fn f(&self) -> &[f64] {
        match &self.data {
            Data::F64(values) => values,
            Data::U32(_) => panic!("a float tensor was expected"),
        }
    }

    /// The elements of a float array, to be written.
    pub fn f_mut(&mut self) -> &mut [f64] {
        match &mut self.data {
            Data::F64(values) => values,
            Data::U32(_) => panic!("a float tensor was expected"),
        }
    }

    /// The elements of an array of integers.
    pub fn u(&self) -> &[u32] {
        match &self.data {
            Data::U32(values) => values,
            Data::F64(_) => panic!("an integer tensor was expected"),
        }
    }

    /// The elements of an array of integers, to be written.
    pub fn u_mut(&mut self) -> &mut [u32] {
        match &mut self.data {
            Data::U32(values) => values,
            Data::F64(_) => panic!("an integer tensor was expected"),
        }
    }

    /// Row `i` of a float array seen as `[rows, width]`.
    pub fn row(&self, i: usize) -> &[f64] {
        let width = self.width();
        &self.f()[i * width..(i + 1) * width]
    }
}
