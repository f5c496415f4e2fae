//! Processes that hold the fds and connections to count. Each prints `ready` and then waits to be killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use lab::{Cell, Process};

use crate::worker;

/// The number of different files that are opened, like the segments of a broker's logs.
const PATHS: usize = 1000;

pub fn make_files(folder: &Path) -> Result<()> {
    for index in 0..PATHS {
        File::create(folder.join(format!("{index:020}.log")))?;
    }
    Ok(())
}

/// Starts a worker of this module; dropping the value ends it.
pub fn start(cell: &Cell, arguments: &[&str]) -> Result<Process> {
    let mut command = worker::command(arguments, &[]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = cell.spawn(command)?;
    wait_ready(&mut process).with_context(|| format!("{arguments:?}"))?;
    Ok(process)
}

/// Waits for a line `ready`.
pub fn wait_ready(process: &mut Process) -> Result<()> {
    let stdout = process
        .child()
        .stdout
        .take()
        .context("no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line.trim() == "ready", "it is not ready: {line:?}");
    Ok(())
}

fn wait_for_the_end() -> ! {
    println!("ready");
    loop {
        std::thread::park();
    }
}

pub fn hold_files(count: usize, folder: &Path) -> Result<()> {
    let open = |index: usize| File::open(folder.join(format!("{:020}.log", index % PATHS)));
    let _held: Vec<File> = (0..count).map(open).collect::<Result<_, _>>()?;
    wait_for_the_end()
}

pub fn wait() -> Result<()> {
    wait_for_the_end()
}

/// Listens, prints `ready`, accepts `count` connections and neither reads nor closes them.
pub fn serve(address: SocketAddr, count: usize) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    // Listens again with a longer queue.
    rustix::net::listen(&listener, 4096)?;
    println!("ready");
    let _held: Vec<TcpStream> = listener.incoming().take(count).collect::<Result<_, _>>()?;
    loop {
        std::thread::park();
    }
}

/// Makes `count` connections, sends on every tenth what the other side never reads, and closes the first `close`.
pub fn connect(address: SocketAddr, count: usize, close: usize) -> Result<()> {
    let mut held = Vec::with_capacity(count);
    for index in 0..count {
        let mut stream = TcpStream::connect(address)?;
        if index % 10 == 0 {
            stream.write_all(&[0; 100])?;
        }
        held.push(stream);
    }
    held.drain(..close);
    wait_for_the_end()
}
