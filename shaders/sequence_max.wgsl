// The maximum of each column over the rows of a sequence, and the first row that has it; one per thread.
//include grid
struct Params { len: u32, width: u32, skip: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                  // (rows, width)
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;         // (sequences + 1)
@group(0) @binding(3) var<storage, read_write> largest: array<f32>;      // (sequences, width) = (len)
@group(0) @binding(4) var<storage, read_write> row: array<u32>;          // (sequences, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let first = cu_seqlens[i / p.width] + p.skip;
        let end = cu_seqlens[i / p.width + 1u];
        let f = i % p.width;
        var best = 0xffffffffu;
        var value = 0.0;
        for (var n = first; n < end; n += 1u) {
            let own = x[n * p.width + f];
            if (n == first || own > value) {
                value = own;
                best = n;
            }
        }
        largest[i] = value;
        row[i] = best;
    }
}
