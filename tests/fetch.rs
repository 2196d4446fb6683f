//! `gpurec data fetch` and what `list` and `show` say of sets that are not here, as a user meets them.

use assert_cmd::Command;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use tempfile::TempDir;

/// Runs for a user with an empty home folder; `data_dir` is GPUREC_DATA_DIR.
fn gpurec(home: &TempDir, data_dir: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
    command.current_dir(home.path()).args(arguments).env("HOME", home.path()).env_remove("XDG_DATA_HOME");
    match data_dir {
        Some(dir) => command.env("GPUREC_DATA_DIR", dir),
        None => command.env_remove("GPUREC_DATA_DIR"),
    };
    for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.output().unwrap()
}

fn succeeds(home: &TempDir, data_dir: Option<&Path>, arguments: &[&str]) -> String {
    let output = gpurec(home, data_dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code 2, and one message with all `parts`.
fn is_refused(home: &TempDir, data_dir: Option<&Path>, arguments: &[&str], parts: &[&str]) {
    let output = gpurec(home, data_dir, arguments);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    for part in [&["error: ", "help: "], parts].concat() {
        assert!(message.contains(part), "{arguments:?}: `{part}` is not in:\n{message}");
    }
}

/// Serves `content` to everyone who asks.
fn server(content: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines();
            lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            drop(write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{content}",
                content.len()
            ));
        }
    });
    url
}

#[test]
fn a_fetched_set_is_verified_as_far_as_can_be_and_the_next_command_is_named() {
    let home = tempfile::tempdir().unwrap();
    let (data, url) = (home.path().join("data"), server("u,i,5.0,1\n"));
    let fetch = ["data", "fetch", "amazon_musical_instruments", "--url", &url];
    let said = succeeds(&home, Some(&data), &fetch);
    assert!(said.contains("nobody published a checksum") && said.contains("sha256 is "), "{said}");
    assert!(said.ends_with("next: gpurec data prepare amazon_musical_instruments\n"), "{said}");
    let file = data.join("amazon_musical_instruments/ratings_Musical_Instruments.csv");
    assert_eq!(fs::read_to_string(file).unwrap(), "u,i,5.0,1\n");
    let again = succeeds(&home, Some(&data), &fetch);
    assert!(again.contains("already here") && again.contains("the same as when it was first seen"), "{again}");
    let list = succeeds(&home, Some(&data), &["data", "list"]);
    assert!(list.contains("to prepare"), "{list}");
    let elsewhere = succeeds(&home, None, &[&fetch[..], &["--out", "other"]].concat());
    assert!(
        elsewhere.ends_with("next: GPUREC_DATA_DIR=other gpurec data prepare amazon_musical_instruments\n"),
        "{elsewhere}"
    );
}

#[test]
fn a_fetched_set_is_prepared_beside_its_files_or_into_a_new_folder() {
    let home = tempfile::tempdir().unwrap();
    let (data, name) = (home.path().join("data"), "amazon_musical_instruments");
    fs::create_dir_all(data.join(name)).unwrap();
    let rows: String = (0..12).map(|row| format!("u{},i{},5.0,{row}\n", row % 2, row / 2)).collect();
    fs::write(data.join(name).join("ratings_Musical_Instruments.csv"), rows).unwrap();
    let prepare = |more: &[&'static str]| [&["data", "prepare", name][..], more].concat();
    let parts = ["says how its files are read, not --user-col", "leave --user-col away"];
    is_refused(&home, Some(&data), &prepare(&["--user-col", "3"]), &parts);
    fs::create_dir(home.path().join("full")).unwrap();
    fs::write(home.path().join("full/notes.txt"), "").unwrap();
    is_refused(&home, Some(&data), &prepare(&["--out", "full"]), &["full exists already"]);
    assert_eq!(fs::read_dir(home.path().join("full")).unwrap().count(), 1);
    let said = succeeds(&home, Some(&data), &prepare(&["--out", "a new one"]));
    let next = "next: gpurec data check 'a new one', gpurec run --dataset 'a new one'\n";
    assert!(said.ends_with(next), "{said}");
    let said = succeeds(&home, Some(&data), &prepare(&[]));
    assert!(said.ends_with(&format!("next: gpurec data check {name}, gpurec run --dataset {name}\n")), "{said}");
}

#[test]
fn a_file_that_is_not_the_published_one_never_takes_the_name() {
    let home = tempfile::tempdir().unwrap();
    let url = server("1 2 3 4\n");
    let parts = ["amazon_beauty", "8 bytes, not the 1090094"];
    is_refused(&home, None, &["data", "fetch", "amazon_beauty", "--out", "data", "--url", &url], &parts);
    assert_eq!(fs::read_dir(home.path().join("data")).unwrap().count(), 0);
}

#[test]
fn every_reason_why_a_set_cannot_be_fetched_is_one_message() {
    let home = tempfile::tempdir().unwrap();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}/");
    is_refused(
        &home,
        None,
        &["data", "fetch", "amazon_beuaty"],
        &["unknown data set", "did you mean `amazon_beauty`?"],
    );
    is_refused(
        &home,
        None,
        &["data", "fetch", "ml-100k", "--url", &url],
        &["cannot reach", "put it to", "ml-100k.zip"],
    );
    is_refused(&home, None, &["data", "fetch", "ml-100k", "--url", "nothing"], &["`nothing` is not an address"]);
    is_refused(
        &home,
        None,
        &["data", "fetch", "yelp"],
        &["academic", "yelp_academic_dataset_review.json", "run this command again"],
    );
    is_refused(&home, None, &["data", "fetch", "lrec-1b"], &["private"]);
    fs::write(home.path().join("file"), "").unwrap();
    is_refused(&home, None, &["data", "fetch", "ml-100k", "--out", "file"], &["cannot make the folder file/ml-100k"]);
}

#[test]
fn a_set_of_the_papers_that_is_not_here_is_known_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    assert!(succeeds(&home, None, &["data", "fetch", "kuairec"]).contains("gpurec run --dataset kuairec"));
    let list = succeeds(&home, None, &["data", "list"]);
    for part in ["kuairec", "bundled", "amazon_beauty", "to fetch", "retailrocket", "by hand", "lrec-1b", "private"] {
        assert!(list.contains(part), "`{part}` is not in:\n{list}");
    }
    let shown = succeeds(&home, None, &["data", "show", "retailrocket"]);
    for part in
        ["CC BY-NC-SA 4.0", "195,523 users, 70,852 items", "keep the events view, addtocart; then drop users", "SNQN"]
    {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    let run = ["run", "--method", "pop", "--dataset", "ml-1m"];
    is_refused(&home, None, &run, &["`ml-1m` is not on this machine", "gpurec data fetch ml-1m"]);
}
