// Functions whose built-in form is missing or unsafe on some backend.
fn safe_tanh(x: f32) -> f32 {
    return tanh(clamp(x, -15.0, 15.0));
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// log(1 + exp(x)) without overflow. log1p(e) as 2 artanh(e / (2 + e)) for small e keeps the relative accuracy.
fn softplus(x: f32) -> f32 {
    let e = exp(-abs(x));
    let t = e / (2.0 + e);
    let t2 = t * t;
    let series = 2.0 * t * (1.0 + t2 * (1.0 / 3.0 + t2 * (1.0 / 5.0 + t2 * (1.0 / 7.0 + t2 * (1.0 / 9.0 + t2 / 11.0)))));
    return max(x, 0.0) + series;
}

// Absolute error below 1.5e-7. From 0.9 on erf(a) = 1 - t P(t) exp(-a^2) with t = 1 / (1 + a / 2) and P fitted on
// [0.9, 4.2]; below, the Taylor series keeps the relative accuracy near 0. src/ops/activation.rs has the same function.
fn erf(x: f32) -> f32 {
    let a = min(abs(x), 10.0);
    let t = 1.0 / (1.0 + 0.5 * a);
    let poly = ((((-0.0975089744 * t + 0.0765048489) * t + 0.236380532) * t + 0.211442024) * t + 0.290653199) * t;
    let tail = 1.0 - t * (poly + 0.28132239) * exp(-a * a);
    let s = min(x * x, 1.0);
    let series = x * 1.1283791671 * (1.0 + s * (-0.3333333333 + s * (0.1 + s * (-0.0238095238 + s * (0.0046296296
        + s * (-0.00075757576 + s * (0.00010683761 + s * (-0.0000132275132 + s * 0.00000145891690))))))));
    return select(select(-tail, tail, x >= 0.0), series, a < 0.9);
}
