// The window of taps that ends at each row of a packed sequence, one element per thread; zeros before its start.
//include grid
//include sequences
struct Params { len: u32, width: u32, sequences: u32, taps: u32, dilation: u32, by_column: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // (rows, width)
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;    // (sequences + 1)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;       // (rows, taps * width), len elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / (p.taps * p.width);
        let place = i % (p.taps * p.width);
        let k = select(place / p.width, place % p.taps, p.by_column == 1u);
        let d = select(place % p.width, place / p.taps, p.by_column == 1u);
        let back = (p.taps - 1u - k) * p.dilation;
        let sequence = sequence_of(row, p.sequences);
        let inside = sequence < p.sequences && row >= cu_seqlens[min(sequence, p.sequences)] + back;
        y[i] = select(0.0, x[select(0u, row - back, inside) * p.width + d], inside);
    }
}
