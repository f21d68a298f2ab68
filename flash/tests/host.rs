//! This machine's end, as its flags ask for it: an address that an interface is lent, a TFTP server that there is, and a
//! command that starts the card anew; and Ctrl-C.

mod stand_in;

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use async_tftp::server::TftpServerBuilder;
use dpukit_flash::board::Board;
use dpukit_flash::pieces::Image;
use dpukit_flash::u_boot::UBoot;
use dpukit_flash::watch::Silent;
use dpukit_flash::{hint, network, session, system};
use rustix::process::{Pid, Signal};
use stand_in::{Card, Fault, image};

const INSIDE: &str = "DPUKIT_FLASH_TEST_INSIDE";
const MIB: usize = 1 << 20;

/// Whether this process has a network of its own. If not, runs the test of this name again in one, and fails as it fails.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(rustix::process::geteuid().is_root(), "this test makes a network namespace: run it as root");
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("`unshare` of util-linux is needed");
    // A name that no test has would end well, too.
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && passed, "{output:?}");
    false
}

fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().expect("`ip` of iproute2 is needed");
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn board() -> Board {
    let text = include_str!("../boards/virt.toml")
        .replace("silent = 120", "silent = 2")
        .replace("silent = 20", "silent = 1")
        .replace("host = \"10.0.2.2\"", "host = \"127.0.0.1\"");
    Board::parse(&text).unwrap()
}

fn refusal(terms: &network::Terms) -> String {
    hint::report(&network::prepare(&board(), terms, false).unwrap_err())
}

#[test]
#[ignore = "needs root, for a network namespace"]
fn an_interface_has_the_address_for_as_long_as_the_card_is_flashed() {
    if !inside("an_interface_has_the_address_for_as_long_as_the_card_is_flashed") {
        return;
    }
    ip("link add card0 type veth peer name card1");
    let terms = network::Terms {
        host_interface: Some("card0".into()),
        host_address: Some("192.168.7.1/24".parse().unwrap()),
        ..network::Terms::default()
    };
    let lent = network::prepare(&board(), &terms, false).unwrap();
    let shown = ip("-4 address show dev card0");
    assert!(shown.contains("inet 192.168.7.1/24") && !shown.contains("valid_lft forever"), "{shown}");
    drop(lent);
    assert_eq!(ip("-4 address show dev card0"), "");

    // A dry run touches nothing here either.
    let _dry = network::prepare(&board(), &terms, true).unwrap();
    assert_eq!(ip("-4 address show dev card0"), "");

    let wrong = network::Terms { host_interface: Some("card2".into()), ..terms.clone() };
    let said = refusal(&wrong);
    assert!(
        said.contains("Cannot find device \"card2\"") && said.contains("hint: that takes root"),
        "{said}"
    );
    let wrong = network::Terms { host_address: Some("192.168.7.1".parse().unwrap()), ..terms };
    assert!(refusal(&wrong).contains("needs `--host-address` with its length"));
}

#[test]
#[ignore = "needs root, for the port of TFTP in a network namespace"]
fn a_server_that_there_is_gives_the_pieces_and_keeps_none() {
    if !inside("a_server_that_there_is_gives_the_pieces_and_keeps_none") {
        return;
    }
    ip("link set dev lo up");
    let folder = tempfile::tempdir().unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 69)).unwrap();
    let given = folder.path().to_owned();
    std::thread::spawn(move || {
        futures_lite::future::block_on(async {
            let server = TftpServerBuilder::with_dir_ro(&given)?.std_socket(socket)?.build().await?;
            server.serve().await
        })
    });
    let source = tempfile::NamedTempFile::new().unwrap();
    image(source.path(), 7);
    let content = fs::read(source.path()).unwrap();

    let (card, board) = (Card::virt(7 * MIB), board());
    let running = card.start();
    let terms = network::Terms {
        server: Some((Ipv4Addr::LOCALHOST, folder.path().to_owned())),
        ..network::Terms::default()
    };
    let mut u_boot = UBoot::new(running.console(), &board, board.baud).unwrap();
    u_boot.interrupt().unwrap();
    let prepared = network::prepare(&board, &terms, false).unwrap();
    let mut network = network::up(&mut u_boot, prepared, &terms, &Silent).unwrap();
    assert_eq!(network.port(), None);
    let source = Image::open(source.path()).unwrap();
    system::flash(&mut u_boot, &mut network, &board.storage["emmc"], &source, &Silent).unwrap();
    drop((network, u_boot));
    running.end();
    assert!(card.disk.lock().unwrap()[..content.len()] == content);
    assert!(!card.heard.lock().unwrap().iter().any(|line| line.contains("tftpdstp")));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a piece was left behind");
}

