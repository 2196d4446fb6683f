//! Parameters: named ranges of flat buffers, one set of buffers per optimizer.
//!
//! A set (`model`, `logits`, later `teacher`) has four flat buffers of the same layout: parameters, gradients, and the
//! two Adam moments. Each parameter starts on a 256-byte boundary, so that a GPU can bind its range.

use super::graph::Flat;
use super::rng::{RngState, Site};
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
    fn find(&self, set: &str, name: &str) -> Option<(usize, Range<usize>)> {
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
            let moments = if set.is_frozen() { Vec::new() } else { vec![0.0; params.len()] };
            SetState { m: moments.clone(), v: moments, params }
        };
        State { sets: self.sets.iter().enumerate().map(|(i, set)| fill(i, set)).collect() }
    }
}

/// Contents of one set's flat buffers: parameters and Adam's first and second moments. A frozen set has parameters only; when
/// its state is read back it has nothing, and loading nothing leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetState {
    /// What is trained.
    pub params: Vec<f32>,
    /// First moments.
    pub m: Vec<f32>,
    /// Second moments.
    pub v: Vec<f32>,
}

impl SetState {
    /// What the flat buffers hold at the start: gradients are zero.
    pub fn flats(&self) -> Vec<(Flat, Cow<'_, [f32]>)> {
        let params = (!self.params.is_empty()).then(|| (Flat::Params, Cow::from(&self.params)));
        let optimizer = [
            (Flat::Grads, Cow::from(vec![0.0; self.m.len()])),
            (Flat::FirstMoment, Cow::from(&self.m)),
            (Flat::SecondMoment, Cow::from(&self.v)),
        ];
        params.into_iter().chain(optimizer.into_iter().filter(|_| !self.m.is_empty())).collect()
    }
}

/// Everything that training changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// As in the layout.
    pub sets: Vec<SetState>,
}

impl State {
    /// The parameters alone.
    pub fn without_moments(&self) -> State {
        let own = |set: &SetState| SetState { params: set.params.clone(), ..SetState::default() };
        State { sets: self.sets.iter().map(own).collect() }
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
