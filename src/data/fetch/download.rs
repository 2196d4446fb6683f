//! Downloads that survive interruption: into `FILE.part`, with `FILE.part.from` beside it, which says what it is a part of.
//!
//! A part is continued with `Range` and `If-Range`, so that a server that cannot do so, or whose file has changed since,
//! answers with the whole file and the download starts over. Without an `ETag` or a date nothing proves that the file is
//! still the same, and a part is not continued. A part is overwritten when a server answers with the whole file, and not
//! before: one from another address outlives a server that has nothing to give.

use super::{Watcher, with_ending};
use crate::error::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Attempts in a row that bring nothing before a download is given up.
const ATTEMPTS: u32 = 5;
const CONNECT: Duration = Duration::from_secs(20);
/// Silence of a server after which the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(30);

/// One file to download.
pub struct Download<'a> {
    pub url: &'a str,
    pub part: &'a Path,
    /// The published size.
    pub bytes: Option<u64>,
    /// The wait before the second attempt; it doubles with each further one.
    pub pause: Duration,
}

/// Why an attempt ended early.
enum Trouble {
    /// May go away by itself.
    Passing(String),
    /// The server could not be reached at all.
    Unreachable(String),
    Lasting(Error),
}

impl Download<'_> {
    /// Brings the part up to the whole file, in as many attempts as it takes.
    pub fn run(&self, watcher: &mut dyn Watcher) -> Result<()> {
        let mut part = Part::open(self.part, self.url)?;
        if part.is_whole() {
            return Ok(());
        }
        let result = self.insist(&mut part, watcher);
        if result.is_err() {
            part.discard_if_empty();
        }
        result
    }

    fn insist(&self, part: &mut Part, watcher: &mut dyn Watcher) -> Result<()> {
        let agent = agent();
        let (mut connected, mut fruitless) = (false, 0);
        loop {
            let before = part.length;
            let why = match self.attempt(&agent, part, watcher) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Unreachable(why)) if !connected => return Err(self.unreachable(&why)),
                Err(Trouble::Unreachable(why)) => why,
                Err(Trouble::Passing(why)) => {
                    connected = true;
                    why
                }
            };
            fruitless = if part.length > before { 1 } else { fruitless + 1 };
            if fruitless >= ATTEMPTS {
                let problem = format!("the download of {} broke off {fruitless} times in a row: {why}", self.url);
                return Err(Error::usage(problem, format!("run the command again later; {}", part.state())));
            }
            let pause = self.pause * 2u32.pow(fruitless - 1);
            watcher.note(&format!("{why}; trying again in {} s", pause.as_secs_f32().ceil()));
            std::thread::sleep(pause);
        }
    }

    fn attempt(&self, agent: &Agent, part: &mut Part, watcher: &mut dyn Watcher) -> Result<(), Trouble> {
        let mut request = agent.get(self.url).header("Accept-Encoding", "identity");
        if part.can_go_on() {
            request = request.header("Range", format!("bytes={}-", part.length)).header("If-Range", &part.validator);
        }
        let mut response = request.call().map_err(|error| self.no_answer(error))?;
        let status = response.status().as_u16();
        let total = match status {
            206 if part.can_go_on() => part.total_of_range(header(&response, "content-range"))?,
            200 => length(&response),
            416 => {
                part.doubt();
                return Err(Trouble::Passing("the server has no more of the file than is here: starting over".into()));
            }
            _ => return Err(self.refused(status)),
        };
        if let (Some(published), Some(offered)) = (self.bytes, total)
            && published != offered
        {
            return Err(Trouble::Lasting(self.wrong_size(published, offered)));
        }
        if status == 200 {
            if part.length > 0 {
                watcher.note("the server's file has changed, or it cannot continue one: starting over");
            }
            part.restart(&validator(&response), total)?;
        }
        part.total = total;
        watcher.started(part.length, part.total);
        self.copy(response.body_mut(), part, watcher)
    }

    fn copy(&self, body: &mut Body, part: &mut Part, watcher: &mut dyn Watcher) -> Result<(), Trouble> {
        let mut reader = body.as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) if part.is_whole() || part.total.is_none() => return part.sync(),
                Ok(0) => return Err(Trouble::Passing("the connection was closed in the middle".into())),
                Ok(n) => part.append(&buffer[..n])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Passing(format!("the connection broke ({error})"))),
            }
            watcher.advanced(part.length);
        }
    }

    fn no_answer(&self, error: ureq::Error) -> Trouble {
        let why = error.to_string();
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => Trouble::Lasting(Error::usage(
                format!("`{}` is not an address: {why}", self.url),
                "--url takes one that begins with https:// or http://",
            )),
            ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => Trouble::Unreachable(why),
            ureq::Error::Io(error) => match error.kind() {
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof => {
                    Trouble::Passing(format!("the connection broke ({error})"))
                }
                _ => Trouble::Unreachable(why),
            },
            ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => Trouble::Passing(why),
            _ => Trouble::Unreachable(why),
        }
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::usage(
            format!("cannot reach {}: {why}", self.url),
            format!(
                "check the network (HTTPS_PROXY and ALL_PROXY are obeyed) and try again; {}",
                elsewhere(self.part, "a mirror")
            ),
        )
    }

    fn refused(&self, status: u16) -> Trouble {
        let problem = match status {
            404 | 410 => format!("there is no file at {} (the server answers {status})", self.url),
            401 | 403 => format!("the server does not give out {} (it answers {status})", self.url),
            408 | 429 | 500..=599 => return Trouble::Passing(format!("the server answers {status}")),
            _ => format!("the server answers {status} to {}", self.url),
        };
        Trouble::Lasting(Error::usage(
            problem,
            format!("it may have moved: {}", elsewhere(self.part, "its new address")),
        ))
    }

    fn wrong_size(&self, published: u64, offered: u64) -> Error {
        let problem = format!("{} is {offered} bytes, not the {published} that the manifest gives", self.url);
        Error::usage(
            problem,
            format!("it is another file, and was not downloaded; {}", elsewhere(self.part, "the right one")),
        )
    }
}

