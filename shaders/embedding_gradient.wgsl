// dtable[id] += sum of dy over the places of id; a thread owns one column of one segment.
//include grid
struct Params { n: u32, width: u32, first: u32, rows: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> segments: array<u32>;        // count, places (n), starts (n + 1), ids (n)
@group(0) @binding(2) var<storage, read> dy: array<f32>;              // (n, width)
@group(0) @binding(3) var<storage, read_write> dtable: array<f32>;    // (rows, width), rows first.. of the whole table

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    let segment = i / p.width;
    let column = i % p.width;
    if (segment < min(p.n, segments[0])) {
        let id = segments[2u * p.n + 2u + segment];
        if (id >= p.first && id - p.first < p.rows) {
            let at = (id - p.first) * p.width + column;
            var sum = dtable[at];
            let end = segments[p.n + 2u + segment];
            for (var place = segments[p.n + 1u + segment]; place < end; place += 1u) {
                sum += dy[segments[1u + place] * p.width + column];
            }
            dtable[at] = sum;
        }
    }
}
