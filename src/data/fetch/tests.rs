//! Fetching from a server on this machine that cuts connections, ignores ranges and changes its mind.

use super::*;
use crate::data::manifest::Presence;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

const OK: &str = "200 OK";

/// What the server sends to a request; `sent` bytes of the body, then it closes the connection.
struct Reply {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
    sent: usize,
}

impl Reply {
    fn new(status: &'static str, headers: impl Into<String>, body: &[u8]) -> Reply {
        Reply { status, headers: headers.into(), body: body.to_vec(), sent: body.len() }
    }

    fn cut(self, sent: usize) -> Reply {
        Reply { sent, ..self }
    }
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `reply` gets the number of the request, from 0, and its lines in lower case.
    fn new(reply: impl Fn(usize, &str) -> Reply + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(&stream).lines().map_while(|line| line.ok().filter(|line| !line.is_empty()));
                let request = lines.collect::<Vec<_>>().join("\n").to_lowercase();
                seen.lock().unwrap().push(request.clone());
                let Reply { status, headers, body, sent } = reply(i, &request);
                let head = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
                    body.len()
                );
                drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent])));
            }
        });
        Server { url, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A server as it should be: continues a file that has not changed.
fn with_ranges(request: &str, content: &[u8], etag: &str) -> Reply {
    let header = |name: &str| request.lines().find_map(|line| line.strip_prefix(name));
    let start: Option<usize> = header("range: bytes=").map(|range| range.trim_end_matches('-').parse().unwrap());
    match start.filter(|_| header("if-range: ") == Some(etag)) {
        Some(start) => {
            let range =
                format!("ETag: {etag}\r\nContent-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len());
            Reply::new("206 Partial Content", range, &content[start..])
        }
        None => Reply::new(OK, format!("ETag: {etag}\r\n"), content),
    }
}

struct Notes(Vec<String>);

impl Watcher for Notes {
    fn started(&mut self, _done: u64, _total: Option<u64>) {}
    fn advanced(&mut self, _done: u64) {}
    fn note(&mut self, message: &str) {
        self.0.push(message.into());
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * i % 251) as u8).collect()
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A set `toy` of sequences in one file; `source` are further lines of `[source]`.
fn toy(url: &str, source: &str) -> Manifest {
    parse(&format!(
        "access = \"download\"\nurl = \"{url}\"\nfile = \"toy.txt\"\n{source}\n[read]\nformat = \"sequences\""
    ))
}

fn parse(source: &str) -> Manifest {
    let head = "name = \"toy\"\ntitle = \"\"\npapers = []\nhomepage = \"home\"\ncitation = \"\"\nterms = \"not to be passed on\"";
    toml::from_str(&format!("{head}\n[source]\n{source}")).unwrap()
}

fn checked(content: &[u8]) -> String {
    format!("sha256 = \"{}\"\nbytes = {}", sha256(content), content.len())
}

fn fetch(dir: &TempDir, manifest: &Manifest) -> Result<Fetched> {
    let fetch = Fetch { data_dir: dir.path(), url: None, pause: Duration::ZERO };
    fetch.run(manifest, &mut Notes(Vec::new()))
}

fn message(result: Result<Fetched>) -> String {
    let error = result.unwrap_err();
    format!("{error}\n{}", error.help().unwrap_or_default())
}

fn files(dir: &TempDir) -> Vec<String> {
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_download_leaves_the_verified_file_and_nothing_else() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(200_000));
    let (served, manifest_of) = (content.clone(), checked(&content));
    let server = Server::new(move |_, request| with_ranges(request, &served, "\"a\""));
    let fetched = fetch(&dir, &toy(&server.url, &manifest_of)).unwrap();
    assert!(fetched.downloaded);
    assert_eq!(fetched.verified, [(dir.path().join("toy.txt"), Checked::Published("sha256", sha256(&content)))]);
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), content);
    assert_eq!(files(&dir), ["toy.txt"]);

    let again = fetch(&dir, &toy(&server.url, &manifest_of)).unwrap();
    assert!(!again.downloaded);
    assert_eq!(server.requests().len(), 1, "a file that is here is not downloaded again");
}

