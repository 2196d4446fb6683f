// What the attention kernels ask of a row, gathered once: where its sequence starts and ends, its logical sequence and
// position, its flags. info[0] holds the random state; info[1 + row] = (start, end, sequence, position << 2 | flags).
//include grid
struct Params { rows: u32, sequences: u32, has_flags: u32, has_keys: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> cu_seqlens: array<u32>;             // (sequences + 1)
@group(0) @binding(2) var<storage, read> row_flags: array<u32>;              // (rows) when has_flags
@group(0) @binding(3) var<storage, read> rng: array<u32>;                    // (4) when has_keys
@group(0) @binding(4) var<storage, read> row_keys: array<u32>;               // (rows, 2) when has_keys
@group(0) @binding(5) var<storage, read_write> info: array<vec4<u32>>;       // (1 + rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    let keyed = p.has_keys == 1u;
    if (row == 0u) {
        let at = select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), keyed);
        info[0] = vec4<u32>(rng[at.x], rng[at.y], rng[at.z], rng[at.w]);
    }
    if (row < p.rows) {
        // The number of borders at or before the row; equal borders (empty sequences) are passed together.
        var low = 0u;
        var high = p.sequences + 1u;
        while (low < high) {
            let middle = (low + high) / 2u;
            if (cu_seqlens[middle] <= row) {
                low = middle + 1u;
            } else {
                high = middle;
            }
        }
        // An inert row is an empty range at the outermost border, so that ranges ascend over all rows.
        let start = cu_seqlens[max(low, 1u) - 1u];
        let end = cu_seqlens[min(low, p.sequences)];
        let flags = select(1u, row_flags[select(0u, row, p.has_flags == 1u)] & 3u, p.has_flags == 1u);
        let sequence = select(0u, row_keys[select(0u, 2u * row, keyed)], keyed);
        let position = select(0u, row_keys[select(0u, 2u * row + 1u, keyed)], keyed);
        info[1u + row] = vec4<u32>(start, end, sequence, (position << 2u) | flags);
    }
}
