// The state behind each sequence's last row, or its first state where it has none; one element per thread.
//include grid
struct Params { len: u32, hidden: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;             // (rows, hidden)
@group(0) @binding(2) var<storage, read> h0: array<f32>;            // (sequences, hidden), len elements
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;    // (sequences + 1)
@group(0) @binding(4) var<storage, read_write> h_n: array<f32>;     // (sequences, hidden)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let s = i / p.hidden;
        let end = cu_seqlens[s + 1u];
        let empty = end == cu_seqlens[s];
        h_n[i] = select(y[select(end - 1u, 0u, empty) * p.hidden + i % p.hidden], h0[i], empty);
    }
}