#[test]
fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, request| {
        let reply = with_ranges(request, &served, "\"a\"");
        if i < 2 { reply.cut(1000) } else { reply }
    });
    let fetched = fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), content);
    let requests = server.requests();
    assert!(!requests[0].contains("range"), "{requests:?}");
    assert!(requests[1].contains("range: bytes=1000-\n") && requests[1].contains("if-range: \"a\""), "{requests:?}");
    assert!(requests[2].contains("range: bytes=2000-\n"), "{requests:?}");
}

#[test]
fn a_later_run_goes_on_from_what_an_earlier_one_left() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, request| match i {
        0 => with_ranges(request, &served, "\"a\"").cut(1000),
        1..5 => Reply::new("503 Service Unavailable", "", b""),
        _ => with_ranges(request, &served, "\"a\""),
    });
    let manifest = toy(&server.url, &checked(&content));
    let message = message(fetch(&dir, &manifest));
    assert!(message.contains("answers 503") && message.contains("go on from the 1000 bytes"), "{message}");
    assert_eq!(files(&dir), ["toy.txt.part", "toy.txt.part.from"]);
    assert_eq!(std::fs::read(fetch(&dir, &manifest).unwrap().files[0].clone()).unwrap(), content);
    assert!(server.requests()[5].contains("range: bytes=1000-\n"));
}

#[test]
fn a_server_without_ranges_sends_the_file_again() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, _| {
        let reply = Reply::new(OK, "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\n", &served);
        if i == 0 { reply.cut(1000) } else { reply }
    });
    let fetched = fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), content);
    assert!(server.requests()[1].contains("range: bytes=1000-\n"));
}

#[test]
fn without_proof_that_the_file_is_the_same_nothing_is_continued() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, _| {
        let reply = Reply::new(OK, "ETag: W/\"weak\"\r\n", &served);
        if i == 0 { reply.cut(1000) } else { reply }
    });
    fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert!(!server.requests()[1].contains("range"), "{:?}", server.requests());
}

#[test]
fn a_file_that_changes_in_between_is_not_patched_together() {
    let (dir, old, new) = (tempfile::tempdir().unwrap(), content(5000), vec![7; 5000]);
    let served = new.clone();
    let server = Server::new(move |i, request| match i {
        0 => with_ranges(request, &old, "\"old\"").cut(1000),
        _ => with_ranges(request, &served, "\"new\""),
    });
    let fetched = fetch(&dir, &toy(&server.url, &checked(&new))).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), new);
}

#[test]
fn a_range_other_than_the_one_asked_for_is_not_appended() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, request| match i {
        0 => with_ranges(request, &served, "\"a\"").cut(1000),
        1 => Reply::new("206 Partial Content", "Content-Range: bytes 900-4999/5000\r\n", &served[900..]),
        _ => with_ranges(request, &served, "\"a\""),
    });
    let fetched = fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), content);
}

#[test]
fn a_part_from_another_address_is_not_continued() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    std::fs::write(dir.path().join("toy.txt.part"), [0; 1000]).unwrap();
    std::fs::write(dir.path().join("toy.txt.part.from"), "http://127.0.0.1:1/other\n\"a\"\n5000\n").unwrap();
    let served = content.clone();
    let server = Server::new(move |_, request| with_ranges(request, &served, "\"a\""));
    fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert!(!server.requests()[0].contains("range"));
}

