pub mod engine;
pub mod error;
pub mod ops;
pub mod data;
pub mod eval;
pub mod verify;
pub use error::{Error, Result};
