// dx: the cotangent of a maximum goes to the row that has it; one element per thread.
//include grid
//include sequences
struct Params { len: u32, width: u32, sequences: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;            // (sequences, width)
@group(0) @binding(2) var<storage, read> row: array<u32>;           // (sequences, width)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;    // (sequences + 1)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;      // (rows, width), len elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let n = i / p.width;
        let sequence = sequence_of(n, p.sequences);
        let inside = sequence < p.sequences;
        let at = select(0u, sequence * p.width + i % p.width, inside);
        dx[i] = select(0.0, dy[at], inside && row[at] == n);
    }
}