#[test]
fn a_part_stays_until_another_address_sends_the_file() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let first = Server::new(move |i, request| match i {
        0 => with_ranges(request, &served, "\"a\"").cut(1000),
        1..5 => Reply::new("503 Service Unavailable", "", b""),
        _ => with_ranges(request, &served, "\"a\""),
    });
    let manifest = toy(&first.url, &checked(&content));
    message(fetch(&dir, &manifest));
    let kept = || ["toy.txt.part", "toy.txt.part.from"].map(|file| std::fs::read(dir.path().join(file)).unwrap());
    let before = kept();
    assert_eq!(before[0].len(), 1000);

    let gone = Server::new(|_, _| Reply::new("404 Not Found", "", b"no"));
    let busy = Server::new(|_, _| Reply::new("503 Service Unavailable", "", b""));
    let other = Server::new(|_, _| Reply::new(OK, "", &[0; 4999]).cut(0));
    let ranged = Server::new(|_, _| Reply::new("206 Partial Content", "Content-Range: bytes 0-4/5\r\n", b"12345"));
    for url in [&gone.url, &busy.url, &other.url, &ranged.url, "http://127.0.0.1:1/", "no address"] {
        let fetch = Fetch { data_dir: dir.path(), url: Some(url), pause: Duration::ZERO };
        message(fetch.run(&manifest, &mut Notes(Vec::new())));
        assert!(kept() == before, "{url} has nothing, and the part is not what it was");
    }
    assert!(other.requests().iter().all(|request| !request.contains("range")));
    assert_eq!(std::fs::read(fetch(&dir, &manifest).unwrap().files[0].clone()).unwrap(), content);
    assert!(first.requests()[5].contains("range: bytes=1000-\n"), "the first address goes on where it stopped");
}

#[test]
fn a_range_that_the_server_does_not_have_is_not_asked_for_again() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |i, request| match i {
        0 => with_ranges(request, &served, "\"a\"").cut(1000),
        1 => Reply::new("416 Range Not Satisfiable", "", b""),
        _ => with_ranges(request, &served, "\"a\""),
    });
    let fetched = fetch(&dir, &toy(&server.url, &checked(&content))).unwrap();
    assert_eq!(std::fs::read(&fetched.files[0]).unwrap(), content);
    assert!(!server.requests()[2].contains("range"), "{:?}", server.requests());
}

#[test]
fn a_wrong_checksum_is_refused_with_both_sums_and_the_name_stays_free() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let mut changed = content.clone();
    changed[4999] ^= 1;
    let found = sha256(&changed);
    let server = Server::new(move |_, request| with_ranges(request, &changed, "\"a\""));
    let message = message(fetch(&dir, &toy(&server.url, &checked(&content))));
    for part in [sha256(&content), found, dir.path().join("toy.txt.rejected").display().to_string()] {
        assert!(message.contains(&part), "`{part}` is not in:\n{message}");
    }
    assert_eq!(files(&dir), ["toy.txt.rejected"]);
}

#[test]
fn a_file_of_another_size_is_refused_before_it_is_downloaded() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let server = Server::new(move |_, _| Reply::new(OK, "", &[0; 4999]).cut(0));
    let message = message(fetch(&dir, &toy(&server.url, &checked(&content))));
    assert!(message.contains("is 4999 bytes, not the 5000"), "{message}");
    assert_eq!((files(&dir).len(), server.requests().len()), (0, 1));
}

#[test]
fn what_is_not_there_is_not_asked_for_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(|_, _| Reply::new("404 Not Found", "", b"no"));
    let (message, place) = (message(fetch(&dir, &toy(&server.url, ""))), dir.path().join("toy.txt"));
    for part in ["there is no file at", "--url", &format!("put it to {}: it is verified", place.display())] {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
    assert_eq!((files(&dir).len(), server.requests().len()), (0, 1));
}

#[test]
fn a_server_that_nobody_runs_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let message = message(fetch(&dir, &toy(&format!("http://{address}/file"), "")));
    assert!(message.contains("cannot reach") && message.contains("check the network"), "{message}");
}

