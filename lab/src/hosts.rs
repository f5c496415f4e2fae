//! Hosts in a cell: each is a cell of its own, with an address, a `/tmp`, processes and disks of its own. The outer cell is
//! the router between them, where what one host sends to another can be dropped; clients and tools run there.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cell::Cell;

const TOOL_TIME: Duration = Duration::from_secs(60);

/// Where a process of a cluster runs: on a host of its own, or in the cluster's cell.
#[derive(Clone)]
pub struct Host {
    pub cell: Cell,
    pub address: Ipv4Addr,
}

impl Host {
    /// The place of every process of a cluster without hosts.
    pub(crate) fn shared(cell: &Cell) -> Host {
        Host {
            cell: cell.clone(),
            address: Ipv4Addr::LOCALHOST,
        }
    }

    /// Creates host `number` of the router's, which sees `folder` below the router's `/tmp`. The router's end of the link
    /// is `hostNUMBER`, with the address 10.9.NUMBER.1; the host's is `eth0`.
    pub fn create(router: &Cell, number: u8, folder: Option<&OsStr>) -> Result<Host> {
        let cell = Cell::within_seeing(router, folder).context("a host needs root")?;
        let host = Host {
            cell,
            address: Ipv4Addr::new(10, 9, number, 2),
        };
        let link = format!("host{number}");
        let gateway = Ipv4Addr::new(10, 9, number, 1);
        let namespace = host.cell.outer_pid()?;
        ip(
            router,
            &format!("link add {link} type veth peer name eth0 netns {namespace}"),
        )?;
        ip(router, &format!("address add {gateway}/24 dev {link}"))?;
        ip(router, &format!("link set {link} up"))?;
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
        run(router, &["sh", "-c", forward])?;
        ip(
            &host.cell,
            &format!("address add {}/24 dev eth0", host.address),
        )?;
        ip(&host.cell, "link set eth0 up")?;
        ip(&host.cell, &format!("route add default via {gateway}"))?;
        Ok(host)
    }

    /// Mounts a new ext4 file system of that size (`1G`) at a new folder, which `image`'s folder must have room for.
    pub(crate) fn mount_disk(&self, folder: &Path, size: &str) -> Result<()> {
        let image = folder.with_extension("img");
        let (folder, image) = (folder.display().to_string(), image.display().to_string());
        run(&self.cell, &["truncate", "-s", size, &image])?;
        run(&self.cell, &["mkfs.ext4", "-q", "-m", "0", &image])?;
        run(&self.cell, &["mkdir", &folder])?;
        run(&self.cell, &["mount", "-o", "loop", &image, &folder])?;
        run(&self.cell, &["rm", &image])?;
        // Before 1.0 a broker takes it for a topic.
        run(&self.cell, &["rmdir", &format!("{folder}/lost+found")]).map(drop)
    }
}

/// Has the router drop what `from` sends to `to`, without a word to either.
pub fn cut(router: &Cell, from: &Host, to: &Host) -> Result<()> {
    rule(router, "add", from, to)
}

/// Ends [`cut`].
pub fn join(router: &Cell, from: &Host, to: &Host) -> Result<()> {
    rule(router, "delete", from, to)
}

fn rule(router: &Cell, what: &str, from: &Host, to: &Host) -> Result<()> {
    let (from, to) = (from.address, to.address);
    ip(
        router,
        &format!("rule {what} from {from} to {to} blackhole"),
    )
}

/// Runs `ip` in a cell; the arguments are separated by single blanks.
pub fn ip(cell: &Cell, arguments: &str) -> Result<()> {
    let command = std::iter::once("ip").chain(arguments.split(' '));
    run(cell, &command.collect::<Vec<_>>()).map(drop)
}

/// Runs a tool in a cell to its end and returns its output.
pub fn run(cell: &Cell, command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("a command")?;
    let mut tool = Command::new(program);
    tool.args(arguments);
    cell.tool_output(&command.join(" "), tool, TOOL_TIME)
}
