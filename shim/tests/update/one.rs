//! One card.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use crate::card::{Card, PROGRAM, read_until, until};

const BACK: &str = r#"{"good":{"A":"root-of-A"},"refused":
    {"slot":"B","version":"0.2.0","system":"root-of-B","reasons":["agent: it does not answer"]}}"#;

#[test]
fn help_teaches() {
    let help = Command::new(PROGRAM).args(["update", "--help"]).env_remove("COLUMNS").output().unwrap();
    insta::assert_snapshot!(String::from_utf8(help.stdout).unwrap(), @"
    Give the card another system, and wait until it says that it is good
    
    BUNDLE is a `.raucb` that was signed for the card, or `-` for one on standard input. The card has to
    be paired with this host. While it restarts, its pods have no network.
    
    Usage: dpu-host update [OPTIONS] <BUNDLE>
    
    Arguments:
      <BUNDLE>
              The bundle; `-` reads it from standard input
    
    Options:
          --no-restart
              Install only: the card starts the new system when it is restarted next
    
          --within <DURATION>
              How long the restarted card may take to say that the new system is good: `90s`, `15m`,
              `1h`
              
              [default: 15m]
    
          --all <FILE>
              Update the cards of all hosts in this file instead: a destination of ssh on each line, `#`
              begins a comment
              
              Each host gets the bundle through `ssh`, which has to let you in as root without a
              question, and its own `dpu-host` updates its card. After a failure no other host is begun;
              the same command goes on with those that are not done.
    
          --at-once <N>
              With `--all`: how many hosts are updated at once
              
              [default: 1]
    
          --state <FILE>
              With `--all`: where it is kept which hosts are done [default: FILE with `.state` behind
              it]
    
          --ssh <PROGRAM>
              With `--all`: the program that reaches the hosts, called as ssh is
              
              [default: ssh]
    
      -h, --help
              Print help (see a summary with '-h')
    ");
}

#[test]
fn a_good_bundle_is_installed_and_the_new_system_confirmed() {
    let mut card = Card::new();
    let bundle = card.bundle("good");
    let child = card.begin(&[bundle.to_str().unwrap()]);
    until("the restart", || !card.restarts().is_empty());
    card.stop();
    card.runs("B", "boot-2");
    card.write("card/var/lib/dpukit/slots.json", r#"{"good":{"A":"root-of-A","B":"root-of-B"}}"#);
    card.start(false);
    let answer = card.end(child);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(answer.out, "the card runs slot B with version 0.2.0, and says that it is good\n");
    let (before, _waiting) = answer.errors.split_once("waiting for the card").unwrap();
    insta::assert_snapshot!(before, @"
    sending the bundle: 10%
    sending the bundle: 20%
    sending the bundle: 30%
    sending the bundle: 40%
    sending the bundle: 50%
    sending the bundle: 60%
    sending the bundle: 70%
    sending the bundle: 80%
    sending the bundle: 90%
    sending the bundle: 100%
    installing:   0% Installing
    installing:  20% Checking bundle
    installing:  80% Copying image to system.1
    installing: 100% Installing done.
    the card restarts now: pods have no network until it is up again, and keep their addresses; new pods wait until then
    ");
    assert_eq!(card.restarts(), "--no-block reboot\n");
    assert_eq!(card.installed().unwrap(), fs::read(bundle).unwrap());
    assert_eq!(card.left(), [""; 0]);
}

#[test]
fn a_system_that_is_given_up_is_told_with_the_reason() {
    let mut card = Card::new();
    let bundle = card.bundle("sick");
    let child = card.begin(&[bundle.to_str().unwrap()]);
    until("the restart", || !card.restarts().is_empty());
    card.stop();
    card.runs("A", "boot-3");
    card.write("card/var/lib/dpukit/slots.json", BACK);
    card.start(false);
    let answer = card.end(child);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let last = answer.errors.lines().last().unwrap();
    assert_eq!(
        last,
        "error: the card went back to slot A with version 0.1.0 and left slot B with version 0.2.0: \
         it was never healthy there: agent: it does not answer"
    );
}

#[test]
fn a_card_that_does_not_come_back_in_time_is_told() {
    let card = Card::new();
    let bundle = card.bundle("good");
    let answer = card.update(&[bundle.to_str().unwrap(), "--within", "1s"]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    let last = answer.errors.lines().last().unwrap();
    assert!(last.contains("does not say that slot B with version 0.2.0 is good: it goes down"), "{last}");
}

#[test]
fn a_bundle_from_standard_input_is_installed_and_waits() {
    let card = Card::new();
    let bundle = card.bundle("good");
    let octets = fs::read(bundle).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["update", "-", "--no-restart"])
        .env("DPUKIT_ROOT", card.folder.path().join("host"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&octets).unwrap();
    let answer = card.end(child);
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert!(answer.out.starts_with("installed as slot B with version 0.2.0; "), "{answer:?}");
    assert_eq!(card.installed().unwrap(), octets);
    assert_eq!(card.restarts(), "");
}

#[test]
fn what_is_refused_is_told_and_leaves_nothing() {
    let card = Card::new();
    let last = |arguments: &[&str]| {
        let answer = card.update(arguments);
        assert_eq!(answer.code, Some(1), "{answer:?}");
        assert_eq!(card.left(), [""; 0]);
        answer.errors.lines().last().unwrap().to_owned()
    };
    let mut told = Vec::new();
    told.push(last(&["/no/such.raucb"]));
    let cut = card.bundle("good");
    fs::File::options().write(true).open(&cut).unwrap().set_len(1 << 20).unwrap();
    told.push(last(&[cut.to_str().unwrap()]));
    let foreign = card.bundle("foreign");
    told.push(last(&[foreign.to_str().unwrap()]));
    fs::remove_file(card.folder.path().join("card/etc/rauc/system.conf")).unwrap();
    told.push(last(&[foreign.to_str().unwrap()]));
    assert_eq!(card.installed(), None);
    let told = told.join("\n").replace(&card.folder.path().display().to_string(), "");
    insta::assert_snapshot!(told, @"
    error: reading the bundle `/no/such.raucb`: No such file or directory (os error 2)
    error: reading the bundle `/update.raucb`: it has no signature at its end: it was cut short, or never signed; copy it again, or build it again
    error: the card said: RAUC does not install the bundle: signature verification failed: Verify error: self-signed certificate
    error: the card said: the card's image takes no updates: it was built without a certificate for them; set `[signing]` in `dpukit.local.toml`, build the image and flash the card with it once
    ");
}

#[test]
fn who_is_not_paired_and_who_speaks_plain_text_is_refused() {
    let mut card = Card::unpaired();
    let bundle = card.bundle("good");
    let bundle = bundle.to_str().unwrap();
    let answer = card.update(&[bundle]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.errors.contains("pair host and card to make it"), "{answer:?}");
    card.stop();
    card.start(true);
    card.configure("insecure = true");
    let answer = card.update(&[bundle]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.errors.contains("the card said: the card's agent speaks plain text"), "{answer:?}");
    assert_eq!((card.installed(), card.left()), (None, Vec::new()));
}

#[test]
fn one_bundle_is_installed_at_once_and_goes_on_when_its_host_is_gone() {
    let card = Card::new();
    let bundle = card.bundle("slow");
    let bundle = bundle.to_str().unwrap();
    let mut first = card.begin(&[bundle]);
    let waits = card.folder.path().join("programs/rauc.waits");
    until("the installation", || waits.exists());
    let second = card.update(&[bundle]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.errors.contains("the card said: another update is under way on the card"), "{second:?}");
    read_until(&mut first, "Checking bundle");
    first.kill().unwrap();
    first.wait().unwrap();
    fs::remove_file(waits).unwrap();
    until("the end of the installation", || card.installed().is_some() && card.left().is_empty());
    assert_eq!(card.restarts(), "", "nobody asked for it any more");
}

#[test]
fn an_agent_that_starts_removes_what_was_left_over() {
    let mut card = Card::new();
    card.stop();
    card.write("card/var/lib/dpukit/update/bundle.raucb", "half");
    card.start(false);
    until("the removal", || card.left().is_empty());
}

#[test]
fn an_older_agent_is_told() {
    let card = Card::new();
    let address = older_agent();
    card.write("host/etc/dpukit/host.toml", &format!("[card]\nagent = \"{address}\"\ninsecure = true\n"));
    let answer = card.update(&[card.bundle("good").to_str().unwrap()]);
    assert_eq!(answer.code, Some(1), "{answer:?}");
    assert!(answer.errors.contains("error: the card's system is too old for this: "), "{answer:?}");
}

/// One that knows health alone.
fn older_agent() -> std::net::SocketAddr {
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let incoming =
                tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            ready.send(incoming.local_addr().unwrap()).unwrap();
            let (_reporter, health) = tonic_health::server::health_reporter();
            tonic::transport::Server::builder().serve_with_incoming(health, incoming).await.unwrap();
        });
    });
    is_ready.recv().unwrap()
}