#[test]
fn where_nobody_published_a_checksum_the_first_file_is_recorded_and_later_ones_compared() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let served = content.clone();
    let server = Server::new(move |_, request| with_ranges(request, &served, "\"a\""));
    let manifest = toy(&server.url, "");
    let first = fetch(&dir, &manifest).unwrap();
    assert_eq!(first.verified[0].1, Checked::Recorded { sha256: sha256(&content), first: true });
    let record = std::fs::read_to_string(dir.path().join("toy.txt.sha256")).unwrap();
    assert_eq!(record, format!("{}  toy.txt\n", sha256(&content)), "what `sha256sum -c` reads");
    let second = fetch(&dir, &manifest).unwrap();
    assert_eq!(second.verified[0].1, Checked::Recorded { sha256: sha256(&content), first: false });
    std::fs::write(dir.path().join("toy.txt"), "changed").unwrap();
    assert!(message(fetch(&dir, &manifest)).contains("recorded"));
    std::fs::write(dir.path().join("toy.txt.sha256"), format!("{}  toy.txt\n", sha256(b"other"))).unwrap();
    std::fs::remove_file(dir.path().join("toy.txt")).unwrap();
    assert!(message(fetch(&dir, &manifest)).contains("not the file that was first fetched here"));
    assert!(!dir.path().join("toy.txt").exists());
}

#[test]
fn a_file_that_somebody_put_into_place_is_verified_without_the_network() {
    let (dir, content) = (tempfile::tempdir().unwrap(), content(5000));
    let manifest = toy("http://127.0.0.1:1/", &checked(&content));
    std::fs::write(dir.path().join("toy.txt"), &content).unwrap();
    assert!(!fetch(&dir, &manifest).unwrap().downloaded);
    std::fs::write(dir.path().join("toy.txt"), &content[1..]).unwrap();
    assert!(message(fetch(&dir, &manifest)).contains("wrong size"));
    std::fs::write(dir.path().join("toy.txt"), vec![0; 5000]).unwrap();
    assert!(message(fetch(&dir, &manifest)).contains(&sha256(&content)));
}

#[test]
fn a_set_that_needs_a_person_says_what_to_do_until_its_file_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = parse("access = \"manual\"\nmembers = [\"events.csv\"]\ninstructions = \"log in\"");
    let place = dir.path().join("toy/events.csv");
    let message = message(fetch(&dir, &manifest));
    for part in ["not to be passed on", "home", "log in", &place.display().to_string()] {
        assert!(message.contains(part), "`{part}` is not in:\n{message}");
    }
    std::fs::create_dir(dir.path().join("toy")).unwrap();
    std::fs::write(&place, "1,2\n").unwrap();
    assert_eq!(manifest.presence(Some(dir.path())), Presence::Fetched(dir.path().join("toy")));
    let fetched = fetch(&dir, &manifest).unwrap();
    assert_eq!(fetched.verified, [(place, Checked::Recorded { sha256: sha256(b"1,2\n"), first: true })]);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let fetch = Fetch { data_dir: &dir.path().join("file/data"), url: None, pause: Duration::ZERO };
    let message = message(fetch.run(&toy("http://127.0.0.1:1/", ""), &mut Notes(Vec::new())));
    assert!(message.contains("cannot make the folder") && message.contains("file/data"), "{message}");
}

/// An archive with clicks.dat, buys.dat (in a folder, where the format has folders) and a file that nobody wants.
fn archive(kind: &str) -> Vec<u8> {
    let content = [("in/readme.txt", "not wanted"), ("in/clicks.dat", "1,2,3\n1,2,4\n"), ("in/buys.dat", "1,2,4\n")];
    match kind {
        "zip" => {
            let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
            for (name, text) in content {
                zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                zip.write_all(text.as_bytes()).unwrap();
            }
            zip.finish().unwrap().into_inner()
        }
        "tar.gz" => {
            let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let mut tar = tar::Builder::new(gzip);
            for (name, text) in content {
                let mut header = tar::Header::new_gnu();
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
            tar.into_inner().unwrap().finish().unwrap()
        }
        _ => unreachable!(),
    }
}

#[test]
fn members_are_unpacked_flat_and_no_others() {
    for kind in ["zip", "tar.gz"] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::new(move |_, request| with_ranges(request, &archive(kind), "\"a\""));
        let manifest = parse(&format!(
            "access = \"download\"\nurl = \"{}\"\nfile = \"toy.{kind}\"\nmembers = [\"in/buys.dat\", \"in/clicks.dat\"]",
            server.url
        ));
        let fetched = fetch(&dir, &manifest).unwrap();
        let folder = dir.path().join("toy");
        assert_eq!(fetched.files, [folder.join("buys.dat"), folder.join("clicks.dat")]);
        assert_eq!(std::fs::read_to_string(folder.join("clicks.dat")).unwrap(), "1,2,3\n1,2,4\n", "{kind}");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 4, "{kind}: the archive, its checksum, two members");
        std::fs::remove_file(folder.join("buys.dat")).unwrap();
        fetch(&dir, &manifest).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("buys.dat")).unwrap(), "1,2,4\n", "{kind}");
    }
}

