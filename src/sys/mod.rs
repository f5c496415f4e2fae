//! Mechanisms of Linux and of the JVM, without policy: each takes the root of procfs or a process as an argument.

pub mod allocator;
pub mod attach;
pub mod blocking_worker;
pub mod folder;
pub mod lacking;
pub mod limits;
pub mod pem;
pub mod perf_data;
pub mod pidfd;
pub mod plain;
pub mod proc;
pub mod proc_net;
pub mod process;
pub mod rights;
pub mod rooted;
pub mod schedstat;
pub mod settings_file;
mod short_work;
pub mod sock_diag;
pub mod systemd;
pub mod users;
