//! Hosts in a cell: each is a cell of its own, with an address, a `/tmp`, processes and disks of its own. The outer cell is
//! the router between them, where what one host sends to another can be dropped; clients and tools run there.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

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

    /// Creates host `number` of the router's, which sees `folder` below the router's `/tmp`.
    pub(crate) fn create(router: &Cell, number: u8, folder: &OsStr) -> Result<Host> {
        let cell = Cell::within_seeing(router, folder).context("a host needs root")?;
        let host = Host {
            cell,
            address: Ipv4Addr::new(10, 9, number, 2),
        };
        let link = format!("host{number}");
        let gateway = Ipv4Addr::new(10, 9, number, 1);
        let namespace = host.cell.outer_pid()?.to_string();
        let (own, of_router) = (format!("{}/24", host.address), format!("{gateway}/24"));
        for command in [
            "link add LINK type veth peer name eth0 netns NAMESPACE",
            "address add ROUTER dev LINK",
            "link set LINK up",
        ] {
            let words = command.split(' ').map(|word| match word {
                "LINK" => link.as_str(),
                "NAMESPACE" => namespace.as_str(),
                "ROUTER" => of_router.as_str(),
                word => word,
            });
            run(
                router,
                &std::iter::once("ip").chain(words).collect::<Vec<_>>(),
            )?;
        }
        run(router, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        run(&host.cell, &["ip", "address", "add", &own, "dev", "eth0"])?;
        run(&host.cell, &["ip", "link", "set", "eth0", "up"])?;
        let gateway = gateway.to_string();
        run(
            &host.cell,
            &["ip", "route", "add", "default", "via", &gateway],
        )?;
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
    let (from, to) = (from.address.to_string(), to.address.to_string());
    run(
        router,
        &["ip", "rule", what, "from", &from, "to", &to, "blackhole"],
    )
    .map(drop)
}

/// Runs a tool in a cell to its end and returns its output.
pub fn run(cell: &Cell, command: &[&str]) -> Result<String> {
    let (program, arguments) = command.split_first().context("a command")?;
    let mut tool = Command::new(program);
    tool.args(arguments);
    let output = cell
        .run_tool(tool, TOOL_TIME)
        .with_context(|| command.join(" "))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