/// A 7z archive (LZMA2) with readme.txt, clicks.dat and buys.dat.
const SEVEN_ZIP: &[u8] = b"\
    7z\xbc\xaf'\x1c\x00\x04\xab!\xc0_\x93\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00;\x16\x12?\x01\x00\
    \x09not wanted\x00\x01\x00\x0b1,2,3\x0a1,2,4\x0a\x00\x01\x00\x051,2,4\x0a\x00\x00\x00\x813\x07\xaeO\x9fU\x0e\xc6\
    \xc6\x81\xf2\xe7\xd2nm\xaf/<\xe3\x87r\x9a\xde\xce:u!\xbb\xe3RJQ#2S\x11\xdf\xd8\x17H\x93 \xca\x19\xbf\xb0\x1d\xba\
    \xd2O\x22b\x8e\xea\x07\xfa\x0f\xe1a\xb7\xd7\xcc/w`\x00\xd6\xf1\xf9\xd4\xbb\x06\x5cL\xe0f\x1c\xe4\x8d\x8b>'\xd5\
    \x8d\xe7\xe2%*\x8b\xe1\x10r\x06\xd0H\xb4-j\xb7\x18\xdf\x1au \x17\x06(\x01\x09k\x0a\x01\xf5\x09\xc6\xf6\x00\x07\
    \x0b\x01\x00\x01#\x03\x01\x01\x05]\x00\x00\x80\x00\x0c\x80\x86\x00\x08\x0a\x01\xe5\xc8tv\x00\x00";

#[test]
fn seven_zip_and_gzip_are_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let members = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let archive = dir.path().join("toy.7z");
    std::fs::write(&archive, SEVEN_ZIP).unwrap();
    unpack::unpack(&archive, &members(&["buys.dat", "clicks.dat"]), dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("clicks.dat")).unwrap(), "1,2,3\n1,2,4\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("buys.dat")).unwrap(), "1,2,4\n");
    let archive = dir.path().join("toy.csv.gz");
    let mut gzip = flate2::write::GzEncoder::new(std::fs::File::create(&archive).unwrap(), flate2::Compression::fast());
    gzip.write_all(b"1,2\n").unwrap();
    gzip.finish().unwrap();
    unpack::unpack(&archive, &members(&["toy.csv"]), dir.path()).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("toy.csv")).unwrap(), "1,2\n");
}

#[test]
fn a_damaged_archive_leaves_no_member_behind() {
    for kind in ["zip", "tar.gz"] {
        let (dir, whole) = (tempfile::tempdir().unwrap(), archive(kind));
        let path = dir.path().join(format!("toy.{kind}"));
        std::fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
        let error = unpack::unpack(&path, &["in/buys.dat".into()], dir.path()).unwrap_err();
        assert!(error.to_string().contains("cannot be unpacked"), "{kind}: {error}");
        std::fs::write(&path, whole).unwrap();
        let error = unpack::unpack(&path, &["in/other.dat".into()], dir.path()).unwrap_err();
        assert!(error.to_string().contains("in/other.dat"), "{kind}: {error}");
        assert_eq!(files(&dir).len(), 1, "{kind}: {:?}", files(&dir));
    }
}
