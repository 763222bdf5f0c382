//! Errors beside those of `qemu-storage-daemon`: the same requests to both, class and text compared.
//!
//! Knows the table of requests beside this file. What is expected is what QEMU answers in the same
//! run; what cannot be compared is a command or a feature that is not there, and is counted.

use qmp_lite::wire::Value;

use super::daemon::{Client, Daemon, QEMU, TIDEMARK, differs, displace};

/// Cases: `case NAME`, then lines `do REQUEST` (has to succeed), `ask REQUEST` (is compared), or
/// `raw REQUEST` before a negotiation (is compared too).
const CASES: &str = include_str!("errors.txt");

/// Where our text says more than QEMU's: the difference, ours, and what is compared instead.
const MORE: [(&str, &str, &str); 2] = [
    (
        "blkdebug: a `config` that cannot be read",
        "Could not read blkdebug config file 'DIR/nope'",
        "Could not read blkdebug config file",
    ),
    (
        "nbd-server-start: an address that cannot be listened on",
        "Failed to listen on 192.0.2.1:0",
        "Failed to bind socket",
    ),
];

/// What came of the rows.
#[derive(Debug, Default)]
struct Counts {
    equal: usize,
    no_command: Vec<String>,
    unsupported: Vec<String>,
    different: Vec<String>,
}

#[test]
fn errors_are_those_of_qemu_storage_daemon() {
    MORE.iter().for_each(|(difference, ..)| differs(difference));
    let mut commands = Daemon::start(TIDEMARK, &[]).negotiate().succeed("{'execute': 'query-commands'}");
    let commands: Vec<Value> = commands.as_array_mut().expect("a list").drain(..).collect();
    let mut counts = Counts::default();
    for case in CASES.split("\ncase ").skip(1) {
        run(case, &commands, &mut counts);
    }
    println!("rows compared with qemu-storage-daemon: {}", counts.equal);
    println!("rows whose command is not there yet: {}", counts.no_command.len());
    println!("rows whose feature is refused as not supported: {}", counts.unsupported.len());
    counts.unsupported.iter().for_each(|row| println!("  {row}"));
    assert!(counts.different.is_empty(), "{}", counts.different.join("\n"));
    assert!(counts.equal >= 380, "the table lost its rows");
}

fn run(case: &str, commands: &[Value], counts: &mut Counts) {
    let mut lines = case.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let name = lines.next().unwrap_or_default();
    let steps: Vec<_> = lines.filter_map(|line| line.split_once(' ')).collect();
    let known = |text: &str| text.is_empty() || commands.iter().any(|entry| entry["name"] == text);
    let missing = steps.iter().find(|(_, request)| !known(command(request)));
    if missing.is_some() && !name.starts_with("unknown") {
        counts.no_command.extend(steps.iter().filter(|(verb, _)| *verb == "ask").map(|_| name.to_owned()));
        return;
    }
    let mut daemons = [Daemon::start(QEMU, &[]), Daemon::start(TIDEMARK, &[])];
    let [qemu, ours] = &mut daemons;
    let fresh = steps.first().is_some_and(|(verb, _)| *verb == "raw");
    let connect = |daemon: &mut Daemon| if fresh { daemon.connect() } else { daemon.negotiate() };
    let mut clients = [connect(qemu), connect(ours)];
    for (verb, request) in steps {
        if !step(name, verb, request, &mut clients, &daemons, counts) {
            return;
        }
    }
}

/// Sends one request to both; false if the rest of the case makes no sense.
fn step(
    name: &str,
    verb: &str,
    request: &str,
    [qemu, ours]: &mut [Client; 2],
    [qemu_daemon, our_daemon]: &[Daemon; 2],
    counts: &mut Counts,
) -> bool {
    let (expected, found) = (qemu.ask(request), ours.ask(request));
    let expected: Vec<_> = expected.iter().map(|reply| shown(reply, qemu_daemon)).collect();
    let comparable = |text: String| MORE.iter().fold(text, |text, (_, ours, qemu)| text.replace(ours, qemu));
    let found: Vec<_> = found.iter().map(|reply| comparable(shown(reply, our_daemon))).collect();
    let row = format!("{name}: {request}");
    if verb == "do" {
        let unsupported = found.iter().any(|reply| reply.contains(" not supported"));
        let succeeded = expected == ["ok"] && found == ["ok"];
        match unsupported {
            true => counts.unsupported.push(row),
            false if !succeeded => counts.different.push(format!("{row}\n  QEMU: {expected:?}\n  ours: {found:?}")),
            false => {}
        }
        return succeeded;
    }
    assert!(expected.iter().all(|reply| reply != "ok"), "{row}: QEMU reports no error: {expected:?}");
    // What QEMU does not support either is to be said in its words.
    let unsupported = |replies: &[String]| replies.iter().any(|reply| reply.contains(" not supported"));
    if expected == found {
        counts.equal += 1;
    } else if unsupported(&found) && !unsupported(&expected) {
        counts.unsupported.push(row);
    } else {
        counts.different.push(format!("{row}\n  QEMU: {expected:?}\n  ours: {found:?}"));
    }
    true
}

/// The command that a request names; nothing if it names none.
fn command(request: &str) -> &str {
    let rest = request.split_once("execute").map_or("", |(_, rest)| rest);
    rest.split(['\'', '"']).find(|part| part.contains(|c: char| c.is_alphanumeric())).unwrap_or_default()
}

/// A reply as it is compared: id, class and text, without the directory and generated names.
fn shown(reply: &Value, daemon: &Daemon) -> String {
    let Some(error) = reply.get("error") else {
        return "ok".to_owned();
    };
    let text = displace(error["desc"].as_str().expect("a text"), daemon.dir());
    let mut parts = text.split("#block");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("#block");
        text.push_str(part.trim_start_matches(|digit: char| digit.is_ascii_digit()));
    }
    format!("{:?} {} {text}", reply.get("id"), error["class"])
}
