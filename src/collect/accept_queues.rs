//! The collector `accept_queues`: the queues of the broker's listeners. In its pass runs `sockets`, which counts the
//! connections by state, at rest less often than each time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::context::BrokerContext;
use super::frame::{BlockingCollector, Collector, Description, RunsOn, Stamp};
use super::socket_tables::{Signs, TableReader, TableRound};
use crate::kafka::conn::OwnConnections;
use crate::model::{Broker, BrokerSnapshot, CollectorName, Failure};

/// Reads the TCP table of one broker's network namespace, together with the other brokers there.
pub struct AcceptQueues {
    reader: TableReader,
    broker: Arc<Broker>,
    own: OwnConnections,
    fds: watch::Receiver<Option<u64>>,
    late: watch::Receiver<bool>,
    suspects: watch::Receiver<BTreeSet<u32>>,
}

impl Collector for AcceptQueues {
    const DESCRIPTION: Description = Description {
        name: CollectorName::AcceptQueues,
        ceiling: 0.005,
        deadline: Duration::from_secs(2),
    };
    type Value = TableRound;

    fn store(broker: &mut BrokerSnapshot, result: Result<TableRound, Failure>, stamp: Stamp) {
        let round = result.unwrap_or_else(|failure| {
            // Where they were never counted, they may be switched off.
            let are_on = broker.collectors.contains_key(&CollectorName::Sockets);
            TableRound {
                accept_queues: Err(failure.clone()),
                sockets: are_on.then_some(Err(failure)),
                listens_every: stamp.interval,
                interval: stamp.interval,
                walk: Duration::ZERO,
            }
        });
        let listened = stamp.at_most_every(round.listens_every);
        let failure = listened.put_read(&mut broker.accept_queues, round.accept_queues);
        listened.finish(broker, CollectorName::AcceptQueues, failure.as_ref());
        if let Some(sockets) = round.sockets {
            let stamp = stamp.at_most_every(round.interval);
            let failure = stamp.put_read(&mut broker.sockets, sockets);
            stamp.finish(broker, CollectorName::Sockets, failure.as_ref());
        }
    }
}

impl BlockingCollector for AcceptQueues {
    const RUNS_ON: RunsOn = RunsOn::SharedThread;

    fn new(context: &BrokerContext) -> AcceptQueues {
        let reader = TableReader::new(
            context.tables.clone(),
            context.proc.path(),
            context.config.intervals.of(CollectorName::AcceptQueues),
            Self::DESCRIPTION.deadline,
        );
        AcceptQueues {
            reader: reader.with_walks(context.config.collectors.is_on(CollectorName::Sockets)),
            broker: Arc::clone(&context.broker),
            own: context.own.clone(),
            fds: context.signals.fds.subscribe(),
            late: context.signals.late.subscribe(),
            suspects: context.signals.suspects.subscribe(),
        }
    }

    fn collect(&mut self) -> Result<TableRound, Failure> {
        let signs = Signs {
            fds: *self.fds.borrow(),
            stuck: *self.late.borrow() || !self.suspects.borrow().is_empty(),
        };
        let own = |address| self.own.contains(address);
        Ok(self.reader.round(&self.broker, signs, &own))
    }

    /// The walks over the connections have ceilings of their own.
    fn cost(round: &TableRound, measured: Duration) -> Duration {
        measured.saturating_sub(round.walk)
    }
}
