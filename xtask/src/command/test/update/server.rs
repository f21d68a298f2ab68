//! A web server for bundles: RAUC asks it for pieces (RFC 9110, section 14).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the card's management network has this host (QEMU's user network).
pub const HOST: &str = "10.0.2.2";

/// It serves until the process ends.
pub struct Server {
    port: u16,
}

impl Server {
    /// Serves the files of a folder on this machine's loopback.
    pub fn start(folder: &Path) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("serving the bundles")?;
        let port = listener.local_addr()?.port();
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let folder = folder.clone();
                // One that hangs up has what it wanted.
                std::thread::spawn(move || serve(&stream, &folder).ok());
            }
        });
        Ok(Self { port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, folder: &Path) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut range = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            match header.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("range") => range = bounds(value),
                Some(_) => {}
                None => break,
            }
        }
        let mut words = line.split_whitespace();
        let (method, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        answer(
            stream,
            method == "HEAD",
            &folder.join(PathBuf::from(name).file_name().unwrap_or_default()),
            range,
        )?;
    }
}

/// `bytes=FIRST-LAST`, where the last may be left out.
fn bounds(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

fn answer(
    mut stream: &TcpStream,
    only_head: bool,
    path: &Path,
    range: Option<(u64, Option<u64>)>,
) -> Result<()> {
    let Ok(mut file) = File::open(path) else {
        return Ok(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?);
    };
    let size = file.metadata()?.len();
    let (first, last) = range.unwrap_or((0, None));
    let last = last.unwrap_or(u64::MAX).min(size.saturating_sub(1));
    let many = (last + 1).saturating_sub(first);
    let status = if range.is_some() {
        format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}")
    } else {
        "200 OK".to_owned()
    };
    write!(stream, "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {many}\r\n\r\n")?;
    if !only_head {
        file.seek(SeekFrom::Start(first))?;
        std::io::copy(&mut file.take(many), &mut stream)?;
    }
    Ok(())
}
