// Copies words from one place to another.
//include grid
struct Params { len: u32, from_word: u32, to_word: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;          // from_word + len words
@group(0) @binding(2) var<storage, read_write> y: array<u32>;    // to_word + len words

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        y[p.to_word + i] = x[p.from_word + i];
    }
}