/// The two other ways to the file.
fn elsewhere(part: &Path, what: &str) -> String {
    let target = part.with_extension("");
    format!("--url takes {what}; or get the file another way and put it to {}: it is verified there", target.display())
}

fn agent() -> Agent {
    let version = concat!("gpurec/", env!("CARGO_PKG_VERSION"));
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(version)
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
        .build()
        .new_agent()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What `If-Range` takes: a strong `ETag`, else the date of the last change.
fn validator(response: &Response<Body>) -> String {
    match header(response, "etag") {
        tag if tag.starts_with('"') => tag.into(),
        _ => header(response, "last-modified").into(),
    }
}

fn length(response: &Response<Body>) -> Option<u64> {
    header(response, "content-length").parse().ok()
}

/// `FILE.part`, of which no other process writes a part at the same time.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    url: String,
    /// Proves on the next attempt that the server's file is the same; empty where the server gave none.
    validator: String,
    total: Option<u64>,
}

impl Part {
    fn open(path: &Path, url: &str) -> Result<Part> {
        let failed = |e| Error::io("write", path, e);
        let mut file = File::options().create(true).read(true).append(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem = format!("{} is being written by another gpurec", path.display());
                return Err(Error::usage(problem, "wait for it to finish"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Ok(()) => {}
        }
        let mut part = Part {
            path: path.into(),
            length: 0,
            url: url.into(),
            validator: String::new(),
            total: None,
            file: file.try_clone().map_err(failed)?,
        };
        let from = std::fs::read_to_string(from(path)).unwrap_or_default();
        if let [of, validator, total] = from.lines().collect::<Vec<_>>()[..]
            && of == url
        {
            part.length = file.seek(SeekFrom::End(0)).map_err(failed)?;
            part.validator = validator.into();
            part.total = total.parse().ok();
        }
        Ok(part)
    }

    fn is_whole(&self) -> bool {
        self.total == Some(self.length)
    }

    /// Whether a server can be asked for the rest.
    fn can_go_on(&self) -> bool {
        self.length > 0 && !self.validator.is_empty()
    }

    /// What is here does not fit what the server has: the next attempt asks for the whole file.
    fn doubt(&mut self) {
        self.validator.clear();
    }

    /// Begins anew with the file that the server sends.
    fn restart(&mut self, validator: &str, total: Option<u64>) -> Result<(), Trouble> {
        (self.length, self.validator, self.total) = (0, validator.into(), total);
        let total = total.map_or(String::new(), |total| total.to_string());
        let origin = format!("{}\n{validator}\n{total}\n", self.url);
        self.file.set_len(0).and_then(|()| std::fs::write(from(&self.path), origin)).map_err(|e| self.unwritable(e))
    }

    /// The size in `bytes START-END/TOTAL`, which must go on where the part ends, in a file of the same size.
    fn total_of_range(&mut self, range: &str) -> Result<Option<u64>, Trouble> {
        let (start, rest) = range.trim_start_matches("bytes ").split_once('-').unwrap_or_default();
        let total = rest.split_once('/').and_then(|(_, total)| total.parse().ok());
        if start.parse() == Ok(self.length) && (self.total.is_none() || self.total == total) {
            return Ok(total);
        }
        self.doubt();
        Err(Trouble::Passing(format!("the server continues with `{range}`, which does not fit: starting over")))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        self.file.write_all(bytes).map_err(|e| self.unwritable(e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Trouble> {
        self.file.sync_all().map_err(|e| self.unwritable(e))
    }

    /// Leaves no empty file behind. What an earlier run has brought stays.
    fn discard_if_empty(&self) {
        if self.file.metadata().is_ok_and(|file| file.len() == 0) {
            remove(&self.path);
        }
    }

    fn state(&self) -> String {
        match self.length {
            0 => "nothing of it is here yet".into(),
            length if self.can_go_on() => format!("it will go on from the {length} bytes in {}", self.path.display()),
            _ => "it will start over, since this server cannot continue a download".into(),
        }
    }

    fn unwritable(&self, error: std::io::Error) -> Trouble {
        Trouble::Lasting(match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                let missing =
                    self.total.map_or(String::new(), |total| format!("{} more bytes and ", total - self.length));
                Error::usage(
                    format!("there is no space left for {}: {error}", self.path.display()),
                    format!(
                        "{missing}room to unpack are needed: free some and run the command again, which goes on where it stopped; or choose another place with --out"
                    ),
                )
            }
            _ => Error::io("write", &self.path, error),
        })
    }
}

/// What `FILE.part` is a part of: its address, validator and size, a line each.
fn from(part: &Path) -> PathBuf {
    with_ending(part, ".from")
}

/// Removes the part and what is known of it.
pub fn remove(part: &Path) {
    drop(std::fs::remove_file(part));
    drop(std::fs::remove_file(from(part)));
}

/// The whole part takes its name.
pub fn finish(part: &Path, target: &Path) -> Result<()> {
    std::fs::rename(part, target).map_err(|e| Error::io("write", target, e))?;
    remove(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_reported_with_what_is_missing() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let (path, url, validator) = (PathBuf::from("file.part"), String::new(), String::new());
        let mut part = Part { path, file, length: 1000, url, validator, total: Some(5000) };
        let Err(Trouble::Lasting(error)) = part.append(&[0; 10]) else { panic!("it wrote") };
        assert!(error.to_string().contains("no space left for file.part"), "{error}");
        assert!(error.help().unwrap().contains("4000 more bytes"), "{:?}", error.help());
    }

    #[test]
    fn two_downloads_do_not_write_one_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.part");
        let _first = Part::open(&path, "").unwrap();
        let Err(error) = Part::open(&path, "") else { panic!("it opened") };
        assert!(error.to_string().contains("another gpurec"), "{error}");
    }
}
