//! What `--chardev` accepts, and what its sockets do.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

use super::Chardev;
use super::options::{Address, Options};

#[track_caller]
fn refused(option: &str, text: &str) {
    assert_eq!(Options::parse(option).unwrap_err().desc, text, "{option}");
}

#[test]
fn options_are_read_as_qemu_reads_them() {
    let options = Options::parse("socket,id=m,path=/a,,b,server=on,wait=off").unwrap();
    let path = Address::Path("/a,b".into());
    assert_eq!(options, Options { id: "m".into(), address: path, server: true, wait: false });
    let options = Options::parse("socket,id=m,path=p,server,nowait").unwrap();
    assert!(options.server && !options.wait, "the short forms");
    let options = Options::parse("backend=socket,id=m,host=::1,port=4444").unwrap();
    assert_eq!(options.address, Address::Inet("::1".into(), "4444".into()));
    let options = Options::parse("socket,id=m,fd=7,server=yes").unwrap();
    assert_eq!(options.address, Address::Fd("7".into()));
}

#[test]
fn bad_options_have_the_texts_of_qemu() {
    refused("socket", "chardev: no id specified");
    refused("foo,id=x", "'foo' is not a valid char driver name");
    refused("pty,id=x", "Character device 'pty' is not supported");
    refused("socket,id=x,path=p,foo=1", "Invalid parameter 'foo'");
    refused("socket,id=x,path=p,telnet=on", "Option 'telnet' of chardev is not supported");
    refused("socket,id=x,path=p,server=on,wait=maybe", "Parameter 'wait' expects 'on' or 'off'");
    refused("socket,id=x,host=h", "chardev: socket: no port given");
    let text = "None or one of 'path', 'fd' or 'host' option required.";
    refused("socket,id=x,path=p,host=h,port=1", text);
}

#[track_caller]
fn fails(option: &str, text: &str) {
    assert_eq!(Chardev::open(option).unwrap_err().desc, text, "{option}");
}

#[test]
fn sockets_that_cannot_be_opened_are_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none/s").display().to_string();
    let reason = "No such file or directory";
    fails(&format!("socket,id=x,path={path}"), &format!("Failed to connect to '{path}': {reason}"));
    fails(
        &format!("socket,id=x,path={path},server=on,wait=off"),
        &format!("Failed to bind socket to {path}: {reason}"),
    );
    fails("socket,id=x,fd=999", "File descriptor '999' is not a socket");
    fails("socket,id=x,fd=y", "Unable to parse FD number y");
    let text = "address resolution failed for 127.0.0.1:zz: Servname not supported for ai_socktype";
    fails("socket,id=x,host=127.0.0.1,port=zz", text);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let option = format!("socket,id=x,path={},server=on,wait=off", path.display());
    let live = UnixListener::bind(&path).unwrap();
    let text = format!("Failed to bind socket to {}: Address already in use", path.display());
    fails(&option, &text);
    drop(live);
    let chardev = Chardev::open(&option).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    assert!(chardev.accept().is_some());
    chardev.close();
    assert!(!path.exists(), "the file is gone at the end");
    assert!(chardev.accept().is_none(), "nobody is accepted after the end");
}

#[test]
fn closing_wakes_whoever_waits_for_a_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let option = format!("socket,id=x,path={},server=on,wait=off", path.display());
    let chardev = Chardev::open(&option).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| chardev.accept());
        std::thread::sleep(std::time::Duration::from_millis(50));
        chardev.close();
        assert!(waiting.join().unwrap().is_none());
    });
}

#[test]
fn a_client_device_is_its_only_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = UnixListener::bind(&path).unwrap();
    let chardev = Chardev::open(&format!("socket,id=x,path={}", path.display())).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    drop(chardev.accept().unwrap());
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    assert!(chardev.accept().is_none());
}
