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

// Abramowitz and Stegun 7.1.26 is good to 1.5e-7; for |x| < 1 the Taylor series keeps the relative accuracy near 0.
fn erf(x: f32) -> f32 {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    let tail = 1.0 - poly * exp(-a * a);
    let s = x * x;
    let series = x * 1.1283791671 * (1.0 + s * (-0.3333333333 + s * (0.1 + s * (-0.0238095238 + s * (0.0046296296
        + s * (-0.00075757576 + s * (0.00010683761 + s * (-0.0000132275132 + s * 0.00000145891690))))))));
    return select(select(-tail, tail, x >= 0.0), series, a < 0.9);
}
