//! A stand-in for a git server: this machine's own `git http-backend` behind a small HTTP server, or the
//! repository's files alone ("dumb" HTTP).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// How a server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Smart,
    /// Files alone: no shallow fetch, no single commits.
    Dumb,
    /// Wants the password `secret`.
    Private,
    /// Breaks off the n-th answer that carries objects, counted from 1, after half of it; then is good.
    CutOnce(usize),
    /// Breaks off every answer that carries objects from the n-th on.
    CutFrom(usize),
}

pub struct StandInServer {
    pub address: String,
    /// For each request for objects, how many were wanted.
    pub wants: Arc<Mutex<Vec<usize>>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

impl StandInServer {
    /// Serves the repositories of a folder.
    pub fn new(folder: &Path, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let wants = Arc::<Mutex<Vec<usize>>>::default();
        let (seen, folder) = (wants.clone(), folder.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, folder) = (seen.clone(), folder.clone());
                std::thread::spawn(move || answer(stream.unwrap(), &folder, manner, &seen));
            }
        });
        Self { address, wants }
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut request = Request { method, path: path.into(), query: query.into(), headers, body: Vec::new() };
    if request.header("Transfer-Encoding") == "chunked" {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            request.body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else {
        request.body = vec![0; request.header("Content-Length").parse().unwrap_or(0)];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

fn answer(mut stream: TcpStream, folder: &Path, manner: Manner, seen: &Mutex<Vec<usize>>) {
    let Some(request) = read(&stream) else { return };
    // `Basic me:secret`
    if manner == Manner::Private && request.header("Authorization") != "Basic bWU6c2VjcmV0" {
        let head = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        return;
    }
    if manner == Manner::Dumb {
        let path: PathBuf = folder.join(request.path.trim_start_matches('/'));
        let (status, body) = match std::fs::read(path) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 No", Vec::new()),
        };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(&[head.into_bytes(), body].concat());
        return;
    }
    let (head, body) = backend(&request, folder);
    let wanted = wants(&request);
    let mut body = body.as_slice();
    if wanted > 0 {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(wanted);
            seen.len()
        };
        let is_cut = match manner {
            Manner::CutOnce(at) => number == at,
            Manner::CutFrom(from) => number >= from,
            _ => false,
        };
        if is_cut {
            body = &body[..body.len() / 2];
        }
    }
    let status = head.iter().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let fields: Vec<_> =
        head.iter().filter(|line| !line.starts_with("Status: ")).map(String::as_str).collect();
    // Without a length the answer ends with the connection, so chunks tell an end from a break.
    let text = format!(
        "HTTP/1.1 {status}\r\n{}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        fields.join("\r\n")
    );
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.write_all(format!("{:x}\r\n", body.len()).as_bytes());
    let _ = stream.write_all(body);
    let is_whole =
        wanted == 0 || body.is_empty() || !matches!(manner, Manner::CutOnce(_) | Manner::CutFrom(_));
    let is_whole = is_whole || body.len() == whole_length(body);
    let _ = stream.write_all(if is_whole { b"\r\n0\r\n\r\n" } else { b"" });
}

/// A stream of packets (gitprotocol-common) that was not cut ends with a flush.
fn whole_length(body: &[u8]) -> usize {
    if body.ends_with(b"0000") { body.len() } else { 0 }
}

/// How many objects a request for a pack wants.
fn wants(request: &Request) -> usize {
    if !request.path.ends_with("/git-upload-pack") {
        return 0;
    }
    let mut body = Vec::new();
    if request.header("Content-Encoding") == "gzip" {
        flate2::read::GzDecoder::new(&request.body[..]).read_to_end(&mut body).unwrap();
    } else {
        body.clone_from(&request.body);
    }
    body.windows(5).filter(|bytes| bytes == b"want ").count()
}

/// The CGI program of git (git-http-backend(1)): its head, line by line, and its body.
fn backend(request: &Request, folder: &Path) -> (Vec<String>, Vec<u8>) {
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", folder.join("server.config"))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", &request.path)
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("Content-Type"))
        .env("HTTP_CONTENT_ENCODING", request.header("Content-Encoding"))
        .env("GIT_PROTOCOL", request.header("Git-Protocol"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("git is needed to run the tests");
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    std::thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().unwrap().stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).lines().map(str::to_owned).collect();
    (head, output.get(end + 4..).unwrap_or_default().to_vec())
}
