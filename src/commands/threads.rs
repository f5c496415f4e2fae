//! `kafka-vitals threads`: one thread dump of one JVM, explained.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::{block_on, print, write_stdout};
use crate::analyze::dumps::Analysis;
use crate::analyze::report;
use crate::cli::{Format, ThreadsArgs};
use crate::collect::jvm_dumper::{JvmDumper, THIS_PROGRAM};
use crate::config::check_procfs;
use crate::model::{Broker, ProcessKey};
use crate::parse::thread_dump;
use crate::sys::proc::ProcRoot;

const DEADLINE: Duration = Duration::from_secs(10);

pub fn run(args: &ThreadsArgs) -> anyhow::Result<ExitCode> {
    check_procfs(&args.procfs)?;
    let process = ProcessKey {
        pid: args.pid,
        start_ticks: ProcRoot::new(&args.procfs).stat(args.pid)?.start_ticks,
    };
    let broker = Arc::new(Broker::unknown(process));
    let mut dumper = JvmDumper::new(THIS_PROGRAM, &args.procfs, broker, DEADLINE);
    let dump = block_on(dumper.collect())??;
    let source = format!("pid {}", args.pid);
    let text = thread_dump::from_jvm(&dump.bytes);
    let mut analysis = Analysis::default();
    for dump in thread_dump::parse(&text).with_context(|| source.clone())? {
        analysis.add(&source, &dump);
    }
    print(&analysis, args.output, report::text)?;
    if args.output == Format::Text {
        write_stdout(&dump.bytes)?;
    }
    Ok(ExitCode::SUCCESS)
}
