//! Philox4x32-10, the counter-based generator behind every random number (Salmon et al., SC'11).
//!
//! A word depends only on `(seed, step, site)` and on the *logical* place it is used for: sequence, position, feature.
//! So every executor, packing, tiling, batch order and thread count draws the same bits, a resumed run draws what the
//! uninterrupted one would have drawn, and two forward passes of one step share their noise by sharing their sites.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32. The same function is `shaders/lib/philox.wgsl`.
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let left = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The place in the program a random number belongs to: one site per dropout layer, per sampler, per augmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site(pub u32);

/// What the random numbers of one step are keyed by. On the device it is the input `rng`: `[seed_lo, seed_hi, step, 0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RngState {
    /// Of the run.
    pub seed: u64,
    /// Of the optimizer, or whatever a stream counts by.
    pub step: u32,
}

impl RngState {
    /// As the input `rng[4]` of ops that draw.
    pub fn words(self) -> [u32; 4] {
        [self.seed as u32, (self.seed >> 32) as u32, self.step, 0]
    }

    /// Of that input.
    pub fn from_words(words: &[u32]) -> Self {
        RngState { seed: u64::from(words[0]) | u64::from(words[1]) << 32, step: words[2] }
    }

    /// The four words for features `4 * block .. 4 * block + 4` at `(sequence, position)`.
    #[inline]
    pub fn block(self, site: Site, sequence: u32, position: u32, block: u32) -> [u32; 4] {
        let key = [self.seed as u32, (self.seed >> 32) as u32 ^ site.0.wrapping_mul(WEYL[0])];
        philox4x32_10([block, position, sequence, self.step], key)
    }

    /// The word for one feature.
    #[inline]
    pub fn word(self, site: Site, sequence: u32, position: u32, feature: u32) -> u32 {
        self.block(site, sequence, position, feature >> 2)[(feature & 3) as usize]
    }

    /// Standard normals for features 0, 1, ... at `(sequence, position)`, by the Box-Muller transform in f64 (host only).
    pub fn normals(self, site: Site, sequence: u32, position: u32, out: &mut [f32]) {
        for (four, block) in out.chunks_mut(4).zip(0..) {
            let words = self.block(site, sequence, position, block).map(|word| f64::from(uniform(word)));
            let polar = |u: f64, v: f64| {
                let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
                [cos, sin].map(|x| ((-2.0 * u.ln()).sqrt() * x) as f32)
            };
            let [a, b] = [polar(words[0], words[1]), polar(words[2], words[3])];
            four.iter_mut().zip([a[0], a[1], b[0], b[1]]).for_each(|(x, normal)| *x = normal);
        }
    }

    /// Independent draws for host-side sampling: a stream of words at `(site, sequence)`.
    pub fn stream(self, site: Site, sequence: u32) -> Stream {
        Stream { state: self, site, sequence, next: 0 }
    }
}

/// A uniform in the open interval (0, 1): the middle of one of 2^23 equal cells, exact in f32 (2^24 would round to 1).
#[inline]
pub fn uniform(word: u32) -> f32 {
    ((word >> 9) as f32 + 0.5) * (1.0 / 8_388_608.0)
}

/// The threshold below which a word means "dropped", for a drop probability in [0, 1).
pub fn drop_threshold(probability: f64) -> u32 {
    (probability * 4_294_967_296.0).min(4_294_967_295.0) as u32
}

/// Host-side draws for one `(state, site, sequence)`, in order.
#[derive(Clone, Debug)]
pub struct Stream {
    state: RngState,
    site: Site,
    sequence: u32,
    next: u32,
}

impl Stream {
    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        let word = self.state.word(self.site, self.sequence, 0, self.next);
        self.next += 1;
        word
    }

    /// Uniform in `0..n` without bias (Lemire's rejection method). `n` must be positive.
    pub fn below(&mut self, n: u32) -> u32 {
        let reject_under = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= reject_under {
                return (product >> 32) as u32;
            }
        }
    }

    /// Uniform in the open interval (0, 1).
    pub fn uniform(&mut self) -> f32 {
        uniform(self.next_u32())
    }

    /// A standard normal by the Box-Muller transform in f64 (host only).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (f64::from(self.uniform()), f64::from(self.uniform()));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

/// Philox blocks that are computed side by side.
const LANES: usize = 16;

