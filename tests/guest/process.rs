//! A program under test: its output is collected, it is gone when the value is dropped, and it is gone
//! when the test binary ends in any way. Knows nothing of QEMU or of the daemon.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often something that has no event to wait for is looked at.
pub const POLL: Duration = Duration::from_millis(5);

/// A running program.
pub struct Process {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    name: String,
}

impl Process {
    /// Starts a program; its standard output and error are collected in one text.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn<S: AsRef<str>>(program: &str, arguments: &[S]) -> Self {
        let mut command = Command::new(crate::image::program("setpriv"));
        command.args(["--pdeathsig", "KILL", program]).args(arguments.iter().map(AsRef::as_ref));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn_from_immortal_thread(command);
        let output = Arc::default();
        collect(child.stdout.take().expect("stdout is piped"), &output);
        collect(child.stderr.take().expect("stderr is piped"), &output);
        Self { child, output, name: program.to_owned() }
    }

    /// Everything the program has printed so far.
    pub fn output(&self) -> String {
        let bytes = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ends it as a crash would: SIGKILL, at whatever it is doing.
    pub fn kill(&mut self) {
        // The only error is that it has ended already, which is the state asked for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it do nothing any more, whatever it is doing.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn freeze(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).expect("the program can be signalled");
    }

    /// Asks it to end with SIGTERM and waits for that.
    ///
    /// # Panics
    ///
    /// If it is still there after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the program can be signalled");
        self.wait(timeout)
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// If it is still there after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} has not ended within {timeout:?}", self.name);
            thread::sleep(POLL);
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            println!("---- output of {}\n{}", self.name, self.output());
        }
    }
}

/// The kernel delivers the parent-death signal when the *thread* that forked ends, and every test has a
/// thread of its own, while a guest may outlive its test. This thread lives as long as the test binary.
fn spawn_from_immortal_thread(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody to tell if the test that asked is gone.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = channel();
    SPAWNER.send((command, reply)).expect("the spawning thread never ends");
    answer.recv().expect("the spawning thread answers").expect("setpriv can be started")
}

fn collect(mut stream: impl Read + Send + 'static, output: &Arc<Mutex<Vec<u8>>>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = stream.read(&mut chunk) {
            output.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..len]);
        }
    });
}
