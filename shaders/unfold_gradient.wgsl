// dx: what each element of a row is in the windows behind it, one element per thread.
//include grid
//include sequences
struct Params { len: u32, width: u32, sequences: u32, taps: u32, dilation: u32, by_column: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;            // (rows, taps * width)
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;    // (sequences + 1)
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;      // (rows, width), len elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / p.width;
        let d = i % p.width;
        let sequence = sequence_of(row, p.sequences);
        let end = select(0u, cu_seqlens[min(sequence + 1u, p.sequences)], sequence < p.sequences);
        var sum = 0.0;
        for (var k = 0u; k < p.taps; k += 1u) {
            let from_row = row + (p.taps - 1u - k) * p.dilation;
            if (from_row < end) {
                let place = select(k * p.width + d, d * p.taps + k, p.by_column == 1u);
                sum += dy[from_row * p.taps * p.width + place];
            }
        }
        dx[i] = sum;
    }
}
