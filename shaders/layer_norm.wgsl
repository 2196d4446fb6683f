// sum = residual + dropout(x); y = LayerNorm(sum). A thread owns a row: rows are 64 to 256 wide, too short for a tree.
//include grid
//include philox
struct Params { rows: u32, width: u32, eps: f32, site: u32, threshold: u32, keep_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (rows, width)
@group(0) @binding(2) var<storage, read> weight: array<f32>;       // (width)
@group(0) @binding(3) var<storage, read> bias: array<f32>;         // (width)
@group(0) @binding(4) var<storage, read> residual: array<f32>;     // (rows, width) when RESIDUAL
@group(0) @binding(5) var<storage, read> rng: array<u32>;          // (4) when DROPOUT
@group(0) @binding(6) var<storage, read> row_keys: array<u32>;     // (rows, 2): sequence, position
@group(0) @binding(7) var<storage, read_write> y: array<f32>;      // (rows, width)
@group(0) @binding(8) var<storage, read_write> sums: array<f32>;   // (rows, width) when SUM

fn summand(row: u32, column: u32) -> f32 {
    let i = row * p.width + column;
    var value = x[i];
    if (DROPOUT == 1u) {
        let state = vec4<u32>(rng[0], rng[1], rng[2], rng[3]);
        let word = rng_word(state, p.site, row_keys[2u * row], row_keys[2u * row + 1u], column);
        value = select(0.0, value * p.keep_scale, word >= p.threshold);
    }
    if (RESIDUAL == 1u) {
        value += residual[i];
    }
    return value;
}

fn summed(i: u32) -> f32 {
    if (SUM == 1u) {
        return sums[i];
    }
    return x[i];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let base = row * p.width;
        var mean = 0.0;
        for (var d = 0u; d < p.width; d += 1u) {
            let s = summand(row, d);
            if (SUM == 1u) {
                sums[base + d] = s;
            }
            mean += s;
        }
        mean /= f32(p.width);
        var variance = 0.0;
        for (var d = 0u; d < p.width; d += 1u) {
            let centred = summed(base + d) - mean;
            variance += centred * centred;
        }
        let rstd = 1.0 / sqrt(variance / f32(p.width) + p.eps);
        for (var d = 0u; d < p.width; d += 1u) {
            y[base + d] = (summed(base + d) - mean) * rstd * weight[d] + bias[d];
        }
    }
}
