//! Parameters: named ranges of flat buffers, one set of buffers per optimizer.
//!
//! A set (`model`, `logits`, later `teacher`) has four flat buffers of the same layout: parameters, gradients, and the
//! two Adam moments. Each parameter starts on a 256-byte boundary, so that a GPU can bind its range.

use super::graph::Flat;
use super::rng::{RngState, Site};
use crate::error::Result;
use std::borrow::Cow;
use std::ops::Range;

/// Words between two parameters' starts are a multiple of this: 256 bytes, WebGPU's binding alignment.
pub const ALIGN_WORDS: usize = 64;

/// The set of what training reads and does not change. It has no gradients and no moments, and is in no checkpoint.
pub const FROZEN: &str = "frozen";

/// What a parameter holds before training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// One value everywhere.
    Constant(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in `[-bound, bound]`.
    Uniform(f32),
}

/// A named range of a set's flat buffers.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Unique within its set; the name in checkpoints.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// What it holds before training.
    pub init: Init,
    /// Words in the flat buffers of the set.
    pub range: Range<usize>,
}

/// Parameters that one optimizer updates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamSet {
    /// `model`, or what a method calls it.
    pub name: String,
    /// In the order in which they were declared, which is that of their ranges.
    pub parameters: Vec<Parameter>,
}

impl ParamSet {
    /// Words of each flat buffer, the last range padded as well.
    pub fn flat_len(&self) -> usize {
        self.parameters.last().map_or(0, |p| p.range.end.next_multiple_of(ALIGN_WORDS))
    }

    /// Whether training leaves it as it is.
    pub fn is_frozen(&self) -> bool {
        self.name == FROZEN
    }

    /// The parameter of this name.
    pub fn find(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }

    /// Number of trainable numbers, without the padding between ranges.
    pub fn count(&self) -> usize {
        self.parameters.iter().map(|p| p.range.len()).sum()
    }
}

/// The layout of all parameter sets of a method. Graphs of one method share it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamLayout {
    /// By index, as `set_index` gives them.
    pub sets: Vec<ParamSet>,
}

impl ParamLayout {
    /// The index of a set, which is made if there is none of this name.
    pub fn set_index(&mut self, name: &str) -> usize {
        self.sets.iter().position(|set| set.name == name).unwrap_or_else(|| {
            self.sets.push(ParamSet { name: name.into(), parameters: Vec::new() });
            self.sets.len() - 1
        })
    }

    /// The range of a parameter, which is made if the set has none of this name.
    pub fn declare(&mut self, set: usize, name: &str, shape: &[usize], init: Init) -> Range<usize> {
        if let Some(known) = self.sets[set].find(name) {
            assert_eq!(known.shape, shape, "parameter {name} is used with two shapes");
            return known.range.clone();
        }
        let start = self.sets[set].flat_len();
        let range = start..start + shape.iter().product::<usize>();
        let parameter = Parameter { name: name.into(), shape: shape.to_vec(), init, range: range.clone() };
        self.sets[set].parameters.push(parameter);
        range
    }

    /// The index of the set and the range in it of a parameter.
    pub fn find(&self, set: &str, name: &str) -> Option<(usize, Range<usize>)> {
        let index = self.sets.iter().position(|s| s.name == set)?;
        Some((index, self.sets[index].find(name)?.range.clone()))
    }

    /// Initial values: each parameter draws from a stream named by its place in the layout.
    pub fn initial_state(&self, seed: u64) -> State {
        let fill = |set_index: usize, set: &ParamSet| {
            let mut params = vec![0.0; set.flat_len()];
            for (index, parameter) in set.parameters.iter().enumerate() {
                let site = Site(0x1_0000 + ((set_index as u32) << 12) + index as u32);
                let mut stream = RngState { seed, step: u32::MAX }.stream(site, 0);
                for value in &mut params[parameter.range.clone()] {
                    *value = match parameter.init {
                        Init::Constant(c) => c,
                        Init::Normal(std) => (stream.normal() * f64::from(std)) as f32,
                        Init::Uniform(bound) => (2.0 * stream.uniform() - 1.0) * bound,
                    };
                }
            }
            SetState { params, ..SetState::default() }
        };
        State { sets: self.sets.iter().enumerate().map(|(i, set)| fill(i, set)).collect() }
    }
}

/// Contents of one set's flat buffers: parameters and Adam's first and second moments, which are 0 where they are empty. Of a
/// frozen set nothing is read back, and loading nothing leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetState {
    /// What is trained.
    pub params: Vec<f32>,
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
}

/// Where an executor gets what its flat buffers hold: one after the other, so that nobody needs a copy of all of them.
pub trait Contents {
    /// The parameters of a set, or a moment. `None`: the set stays as it is, or the moment is 0.
    fn flat(&self, set: usize, flat: Flat) -> Result<Option<Cow<'_, [f32]>>>;
}

/// Everything that training changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// As in the layout.
    pub sets: Vec<SetState>,
}

impl Contents for State {
    fn flat(&self, set: usize, flat: Flat) -> Result<Option<Cow<'_, [f32]>>> {
        let own = &self.sets[set];
        let words = match flat {
            Flat::Params => &own.params,
            Flat::FirstMoment => &own.m,
            Flat::SecondMoment => &own.v,
            Flat::Grads => return Ok(None),
        };
        Ok((!words.is_empty()).then(|| words.into()))
    }
}

impl State {
    /// What `read` gives of the sets that training changes.
    pub fn read(layout: &ParamLayout, mut read: impl FnMut(usize, Flat) -> Result<Vec<f32>>) -> Result<State> {
        let mut own = |(index, set): (usize, &ParamSet)| match set.is_frozen() || set.flat_len() == 0 {
            true => Ok(SetState::default()),
            false => Ok(SetState {
                params: read(index, Flat::Params)?,
                m: read(index, Flat::FirstMoment)?,
                v: read(index, Flat::SecondMoment)?,
            }),
        };
        Ok(State { sets: layout.sets.iter().enumerate().map(&mut own).collect::<Result<_>>()? })
    }

    /// The values of one parameter.
    pub fn parameter<'a>(&'a self, layout: &ParamLayout, set: &str, name: &str) -> Option<&'a [f32]> {
        let (index, range) = layout.find(set, name)?;
        Some(&self.sets[index].params[range])
    }

    /// The values of one parameter, to be set.
    pub fn parameter_mut(&mut self, layout: &ParamLayout, set: &str, name: &str) -> Option<&mut [f32]> {
        let (index, range) = layout.find(set, name)?;
        Some(&mut self.sets[index].params[range])
    }
}
