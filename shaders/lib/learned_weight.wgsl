// A weight that stays above 0; `math` is included before.
fn learned_weight(rho: f32) -> f32 {
    return softplus(rho) + 0.001;
}
