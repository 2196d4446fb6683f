// softplus(rho) + 0.001: a weight that stays above 0.
fn learned_weight(rho: f32) -> f32 {
    return max(rho, 0.0) + log(1.0 + exp(-min(abs(rho), 80.0))) + 0.001;
}
