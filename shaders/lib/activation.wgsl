// An activation and its slope; KIND counts as enum Activation does. Wants `math`.
const RELU = 0u;
const GELU = 1u;
const GELU_TANH = 2u;
const SILU = 3u;
const SIGMOID = 4u;
const TANH = 5u;

// The argument of the logistic function in gelu_tanh, and its derivative. Outside +-10 both ends are reached.
fn gelu_argument(x_in: f32) -> vec2<f32> {
    let x = clamp(x_in, -10.0, 10.0);
    return 1.5957691216 * vec2<f32>(x + 0.044715 * x * x * x, 1.0 + 0.134145 * x * x);
}

fn normal_distribution(x: f32) -> f32 {
    return 0.5 + 0.5 * erf(x * 0.70710678119);
}

fn logistic_slope(x: f32) -> f32 {
    let e = exp(-abs(x));
    return e / ((1.0 + e) * (1.0 + e));
}

fn activation_value(x: f32) -> f32 {
    switch KIND {
        case RELU: { return max(x, 0.0); }
        case GELU: { return x * normal_distribution(x); }
        case GELU_TANH: { return x * sigmoid(gelu_argument(x).x); }
        case SILU: { return x * sigmoid(x); }
        case SIGMOID: { return sigmoid(x); }
        case TANH: { return safe_tanh(x); }
        default: { return softplus(x); }
    }
}

fn activation_slope(x: f32) -> f32 {
    switch KIND {
        case RELU: { return select(0.0, 1.0, x > 0.0); }
        case GELU: {
            let near = clamp(x, -12.0, 12.0);
            return normal_distribution(x) + near * 0.3989422804 * exp(-0.5 * near * near);
        }
        case GELU_TANH: {
            let u = gelu_argument(x);
            return sigmoid(u.x) + clamp(x, -10.0, 10.0) * u.y * logistic_slope(u.x);
        }
        case SILU: { return sigmoid(x) + x * logistic_slope(x); }
        case SIGMOID: { return logistic_slope(x); }
        case TANH: { return 4.0 * logistic_slope(2.0 * x); }
        default: { return sigmoid(x); }
    }
}
