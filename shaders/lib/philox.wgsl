// Philox4x32-10; the same function is src/engine/rng.rs. WGSL has no 64-bit product: the high half comes from 16-bit limbs.
fn mul_high(a: u32, b: u32) -> u32 {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let mid = a1 * b0 + (low >> 16u);
    let mid2 = a0 * b1 + (mid & 0xffffu);
    return a1 * b1 + (mid >> 16u) + (mid2 >> 16u);
}

fn philox4x32_10(counter_in: vec4<u32>, key_in: vec2<u32>) -> vec4<u32> {
    var c = counter_in;
    var k = key_in;
    for (var round = 0u; round < 10u; round += 1u) {
        c = vec4<u32>(
            mul_high(0xCD9E8D57u, c.z) ^ c.y ^ k.x,
            0xCD9E8D57u * c.z,
            mul_high(0xD2511F53u, c.x) ^ c.w ^ k.y,
            0xD2511F53u * c.x,
        );
        k += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);
    }
    return c;
}

// The four words for features 4*block .. 4*block+4 at (sequence, position); `state` is the input rng: seed_lo, seed_hi, step, 0.
fn rng_block(state: vec4<u32>, site: u32, sequence: u32, position: u32, block: u32) -> vec4<u32> {
    let key = vec2<u32>(state.x, state.y ^ (site * 0x9E3779B9u));
    return philox4x32_10(vec4<u32>(block, position, sequence, state.z), key);
}

// One of the words of a block.
fn rng_lane(words: vec4<u32>, lane: u32) -> u32 {
    return select(select(words.x, words.y, lane == 1u), select(words.z, words.w, lane == 3u), lane >= 2u);
}

fn rng_word(state: vec4<u32>, site: u32, sequence: u32, position: u32, feature: u32) -> u32 {
    return rng_lane(rng_block(state, site, sequence, position, feature >> 2u), feature & 3u);
}

// Uniform in the open interval (0, 1).
fn rng_uniform(word: u32) -> f32 {
    return (f32(word >> 9u) + 0.5) * (1.0 / 8388608.0);
}
