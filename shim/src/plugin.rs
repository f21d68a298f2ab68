//! The plugin as a program: environment and standard input in, one answer on standard output.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::panic;
use std::process::{self, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tracing::Level;

use crate::cni::{Code, Command, Invocation, Pod, Report, Version, Versions};
use crate::config::{self, Config};
use crate::deadline::Deadline;
use crate::files::Files;
use crate::host::Host;
use crate::{add, check, del, gc, log, status};

/// The most that is read of standard input, in octets.
const LARGEST: u64 = 4 << 20;

/// Does what the environment says. The host's files are those below `root`.
pub fn run(start: Instant, root: &str) -> ExitCode {
    panic::set_hook(Box::new(|panicked| {
        // The runtime waits for an answer, and DEL will undo what was begun.
        let error = Code::INTERNAL.because(panicked);
        tracing::error!("{error:#}");
        fail(&error, Version::NEWEST);
        process::exit(1);
    }));
    let mut input = Vec::new();
    let read = io::stdin().lock().take(LARGEST).read_to_end(&mut input);
    let text = String::from_utf8_lossy(&input);
    let version = config::version_of(&text);
    let answer = read
        .context("reading standard input")
        .context(Code::IO)
        .and_then(|_| Invocation::read(|name| env::var_os(name)))
        .and_then(|call| answer(start, root, &call, &text));
    match answer {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let version = version.and_then(|version| Version::parse(&version).ok());
            fail(&error, version.unwrap_or(Version::NEWEST));
            ExitCode::FAILURE
        }
    }
}

fn fail(error: &anyhow::Error, version: Version) {
    say(&serde_json::to_string(&Report::new(error, version)).unwrap_or_default());
}

fn say(text: &str) {
    // Where the runtime does not listen any more, there is nobody to tell.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// The answer to a call: JSON, or nothing.
fn answer(start: Instant, root: &str, call: &Invocation, text: &str) -> Result<String> {
    if call.command == Command::Version {
        return json(&Versions::answer(config::version_of(text)));
    }
    let files = Files::below(root);
    let config = Config::parse(text);
    log::start(&files, config.as_ref().map_or(Level::INFO, |config| config.log));
    let span = span(call);
    let _span = span.enter();
    let deadline = config.as_ref().map_or(config::DEADLINE, |config| config.deadline);
    let deadline = Deadline::after(start, deadline);
    let answer = serve(files, call, config, deadline);
    answer.inspect_err(|error| tracing::error!("{error:#}"))
}

fn serve(files: Files, call: &Invocation, config: Result<Config>, deadline: Deadline) -> Result<String> {
    let mut host = Host::open(files)?;
    if call.command == Command::Del {
        if let Err(error) = &config {
            tracing::warn!("the configuration of this DEL cannot be used: {error:#}");
        }
        del::del(&mut host, call, config.as_ref().ok(), deadline)?;
        return Ok(String::new());
    }
    let config = config?;
    match call.command {
        Command::Add => return json(&add::add(&mut host, call, &config, deadline)?),
        Command::Check => check::check(&mut host, call, &config, deadline)?,
        Command::Gc => gc::gc(&mut host, call, &config, deadline)?,
        Command::Status => status::status(&mut host, call, &config, deadline)?,
        Command::Del | Command::Version => {}
    }
    Ok(String::new())
}

/// What every line of the log says of the call.
fn span(call: &Invocation) -> tracing::Span {
    let command = call.command.name();
    let pod = Pod::of_arguments(&call.arguments).unwrap_or_default();
    let Ok(attachment) = call.attachment() else { return tracing::info_span!("call", command) };
    let (container, interface) = (attachment.container.as_str(), attachment.interface.as_str());
    tracing::info_span!("call", command, container, interface, %pod)
}

fn json(answer: &impl Serialize) -> Result<String> {
    serde_json::to_string(answer).context("writing the answer").context(Code::INTERNAL)
}
