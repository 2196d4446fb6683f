//! Words of memory for tensors on the host. Large areas ask the system for huge pages: a step walks through hundreds of
//! megabytes, and with small pages a good part of its time goes into finding them. All areas begin on a line of the cache:
//! a vector that lies across two lines takes two reads.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// From so many bytes on an area is mapped on its own.
const LARGE: usize = 4 << 20;

/// A line of the cache.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeroed words.
#[derive(Debug)]
pub struct Words {
    area: Area,
    len: usize,
}

#[derive(Debug)]
enum Area {
    Heap(Vec<Line>),
    Pages(MmapMut),
}

impl Words {
    pub fn zeroed(len: usize) -> Words {
        let pages = if 4 * len < LARGE { None } else { MmapMut::map_anon(4 * len).ok() };
        let area = match pages {
            Some(pages) => {
                // A hint: where it is refused, pages stay small.
                #[cfg(target_os = "linux")]
                drop(pages.advise(memmap2::Advice::HugePage));
                Area::Pages(pages)
            }
            None => Area::Heap(vec![Line([0.0; 16]); len.div_ceil(16)]),
        };
        Words { area, len }
    }
}

impl Default for Words {
    fn default() -> Self {
        Words::zeroed(0)
    }
}

impl Deref for Words {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.area {
            Area::Heap(lines) => &bytemuck::cast_slice(lines)[..self.len],
            Area::Pages(pages) => bytemuck::cast_slice(pages),
        }
    }
}

impl DerefMut for Words {
    fn deref_mut(&mut self) -> &mut [f32] {
        match &mut self.area {
            Area::Heap(lines) => &mut bytemuck::cast_slice_mut(lines)[..self.len],
            Area::Pages(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_zeroed_and_writable_and_begin_on_a_line() {
        for len in [0, 5, LARGE / 4 + 3] {
            let mut words = Words::zeroed(len);
            assert!(words.len() == len && words.iter().all(|w| *w == 0.0));
            assert!(words.as_ptr().addr().is_multiple_of(64));
            words.fill(1.0);
            assert!(words.iter().all(|w| *w == 1.0));
        }
    }
}
