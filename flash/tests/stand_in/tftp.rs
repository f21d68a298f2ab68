//! The card's end of TFTP (RFC 1350, 2348), with packets that are lost.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// Fetches a file from this machine; one of `loses` packets is lost, 0 for none.
pub fn fetch(port: u16, name: &str, loses: usize) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 1468;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(4)))?;
    let request = format!("\0\x01{name}\0octet\0blksize\0{BLOCK}\0");
    socket.send_to(request.as_bytes(), ("127.0.0.1", port))?;
    let (mut content, mut next, mut seen) = (Vec::new(), 1_u16, 0);
    loop {
        let mut packet = [0; 2048];
        let (count, from) = socket.recv_from(&mut packet)?;
        seen += 1;
        if loses > 0 && seen % loses == 0 {
            continue;
        }
        match packet[1] {
            6 => drop(socket.send_to(&[0, 4, 0, 0], from)?),
            3 => {
                if u16::from_be_bytes([packet[2], packet[3]]) == next {
                    content.extend(&packet[4..count]);
                    next = next.wrapping_add(1);
                }
                socket.send_to(&[0, 4, packet[2], packet[3]], from)?;
                if count < 4 + BLOCK {
                    return Ok(content);
                }
            }
            _ => return Err(io::Error::other(String::from_utf8_lossy(&packet[4..count]).into_owned())),
        }
    }
}
