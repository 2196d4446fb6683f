// Partial sums over one block of rows of (loss_b - loss_a) (u - 1/2); a thread owns four features of the block.
//include grid
//include philox
struct Params { rows: u32, width: u32, block: u32, site: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> loss_a: array<f32>;           // (rows)
@group(0) @binding(2) var<storage, read> loss_b: array<f32>;           // (rows)
@group(0) @binding(3) var<storage, read> rng: array<u32>;              // (4); the bits of u (rows, width) when UNIFORMS
@group(0) @binding(4) var<storage, read> row_keys: array<u32>;         // (rows, 2): sequence, position
@group(0) @binding(5) var<storage, read_write> partial: array<f32>;    // (blocks, width)

fn given(row: u32, column: u32) -> f32 {
    return bitcast<f32>(rng[row * p.width + min(column, p.width - 1u)]);
}

fn uniforms(row: u32, column: u32) -> vec4<f32> {
    if (UNIFORMS == 1u) {
        return vec4<f32>(given(row, column), given(row, column + 1u), given(row, column + 2u), given(row, column + 3u));
    }
    let state = vec4<u32>(rng[0], rng[1], rng[2], rng[3]);
    let words = rng_block(state, p.site, row_keys[2u * row], row_keys[2u * row + 1u], column / 4u);
    return vec4<f32>(rng_uniform(words.x), rng_uniform(words.y), rng_uniform(words.z), rng_uniform(words.w));
}

fn put(base: u32, column: u32, value: f32) {
    if (column < p.width) {
        partial[base + column] = value;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let quads = (p.width + 3u) / 4u;
    let i = flat_group(group) * 64u + lane;
    let block = i / quads;
    let column = 4u * (i % quads);
    let first = block * p.block;
    if (first < p.rows) {
        var sum = vec4<f32>(0.0);
        for (var row = first; row < min(first + p.block, p.rows); row += 1u) {
            sum += (loss_b[row] - loss_a[row]) * (uniforms(row, column) - vec4<f32>(0.5));
        }
        let base = block * p.width;
        put(base, column, sum.x);
        put(base, column + 1u, sum.y);
        put(base, column + 2u, sum.z);
        put(base, column + 3u, sum.w);
    }
}
