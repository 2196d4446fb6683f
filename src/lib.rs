//! Sequential recommenders on any GPU and on plain CPUs: an engine with its own kernels and autodiff, and methods on it.
//!
//! The binary `gpurec` is the way most people use it. As a library:
//!
//! ```
//! use gpurec::data::Interactions;
//! use gpurec::engine::exec::DeviceChoice;
//! use gpurec::eval::Protocol;
//! use gpurec::train::Trainer;
//! use gpurec::{Result, methods};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<()> {
//! // Six users who walk through the items in the same order.
//! let sequences: Vec<Vec<u32>> = (1..=6).map(|first| (first..first + 8).collect()).collect();
//! let data = Arc::new(Interactions::from_sequences("walks", &sequences));
//!
//! let info = methods::find("sasrec")?;
//! let settings = ["dim=16", "epochs=2", "batch_size=3"].map(String::from);
//! let config = methods::config::resolve(info, None, None, &settings)?;
//! let method = (info.build)(&config, methods::Sizes::of(&data))?;
//!
//! let mut executor = DeviceChoice::Cpu.open(0)?;
//! let mut trainer = Trainer::new(method.as_ref(), data, 1, executor.as_mut(), None)?;
//! trainer.fit(executor.as_mut(), &mut ())?;
//! let evaluation = trainer.evaluate(executor.as_mut(), &mut ())?;
//! println!("{:?}", evaluation.metrics.test[Protocol::HistoryExcluded]);
//! # Ok(())
//! # }
//! ```
//!
//! `docs/design.md` says how the pieces fit.

#![warn(missing_docs)]

pub mod bench;
pub mod cli;
pub mod data;
pub mod engine;
pub mod error;
pub mod eval;
pub mod files;
pub mod methods;
pub mod nn;
pub mod ops;
pub mod settings;
pub mod train;
pub mod verify;

pub use error::{Error, Result};

/// The program of the README, which `cargo test --doc` runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
