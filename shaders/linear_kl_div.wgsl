// Folds a chunk of the student's and a teacher's logits into six running numbers per row; the last chunk gives the loss
// (the equations are in linear_kl_div.rs).
// A workgroup owns a row: 64 threads stride over the chunk, then trees.
//include grid
struct Params { rows: u32, len: u32, is_first: u32, is_last: u32, scale: f32, teacher: u32, sides: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> student: array<f32>;        // (rows, len)
@group(0) @binding(2) var<storage, read> teacher: array<f32>;        // (rows, len)
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;    // (rows, 6): both maxima, sums e^S, e^T, e^S - e^T, e^T x
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;     // (rows)
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;      // (rows, sides): student, teachers

var<workgroup> lanes: array<vec4<f32>, 64>;

// log(1 + d) for |d| < 1/4, keeping the relative accuracy.
fn log_1p(d: f32) -> f32 {
    let u = d / (2.0 + d);
    let u2 = u * u;
    return 2.0 * u * (1.0 + u2 * (1.0 / 3.0 + u2 * (1.0 / 5.0 + u2 * (1.0 / 7.0 + u2 / 9.0))));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let inside = flat_group(group) < p.rows;
    let row = select(0u, flat_group(group), inside);
    let base = row * p.len;
    var largest = vec4<f32>(-1e30);
    for (var i = lane; i < p.len; i += 64u) {
        largest = max(largest, vec4<f32>(student[base + i], teacher[base + i], -1e30, -1e30) * p.scale);
    }
    lanes[lane] = largest;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes[lane] = max(lanes[lane], lanes[lane + half]);
        }
        workgroupBarrier();
    }
    let before = select(vec2<f32>(stats[6u * row], stats[6u * row + 1u]), vec2<f32>(-1e30), p.is_first == 1u);
    // Rescaling costs accuracy: sums may grow until a logit is 30 above the maximum so far.
    let maxima = select(before, lanes[0].xy, lanes[0].xy > before + 30.0);
    workgroupBarrier();
    var sums = vec4<f32>(0.0);
    for (var i = lane; i < p.len; i += 64u) {
        let z = vec2<f32>(student[base + i], teacher[base + i]) * p.scale - maxima;
        let e = exp(z);
        sums += vec4<f32>(e.x, e.y, e.x - e.y, e.y * (z.x - z.y));
    }
    lanes[lane] = sums;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u && inside) {
        var total = lanes[0];
        if (p.is_first == 0u) {
            let rise = maxima - before;
            let shrink = exp(-rise);
            let sum_t = stats[6u * row + 3u];
            total.x += stats[6u * row + 2u] * shrink.x;
            total.y += sum_t * shrink.y;
            total.z += stats[6u * row + 4u] * shrink.x + sum_t * (shrink.x - shrink.y);
            total.w += (stats[6u * row + 5u] + sum_t * (rise.y - rise.x)) * shrink.y;
        }
        stats[6u * row] = maxima.x;
        stats[6u * row + 1u] = maxima.y;
        stats[6u * row + 2u] = total.x;
        stats[6u * row + 3u] = total.y;
        stats[6u * row + 4u] = total.z;
        stats[6u * row + 5u] = total.w;
        if (p.is_last == 1u) {
            let logs = log(total.xy);
            let close = abs(total.z) < 0.25 * total.y;
            loss[row] = select(logs.x - logs.y, log_1p(total.z / total.y), close) - total.w / total.y;
            lse[p.sides * row] = maxima.x + logs.x;
            lse[p.sides * row + 1u + p.teacher] = maxima.y + logs.y;
        }
    }
}
