//! A server on a socket that somebody else listens on and hands to the daemon, as a service manager does.

use super::site::{shell, succeed};
use crate::vhost::daemon::{Daemon, FILE};

/// Listens, and becomes the program with the socket as descriptor 9.
const LISTEN: &str = "exec python3 -c '
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(\"nbd\")
listener.listen()
os.dup2(listener.fileno(), 9)
os.execvp(sys.argv[1], sys.argv[1:])' \"$@\" --nbd-server addr.type=fd,addr.str=9 --export nbd,id=x,node-name=n,name=n";

#[test]
fn clients_of_an_inherited_socket_are_served_and_the_socket_goes_with_the_server() {
    let daemon = Daemon::started_by(LISTEN, FILE, |_| ());
    let uri = "'nbd+unix:///n?socket=nbd'";
    succeed(&daemon, &format!("nbdcopy --connections=4 {uri} copy && cmp copy disk"));
    daemon.qmp().succeed("{'execute': 'nbd-server-stop'}");
    let refused = shell(&daemon, &format!("nbdinfo --size {uri}"));
    assert!(!refused.status.success(), "nobody listens any more");
}
