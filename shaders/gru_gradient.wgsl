// Gradients of the recurrence, from a sequence's last row to its first: towards the inputs of every row and the first state. A
// workgroup owns a sequence, a lane every 64th unit.
//include grid
struct Params { sequences: u32, rows: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> gates: array<f32>;            // (rows, 4 HIDDEN): r, z, n, q or m
@group(0) @binding(2) var<storage, read> previous: array<f32>;         // (rows, HIDDEN)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;       // (sequences + 1)
@group(0) @binding(4) var<storage, read> u: array<f32>;                // (3 HIDDEN, HIDDEN); BEFORE: (HIDDEN, 2 HIDDEN)
@group(0) @binding(5) var<storage, read> c: array<f32>;                // BEFORE: (HIDDEN, HIDDEN)
@group(0) @binding(6) var<storage, read> dy: array<f32>;               // (rows, HIDDEN)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;         // (rows, 3 HIDDEN)
@group(0) @binding(8) var<storage, read_write> dh0: array<f32>;        // (sequences, HIDDEN); dh_n on entry

var<workgroup> dh: array<f32, HIDDEN>;
// dr, dz, and what the candidate's weights are multiplied by.
var<workgroup> d: array<f32, 3u * HIDDEN>;
var<workgroup> dm: array<f32, HIDDEN>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups behind the last sequence have no rows, and leave its first state alone.
    let inside = flat_group(group) < p.sequences;
    let s = min(flat_group(group), p.sequences - 1u);
    let end = cu_seqlens[s + 1u];
    let first = select(end, cu_seqlens[s], inside);
    if (inside) {
        for (var j = lane; j < HIDDEN; j += 64u) {
            dh[j] = dh0[s * HIDDEN + j];
        }
    }
    workgroupBarrier();
    for (var back = 0u; back < end - first; back += 1u) {
        let row = end - 1u - back;
        let at = row * 4u * HIDDEN;
        for (var j = lane; j < HIDDEN; j += 64u) {
            let r = gates[at + j];
            let z = gates[at + HIDDEN + j];
            let n = gates[at + 2u * HIDDEN + j];
            dh[j] += dy[row * HIDDEN + j];
            let dn = dh[j] * (1.0 - z) * (1.0 - n * n);
            d[HIDDEN + j] = dh[j] * (previous[row * HIDDEN + j] - n) * z * (1.0 - z);
            d[j] = dn * gates[at + 3u * HIDDEN + j] * r * (1.0 - r);
            d[2u * HIDDEN + j] = select(dn * r, dn, BEFORE == 1u);
            dx[row * 3u * HIDDEN + 2u * HIDDEN + j] = dn;
        }
        workgroupBarrier();
        if (BEFORE == 1u) {
            for (var j = lane; j < HIDDEN; j += 64u) {
                var sum = 0.0;
                for (var k = 0u; k < HIDDEN; k += 1u) {
                    sum += d[2u * HIDDEN + k] * c[j * HIDDEN + k];
                }
                let r = gates[at + j];
                dm[j] = sum;
                d[j] = sum * previous[row * HIDDEN + j] * r * (1.0 - r);
            }
            workgroupBarrier();
        }
        for (var j = lane; j < HIDDEN; j += 64u) {
            var sum = 0.0;
            if (BEFORE == 1u) {
                sum = dm[j] * gates[at + j];
                for (var k = 0u; k < 2u * HIDDEN; k += 1u) {
                    sum += d[k] * u[j * 2u * HIDDEN + k];
                }
            } else {
                for (var k = 0u; k < 3u * HIDDEN; k += 1u) {
                    sum += d[k] * u[k * HIDDEN + j];
                }
            }
            dh[j] = dh[j] * gates[at + HIDDEN + j] + sum;
            dx[row * 3u * HIDDEN + j] = d[j];
            dx[row * 3u * HIDDEN + HIDDEN + j] = d[HIDDEN + j];
        }
        workgroupBarrier();
    }
    if (inside) {
        for (var j = lane; j < HIDDEN; j += 64u) {
            dh0[s * HIDDEN + j] = dh[j];
        }
    }
    // Inert rows are nobody's: the last workgroup clears them.
    if (inside && s == p.sequences - 1u) {
        for (var i = end * 3u * HIDDEN + lane; i < p.rows * 3u * HIDDEN; i += 64u) {
            dx[i] = 0.0;
        }
    }
}
