// One row of one attention head in quads of columns. The including shader is compiled for a constant HEAD_DIM.
const QUADS = (HEAD_DIM + 3u) / 4u;

// The words of four neighbouring columns; columns behind the head's end repeat its last one.
fn words_at(base: u32, quad: u32) -> vec4<u32> {
    return vec4<u32>(base) + min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(HEAD_DIM - 1u));
}

fn inside(quad: u32) -> vec4<bool> {
    return vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(HEAD_DIM);
}
