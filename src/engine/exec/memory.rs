//! Words of memory for tensors on the host. Large areas ask the system for huge pages: a step walks through hundreds of
//! megabytes, and with small pages a good part of its time goes into finding them.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// From so many bytes on an area is mapped on its own.
const LARGE: usize = 4 << 20;

/// Zeroed words.
#[derive(Debug)]
pub enum Words {
    Heap(Vec<f32>),
    Pages(MmapMut),
}

impl Words {
    pub fn zeroed(len: usize) -> Words {
        if 4 * len < LARGE {
            return Words::Heap(vec![0.0; len]);
        }
        match MmapMut::map_anon(4 * len) {
            Ok(pages) => {
                // A hint: where it is refused, pages stay small.
                #[cfg(target_os = "linux")]
                drop(pages.advise(memmap2::Advice::HugePage));
                Words::Pages(pages)
            }
            Err(_) => Words::Heap(vec![0.0; len]),
        }
    }
}

impl Default for Words {
    fn default() -> Self {
        Words::Heap(Vec::new())
    }
}

impl Deref for Words {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Words::Heap(words) => words,
            Words::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Words::Heap(words) => words,
            Words::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zeroed_and_writable() {
        for len in [0, 5, LARGE / 4 + 3] {
            let mut words = Words::zeroed(len);
            assert!(words.len() == len && words.iter().all(|w| *w == 0.0));
            words.fill(1.0);
            assert!(words.iter().all(|w| *w == 1.0));
        }
    }
}
