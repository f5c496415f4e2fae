//! One saved file, and the forms of text in it.

use std::collections::BTreeSet;
use std::ops::Range;

use super::bundle::Found;
use super::dumps::Analysis;
use super::explanation::Form;
use super::formats::limits::{self, OpenFiles};
use super::formats::log_dirs::{self, LogDirs};
use super::formats::quorum::{self, Quorum};
use super::formats::server_log::{self, Log};
use super::formats::sockets::Socket;
use super::formats::top::{self, Thread};
use super::formats::topics::{self, Partition};
use super::formats::zookeeper::{self, Registrations};
use super::formats::{fds, groups, sockets};
use super::ids;
use super::metadata::Metadata;
use crate::discover::properties::{FILE_CAP, Properties};
use crate::parse::thread_dump::{self, DumpError};

/// A file with what was found in it.
#[derive(Default)]
pub(super) struct File<'a> {
    pub(super) source: &'a str,
    /// The container, pod or host whose lines these are.
    pub(super) container: Option<&'a str>,
    pub(super) text: &'a str,
    pub(super) forms: Vec<Form>,
    /// Its dumps in [`Analysis::dumps`].
    pub(super) dumps: Range<usize>,
    /// Broker ids in the names of its threads.
    pub(super) dump_ids: BTreeSet<i32>,
    /// A dump has threads that only a Kafka node has.
    pub(super) dump_of_node: bool,
    pub(super) log: Option<Log<'a>>,
    pub(super) properties: Option<Properties>,
    pub(super) found: Option<Found>,
    pub(super) registrations: Option<Registrations>,
    pub(super) quorum: Option<Quorum>,
    pub(super) log_dirs: Option<LogDirs>,
    pub(super) open_files: Option<OpenFiles>,
    /// The threads of its `top -H`.
    pub(super) threads: Vec<Thread<'a>>,
    pub(super) metadata: Option<&'a Metadata<'a>>,
}

/// Why a file is left out.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unrecognised {
    #[error("empty: a command that hung prints nothing")]
    Empty,
    #[error("not text")]
    NotText,
    #[error(transparent)]
    OpenJ9(DumpError),
    #[error("of no form that is known here")]
    UnknownForm,
}

impl<'a> File<'a> {
    /// Searches the text for every form: a terminal's record may contain several. Dumps are added to `analysis`.
    pub(super) fn recognise(
        source: &'a str,
        container: Option<&'a str>,
        text: &'a str,
        analysis: &mut Analysis,
    ) -> Result<File<'a>, Unrecognised> {
        if text.trim().is_empty() {
            return Err(Unrecognised::Empty);
        }
        if text.bytes().take(4096).any(|byte| byte == 0) {
            return Err(Unrecognised::NotText);
        }
        let first_dump = analysis.dumps.len();
        let mut dump_ids = BTreeSet::new();
        let dumps = thread_dump::parse(text);
        for dump in dumps.iter().flatten() {
            let threads = dump.threads.iter();
            dump_ids.extend(threads.filter_map(|thread| ids::id_of_thread(thread.name)));
            analysis.add(source, dump);
        }
        if let Err(DumpError::NoThread(unread)) = &dumps {
            analysis.add_unread(source, *unread);
        }
        let log = server_log::parse(text);
        // A log lists the settings as well, each on a line of its own.
        let other = dumps.is_err() && log.is_none() && text.len() <= FILE_CAP;
        let properties = other
            .then(|| Properties::parse(text.as_bytes()).ok())
            .flatten()
            .filter(|settings| ids::own_id(settings).is_some());
        let found = Found::parse(text);
        let registrations = zookeeper::read(text);
        let quorum = quorum::read(text);
        let log_dirs = log_dirs::read(text);
        let open_files = limits::open_files(text);
        let threads = top::threads(text);
        let is_group = |line| matches!(line, groups::Line::Header | groups::Line::Error(_));
        let forms = [
            (Form::Dump, analysis.dumps.len() > first_dump),
            (Form::Sockets, sockets::lines(text, source).next().is_some()),
            (Form::Topics, topics::partitions(text).next().is_some()),
            (Form::Groups, groups::lines(text).any(is_group)),
            (Form::Fds, fds::fds(text).next().is_some()),
            (Form::ZooKeeper, registrations.is_some()),
            (Form::BrokerLog, log.as_ref().is_some_and(|log| log.broker)),
            (Form::ClientLog, log.as_ref().is_some_and(|log| !log.broker)),
            (Form::Settings, properties.is_some()),
            (Form::Quorum, quorum.is_some()),
            (Form::LogDirs, log_dirs.is_some()),
            (Form::Limits, open_files.is_some()),
            (Form::Top, !threads.is_empty()),
            (Form::Findings, found.is_some()),
        ];
        let forms: Vec<Form> = forms
            .into_iter()
            .filter_map(|(form, is_it)| is_it.then_some(form))
            .collect();
        if forms.is_empty() {
            return Err(match dumps {
                Err(error @ DumpError::OpenJ9) => Unrecognised::OpenJ9(error),
                _ => Unrecognised::UnknownForm,
            });
        }
        let dumps = first_dump..analysis.dumps.len();
        let mut own = analysis.dumps.get(dumps.clone()).into_iter().flatten();
        Ok(File {
            source,
            container,
            text,
            forms,
            dump_of_node: own.any(|dump| dump.of_node),
            dumps,
            dump_ids,
            log,
            properties,
            found,
            registrations,
            quorum,
            log_dirs,
            open_files,
            threads,
            metadata: None,
        })
    }

    /// The files of one metadata log; the last one has what all of them say.
    pub(super) fn metadata(metadata: &'a Metadata<'a>) -> impl Iterator<Item = File<'a>> {
        let (last, others) = metadata.sources.split_last().unzip();
        let part = |source: &&'a str| File {
            source,
            forms: vec![Form::MetadataLog],
            ..File::default()
        };
        let whole = move |source: &&'a str| File {
            forms: vec![Form::Topics, Form::MetadataLog],
            text: &metadata.described,
            metadata: Some(metadata),
            ..part(source)
        };
        let others = others.into_iter().flatten().map(part);
        others.chain(last.map(whole))
    }

    /// A file that only its bundle's manifest identifies.
    pub(super) fn evidence(source: &'a str) -> File<'a> {
        File {
            source,
            forms: vec![Form::Evidence],
            ..File::default()
        }
    }

    pub(super) fn is(&self, form: Form) -> bool {
        self.forms.contains(&form)
    }

    /// The rows of its `kafka-topics --describe`.
    pub(super) fn partitions(&self) -> impl Iterator<Item = Partition<'a>> + use<'a> {
        topics::partitions(self.text_of(Form::Topics))
    }

    /// The sockets that it shows with both addresses.
    pub(super) fn sockets(&self) -> impl Iterator<Item = Socket> + use<'a> {
        sockets::sockets(self.text_of(Form::Sockets), self.source)
    }

    /// All that it says about sockets.
    pub(super) fn socket_lines(&self) -> impl Iterator<Item = sockets::Line<'a>> + use<'a> {
        sockets::lines(self.text_of(Form::Sockets), self.source)
    }

    /// Its text, where that has the form.
    fn text_of(&self, form: Form) -> &'a str {
        if self.is(form) { self.text } else { "" }
    }

    /// Its log, where a broker wrote it.
    pub(super) fn broker_log(&self) -> Option<&Log<'a>> {
        self.log.as_ref().filter(|log| log.broker)
    }
}
