//! The one error type. Every variant says what went wrong, where, and what to do about it.

use std::path::{Path, PathBuf};

/// What everything that can fail returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. `Display` gives the problem, `help` the remedy; the fields are the parts of these messages.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    /// A data file that cannot be used as it stands. `line` and `column` count from 1.
    #[error("{}:{line}:{column}: {problem}", path.display())]
    Data { path: PathBuf, line: usize, column: usize, problem: String, help: String },

    /// A name, key or value the user gave that does not exist or does not fit.
    #[error("{problem}")]
    Usage { problem: String, help: String },

    /// Reading or writing a file failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },

    /// A checkpoint or golden file whose content is not what it should be.
    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String },

    /// Shapes or types that an op does not accept; always a mistake in the building of a graph.
    #[error("{op}: {problem}")]
    Graph { op: String, problem: String },

    #[error("no GPU adapter {wanted}")]
    NoAdapter { wanted: String, help: String },

    /// One tensor or dispatch is larger than the adapter allows.
    #[error("{op}: {what} needs {needed} bytes, but this adapter allows {limit}")]
    AdapterLimit { op: String, what: String, needed: u64, limit: u64 },

    #[error("kernel {kernel} does not compile: {message}")]
    ShaderCompile { kernel: String, message: String },

    #[error("the device was lost while running {kernel}: {message}")]
    DeviceLost { kernel: String, message: String },

    #[error("out of device memory at {kernel}: {message}")]
    OutOfMemory { kernel: String, message: String },

    /// Training was asked to stop, and did so with a checkpoint.
    #[error("stopped as asked, after step {step}, in epoch {epoch}")]
    Interrupted { epoch: usize, step: u64 },

    /// A number that must be finite is not.
    #[error("{what} is not finite at step {step}")]
    NotFinite { what: String, step: u64 },
}

impl Error {
    /// `Error::Graph` of an op or a scope.
    pub fn graph(op: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Graph { op: op.into(), problem: problem.into() }
    }

    /// `Error::Usage`: what is wrong, and what to do.
    pub fn usage(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Error::Usage { problem: problem.into(), help: help.into() }
    }

    /// `Error::Io`; `doing` completes "cannot ... PATH".
    pub fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Error::Io { doing, path: path.to_owned(), source }
    }

    /// What the user can do about it, where there is something to say.
    pub fn help(&self) -> Option<String> {
        match self {
            Error::Data { help, .. } | Error::Usage { help, .. } | Error::NoAdapter { help, .. } => Some(help.clone()),
            Error::AdapterLimit { .. } => {
                Some("use a smaller batch (--set batch_size=...), or --device cpu, which has no such limit".into())
            }
            Error::DeviceLost { .. } => {
                Some("run again with --resume: training goes on from the last checkpoint; if it happens again, use --device cpu".into())
            }
            Error::OutOfMemory { .. } => {
                Some("use a smaller batch (--set batch_size=...), a smaller --set dim=..., or --device cpu".into())
            }
            Error::ShaderCompile { .. } => {
                Some("run `gpurec verify` and report its output with that of `gpurec devices`; --device cpu works meanwhile".into())
            }
            Error::Interrupted { .. } => Some("the same command with --resume goes on from here; nothing is lost".into()),
            Error::NotFinite { .. } => Some("lower the learning rate (--set learning_rate=...)".into()),
            Error::Io { source, .. } => Some(match source.kind() {
                std::io::ErrorKind::NotFound => "check the path".into(),
                std::io::ErrorKind::PermissionDenied => "check the permissions, or choose another place".into(),
                std::io::ErrorKind::StorageFull => "free some space; with --resume nothing that was completed is lost".into(),
                _ => "check the path and the disk".into(),
            }),
            Error::Format { .. } => Some("the file is damaged or of another kind; make it again".into()),
            Error::Graph { .. } => None,
        }
    }

    /// An unknown name, with the nearest valid one.
    pub fn unknown(kind: &str, given: &str, valid: &[&str]) -> Self {
        let nearest =
            valid.iter().max_by(|a, b| strsim::jaro_winkler(given, a).total_cmp(&strsim::jaro_winkler(given, b)));
        let help = match nearest {
            Some(name) if strsim::jaro_winkler(given, name) > 0.7 => {
                format!("did you mean `{name}`? valid: {}", valid.join(", "))
            }
            _ => format!("valid: {}", valid.join(", ")),
        };
        Error::usage(format!("unknown {kind} `{given}`"), help)
    }
}