/// The words for features `4 * first_block ..` at a row's place: `LANES` blocks of `RngState::block`, one per lane. All rounds
/// of a lane stand in one body, so that the counters stay in registers.
#[inline(always)]
fn random_words(state: RngState, site: Site, row_key: &[u32], first_block: u32) -> [u32; 4 * LANES] {
    const FACTORS: [u64; 2] = [MULTIPLIER[0] as u64, MULTIPLIER[1] as u64];
    const LOW: u64 = 0xffff_ffff;
    const { assert!(cfg!(target_endian = "little"), "pairs of words are read as one") };
    let mut pairs = [[0; 2]; LANES];
    for (pair, block) in pairs.iter_mut().zip(u64::from(first_block)..) {
        let mut key = [state.seed as u32, (state.seed >> 32) as u32 ^ site.0.wrapping_mul(WEYL[0])];
        // 64-bit lanes: the upper halves of `c` are rubbish that the products ignore, so that nothing is widened or narrowed.
        let mut c = [block, row_key[1].into(), row_key[0].into(), state.step.into()];
        for _ in 0..10 {
            let (left, right) = (FACTORS[0] * (c[0] & LOW), FACTORS[1] * (c[2] & LOW));
            c = [(right >> 32) ^ c[1] ^ u64::from(key[0]), right, (left >> 32) ^ c[3] ^ u64::from(key[1]), left];
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        *pair = [(c[0] & LOW) | c[1] << 32, (c[2] & LOW) | c[3] << 32];
    }
    bytemuck::cast(pairs)
}

/// Draws the words of one row and hands them out in pieces: `consume(first feature, words)`.
/// To be called from a function that is compiled for several instruction sets.
#[inline(always)]
pub fn draw_row(state: RngState, site: Site, row_key: &[u32], width: usize, consume: impl FnMut(usize, &[u32])) {
    draw_from(0, state, site, row_key, width, consume);
}

/// `draw_row` for the features from `4 * block` on; `consume` counts from there.
#[inline(always)]
pub fn draw_from(
    block: u32,
    state: RngState,
    site: Site,
    row_key: &[u32],
    width: usize,
    mut consume: impl FnMut(usize, &[u32]),
) {
    for first in (0..width).step_by(4 * LANES) {
        let words = random_words(state, site, row_key, block + (first / 4) as u32);
        consume(first, &words[..(width - first).min(4 * LANES)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_random123_vectors() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32_10([0xffff_ffff; 4], [0xffff_ffff; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn lanes_draw_the_words_of_the_generator() {
        let state = RngState { seed: 0xdead_beef_0123_4567, step: 9 };
        let words = random_words(state, Site(5), &[70, 3], 16);
        assert!((0..64).all(|i| words[i as usize] == state.word(Site(5), 70, 3, 64 + i)));
    }

    #[test]
    fn uniforms_are_open_and_below_is_in_range() {
        assert!(uniform(0) > 0.0 && uniform(u32::MAX) < 1.0);
        let mut stream = RngState { seed: 3, step: 1 }.stream(Site(9), 2);
        assert!((0..1000).all(|_| stream.below(7) < 7));
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal_and_do_not_depend_on_how_many_are_drawn() {
        let state = RngState { seed: 3, step: 1 };
        let mut all = vec![0.0; 1_000_000];
        state.normals(Site(9), 2, 5, &mut all);
        let n = all.len() as f64;
        let moment = |k: i32| all.iter().map(|x| f64::from(*x).powi(k)).sum::<f64>() / n;
        // Four standard errors of the mean, the variance and the fourth moment.
        assert!(moment(1).abs() < 4.0 / n.sqrt() && (moment(2) - 1.0).abs() < 4.0 * (2.0 / n).sqrt());
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0 / n).sqrt());
        let mut few = [0.0; 7];
        state.normals(Site(9), 2, 5, &mut few);
        assert_eq!(few, all[..7]);
    }

    #[test]
    fn sites_sequences_and_steps_draw_different_words() {
        let state = RngState { seed: 1, step: 2 };
        let words = [
            state.word(Site(1), 0, 0, 0),
            state.word(Site(2), 0, 0, 0),
            state.word(Site(1), 1, 0, 0),
            state.word(Site(1), 0, 1, 0),
            state.word(Site(1), 0, 0, 1),
            RngState { step: 3, ..state }.word(Site(1), 0, 0, 0),
        ];
        assert!((0..6).all(|i| (0..i).all(|j| words[i] != words[j])));
    }
}