#[test]
fn a_servers_folder_that_is_not_there_is_told_before_the_card_is_touched() {
    let terms = network::Terms {
        server: Some((Ipv4Addr::LOCALHOST, "/nowhere/at/all".into())),
        ..network::Terms::default()
    };
    assert!(refusal(&terms).contains("writing into the TFTP server's folder `/nowhere/at/all`"));
}

/// Has the card started by a command; where it went wrong, what is told.
fn start(card: &Card, command: String) -> Result<(), String> {
    let (running, board) = (card.start(), board());
    let terms = session::Terms {
        reset_command: Some(command),
        patience: Duration::from_secs(5),
        ..session::Terms::default()
    };
    let started = session::start(running.console(), &board, board.baud, &terms, &Silent);
    let told = started.map(drop).map_err(|error| hint::report(&error));
    running.end();
    told
}

#[test]
fn a_card_that_is_off_is_switched_on_by_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let switch = folder.path().join("on");
    let mut card = Card::virt(MIB);
    card.switch = Some(switch.clone());
    start(&card, format!("touch {}", Path::new(&switch).display())).unwrap();

    card.switch = Some(folder.path().join("never"));
    let said = start(&card, "exit 3".into()).unwrap_err();
    assert!(said.contains("`exit 3` ended with exit status: 3"), "{said}");
}

/// Runs the program itself on a card, to its end or to Ctrl-C once the card has heard that many commands.
fn run(card: &Card, bundle: &Path, stops_after: Option<usize>) -> Output {
    let socket = bundle.join("console");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dpukit-flash"));
    command.args(["--board", "virt", "--no-boot", "--wait", "5", "--bundle"]).arg(bundle);
    command.arg("--console").arg(format!("unix:{}", socket.display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut running = None;
    let is_there = || stops_after.is_some_and(|count| card.heard.lock().unwrap().len() >= count);
    while child.try_wait().unwrap().is_none() && !is_there() {
        if let Ok((console, _)) = listener.accept() {
            console.set_nonblocking(false).unwrap();
            running = Some(card.on(console));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if stops_after.is_some() {
        let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::INT);
    }
    let output = child.wait_with_output().unwrap();
    running.expect("the program opens the console").end();
    output
}

#[test]
fn ctrl_c_leaves_no_half_of_a_system_and_the_next_run_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dpukit-virt-1.img");
    image(&path, 7);
    let text = include_str!("../boards/virt.toml").replace("host = \"10.0.2.2\"", "host = \"127.0.0.1\"");
    fs::write(folder.path().join("flash.toml"), text.replace("piece = 0x100_0000", "piece = 0x20_0000"))
        .unwrap();

    // At its second write it says no more, so that the program is in the middle of it when it is stopped.
    let whole = Card::virt(7 * MIB);
    let done = run(&whole, folder.path(), None);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let heard = whole.heard.lock().unwrap().clone();
    let writes = heard.iter().enumerate().filter(|(_, line)| line.starts_with("mmc write"));
    let at = writes.map(|(at, _)| at).nth(1).unwrap();
    let mut card = Card::virt(7 * MIB);
    card.fault = Some((at, Fault::Silent));

    let stopped = run(&card, folder.path(), Some(at + 1));
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped by Ctrl-C"), "{said}");
    assert!(!card.has_table(), "a system that is not whole could be started");

    card.fault = None;
    card.heard.lock().unwrap().clear();
    let done = run(&card, folder.path(), None);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let content = fs::read(&path).unwrap();
    assert!(card.disk.lock().unwrap()[..content.len()] == content);
}
