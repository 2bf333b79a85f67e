//! A terminal for a process: what it writes there, as a person would see it.

use std::{
    fs::File,
    io::Read,
    num::NonZero,
    process::{Child, Command},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::process::PATIENCE;

/// What a terminal has shown.
pub struct Shown {
    pub code: Option<i32>,
    /// Each picture that stood there, in turn.
    pub pictures: Vec<String>,
    /// The bytes that made them.
    pub bytes: Vec<u8>,
}

impl Shown {
    /// What stands there at the end.
    pub fn last(&self) -> &str {
        self.pictures.last().map_or("", String::as_str)
    }
}

/// Ends a process that a failed test leaves behind.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn lines(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has a size")
}

/// Runs a command to its end with a terminal of this size for its output.
pub fn at_terminal(mut command: Command, (rows, columns): (u16, u16)) -> Shown {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).expect("a terminal");
    grantpt(&screen).and_then(|()| unlockpt(&screen)).expect("it can be opened");
    let inside = ioctl_tiocgptpeer(&screen, flags).expect("its inside");
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&inside, size).expect("it has a size");
    command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
    command.stdin(std::process::Stdio::null());
    command.stdout(inside.try_clone().expect("a second handle")).stderr(inside);
    let mut child = Ending(command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}")));
    // The handles of this process would keep the terminal open after the child.
    drop(command);
    let mut parser = vt100::Parser::new(lines(rows), lines(columns), 0);
    let mut shown = Shown { code: None, pictures: Vec::new(), bytes: Vec::new() };
    let mut screen = File::from(screen);
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 4096];
    loop {
        assert!(Instant::now() < end, "the command does not end: {}", shown.last());
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut wait = [PollFd::new(&screen, PollFlags::IN)];
        if poll(&mut wait, Some(&second)).expect("it can be waited for") == 0 {
            continue;
        }
        // EIO: the last process has closed it.
        let read = screen.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            break;
        }
        shown.bytes.extend_from_slice(&buffer[..read]);
        parser.process(&buffer[..read]);
        let picture = parser.screen().contents();
        if shown.pictures.last() != Some(&picture) {
            shown.pictures.push(picture);
        }
    }
    shown.code = child.0.wait().expect("it has ended").code();
    shown
}
