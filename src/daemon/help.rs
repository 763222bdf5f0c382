//! What the daemon says about itself without running: usage, version, capabilities.

/// A vhost-user block back-end's answer to `--print-capabilities` (docs/interop/vhost-user.json, `VHostUserBackend`).
pub const CAPABILITIES: &str = r#"{
  "type": "block",
  "features": [
    "read-only",
    "blk-file"
  ]
}"#;

/// The first line of `-V`.
pub const VERSION: &str = concat!("tidemark version ", env!("CARGO_PKG_VERSION"));

/// `--help`.
pub const USAGE: &str = "\
Usage: tidemark serve DISK[:SOCKET]... [options]
       tidemark ctl SOCKET [COMMAND [ARGUMENT=VALUE]...]
       tidemark export DISK [options]
       tidemark info IMAGE, tidemark check IMAGE
       tidemark [options]

All but the last are for people; 'tidemark help' says more. With options alone
tidemark is a daemon like qemu-storage-daemon:

  -h, --help             display this help and exit
  -V, --version          output version information and exit

  --backing-dir <path>   let headers of qcow2 images given later name files
                         below this directory too

  --blockdev [driver=]<driver>[,node-name=<N>][,discard=ignore|unmap]
             [,cache.direct=on|off][,cache.no-flush=on|off]
             [,read-only=on|off][,auto-read-only=on|off]
             [,force-share=on|off][,detect-zeroes=on|off|unmap]
             [,driver specific parameters...]
                         open a block node; also as JSON

  --chardev socket,id=<id>,path=<path>|fd=<fd>|host=<host>,port=<port>
            [,server=on|off][,wait=on|off]
                         configure a character device for a monitor

  --daemonize            run in the background; the command returns once
                         startup is complete

  --export [type=]vhost-user-blk,id=<id>,node-name=<node-name>,
           addr.type=unix,addr.path=<socket-path>|addr.type=fd,addr.str=<fd>
           [,writable=on|off][,logical-block-size=<block-size>]
           [,num-queues=<num-queues>][,x-serial=<serial>]
                         export a block node to a virtual machine

  --export [type=]nbd,id=<id>,node-name=<node-name>[,name=<export-name>]
           [,description=<text>][,writable=on|off][,writethrough=on|off]
           [,bitmaps.<i>=<bitmap>][,allocation-depth=on|off]
                         export a block node by the NBD server

  --monitor [chardev=]name[,mode=control][,pretty=on|off]
                         configure a QMP monitor

  --nbd-server addr.type=unix,addr.path=<path>|
               addr.type=inet,addr.host=<host>,addr.port=<port>|
               addr.type=fd,addr.str=<fd>
               [,tls-creds=<id>][,tls-authz=<id>][,max-connections=<n>]
               [,handshake-max-seconds=<seconds>]
                         start an NBD server for exports of type nbd

  --object iothread,id=<id>[,poll-max-ns=<ns>]
  --object tls-creds-x509,id=<id>,dir=<directory>[,endpoint=server|client]
           [,verify-peer=on|off][,sanity-check=on|off]
  --object authz-simple,id=<id>,identity=<distinguished-name>
  --object authz-list,id=<id>[,policy=deny|allow][,rules.<i>.match=<name>,
           rules.<i>.policy=deny|allow[,rules.<i>.format=exact|glob]]
                         create an object that others can refer to
  --object help          list object types that can be created

  --pidfile <path>       write process ID to a file after startup

or the back-end program of one vhost-user-blk device:

  --socket-path=<path>   listen on this socket
  --fd=<fd>              use this inherited socket, listening or connected
  --blk-file=<path>      serve this file or block device
  --read-only            serve it read-only
  --print-capabilities   display what the program can do as JSON and exit
";
