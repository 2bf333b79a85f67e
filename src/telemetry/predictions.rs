//! The prediction log's numbers, and its part of the metrics page.

use super::{names, prometheus::Page};

/// Why rows were not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model's ring was full.
    Full,
    /// What all models' rows may hold was.
    Memory,
    /// The disk did not take them.
    Disk,
    /// The write-ahead log was as large as it may be.
    WalFull,
    /// The server had closed the log.
    Closed,
    /// They could not be made into columns.
    Encoding,
}

impl Reason {
    pub const ALL: [Reason; 6] = [
        Reason::Full,
        Reason::Memory,
        Reason::Disk,
        Reason::WalFull,
        Reason::Closed,
        Reason::Encoding,
    ];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::Full => "ring_full",
            Reason::Memory => "memory",
            Reason::Disk => "disk",
            Reason::WalFull => "wal_full",
            Reason::Closed => "closed",
            Reason::Encoding => "encoding",
        }
    }
}

/// Why retention removed a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Age,
    Size,
    /// It is not in the object store, and there was no room for it.
    NotUp,
}

impl Cause {
    pub const ALL: [Cause; 3] = [Cause::Age, Cause::Size, Cause::NotUp];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Age => "age",
            Cause::Size => "size",
            Cause::NotUp => "not_uploaded",
        }
    }
}

/// Why a file did not go to the object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadFailure {
    /// The store does not answer, or not in time.
    Unreachable,
    /// It says no: no such bucket, no right to it, nothing like it known there.
    Refused,
    /// Something else is there by that name.
    Conflict,
    /// A file cannot be read here, or not noted.
    Local,
}

impl UploadFailure {
    pub const ALL: [UploadFailure; 4] = [
        UploadFailure::Unreachable,
        UploadFailure::Refused,
        UploadFailure::Conflict,
        UploadFailure::Local,
    ];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            UploadFailure::Unreachable => "unreachable",
            UploadFailure::Refused => "refused",
            UploadFailure::Conflict => "conflict",
            UploadFailure::Local => "local",
        }
    }
}

/// Small files that were put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactionReading {
    pub done: u64,
    pub failed: u64,
    /// That became others.
    pub files: u64,
}

/// Files that go to an object store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadReading {
    pub files: u64,
    pub bytes: u64,
    /// Objects that compactions and erasures had go.
    pub removed: u64,
    pub waiting: u64,
    /// For how long the first of them does.
    pub lag_seconds: u64,
    /// By `UploadFailure as usize`.
    pub failures: [u64; UploadFailure::ALL.len()],
}

/// Rows of one model: received, once sampled, is what was written, was dropped or is in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub received: u64,
    pub written: u64,
    /// By `Reason as usize`.
    pub dropped: [u64; Reason::ALL.len()],
    pub in_flight: u64,
}

impl Account {
    pub fn all_dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether the sum holds.
    pub fn holds(&self) -> bool {
        self.received == self.written + self.all_dropped() + self.in_flight
    }
}

/// The log of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelReading {
    pub model: String,
    pub account: Account,
    /// Bytes of rows in memory.
    pub queue_bytes: u64,
}

/// What was taken in of labels for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelReading {
    pub model: String,
    /// Labels that said something new, and those that were known.
    pub new: u64,
    pub same: u64,
}

/// Files of labels that lay in their folder: brought in, and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LabelFiles {
    pub done: u64,
    pub failed: u64,
}

/// The log as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub models: Vec<ModelReading>,
    /// Bytes of the write-ahead log that are not Parquet yet.
    pub wal_bytes: u64,
    /// The last write went well.
    pub writable: bool,
    /// Parquet files written, and rows in them.
    pub files: u64,
    pub file_rows: u64,
    /// Rows found in write-ahead logs of servers that did not end well.
    pub recovered_rows: u64,
    /// Bytes cut off from such.
    pub torn_bytes: u64,
    /// Large tensors that were written as files of their own, and their bytes.
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Files that retention removed, by `Cause as usize`.
    pub expired_files: [u64; Cause::ALL.len()],
    /// Rows that were left out of files, since their subject is erased.
    pub erased_rows: u64,
    pub labels: Vec<LabelReading>,
    pub label_files: LabelFiles,
    /// Where small files are put together by themselves.
    pub compaction: Option<CompactionReading>,
    /// Where files go to an object store.
    pub upload: Option<UploadReading>,
}

/// Writes the log's numbers, where there is one.
pub fn write(page: &mut Page, reading: Option<&Reading>) {
    let Some(reading) = reading else { return };
    write_labels(page, reading);
    if reading.models.is_empty() {
        return;
    }
    page.family(&names::PREDICTIONS_RECEIVED);
    for model in &reading.models {
        let labels = [("model", &*model.model)];
        page.sample(names::PREDICTIONS_RECEIVED.name, &labels, model.account.received);
    }
    page.family(&names::PREDICTIONS_WRITTEN);
    for model in &reading.models {
        let labels = [("model", &*model.model)];
        page.sample(names::PREDICTIONS_WRITTEN.name, &labels, model.account.written);
    }
    page.family(&names::PREDICTIONS_DROPPED);
    for model in &reading.models {
        for reason in Reason::ALL {
            let labels = [("model", &*model.model), ("reason", reason.label())];
            let dropped = model.account.dropped[reason as usize];
            page.sample(names::PREDICTIONS_DROPPED.name, &labels, dropped);
        }
    }
    page.family(&names::PREDICTIONS_IN_FLIGHT);
    for model in &reading.models {
        let labels = [("model", &*model.model)];
        page.sample(names::PREDICTIONS_IN_FLIGHT.name, &labels, model.account.in_flight);
    }
    page.family(&names::PREDICTIONS_QUEUE_BYTES);
    for model in &reading.models {
        let labels = [("model", &*model.model)];
        page.sample(names::PREDICTIONS_QUEUE_BYTES.name, &labels, model.queue_bytes);
    }
    page.single(&names::PREDICTIONS_WAL_BYTES, Some(reading.wal_bytes));
    page.single(&names::PREDICTIONS_WRITABLE, Some(u8::from(reading.writable)));
    page.single(&names::PREDICTIONS_FILES, Some(reading.files));
    page.single(&names::PREDICTIONS_FILE_ROWS, Some(reading.file_rows));
    page.single(&names::PREDICTIONS_RECOVERED, Some(reading.recovered_rows));
    page.single(&names::PREDICTIONS_TORN, Some(reading.torn_bytes));
    page.single(&names::PREDICTIONS_BLOBS, Some(reading.blobs));
    page.single(&names::PREDICTIONS_BLOB_BYTES, Some(reading.blob_bytes));
    page.family(&names::PREDICTIONS_EXPIRED);
    for cause in Cause::ALL {
        let labels = [("reason", cause.label())];
        page.sample(
            names::PREDICTIONS_EXPIRED.name,
            &labels,
            reading.expired_files[cause as usize],
        );
    }
    page.single(&names::PREDICTIONS_ERASED, Some(reading.erased_rows));
    if let Some(compaction) = &reading.compaction {
        page.family(&names::COMPACTIONS);
        for (outcome, count) in [("done", compaction.done), ("failed", compaction.failed)] {
            page.sample(names::COMPACTIONS.name, &[("outcome", outcome)], count);
        }
        page.single(&names::COMPACTED_FILES, Some(compaction.files));
    }
    if let Some(upload) = &reading.upload {
        write_upload(page, upload);
    }
}

fn write_labels(page: &mut Page, reading: &Reading) {
    if !reading.labels.is_empty() {
        page.family(&names::PREDICTIONS_LABELS);
        for of in &reading.labels {
            for (outcome, count) in [("new", of.new), ("same", of.same)] {
                let labels = [("model", &*of.model), ("outcome", outcome)];
                page.sample(names::PREDICTIONS_LABELS.name, &labels, count);
            }
        }
    }
    let files = reading.label_files;
    if files != LabelFiles::default() {
        page.family(&names::PREDICTIONS_LABEL_FILES);
        for (outcome, count) in [("done", files.done), ("failed", files.failed)] {
            let labels = [("outcome", outcome)];
            page.sample(names::PREDICTIONS_LABEL_FILES.name, &labels, count);
        }
    }
}

fn write_upload(page: &mut Page, upload: &UploadReading) {
    page.single(&names::UPLOAD_LAG, Some(upload.lag_seconds));
    page.single(&names::UPLOAD_WAITING, Some(upload.waiting));
    page.single(&names::UPLOAD_FILES, Some(upload.files));
    page.single(&names::UPLOAD_BYTES, Some(upload.bytes));
    page.single(&names::UPLOAD_REMOVED, Some(upload.removed));
    page.family(&names::UPLOAD_FAILURES);
    for kind in UploadFailure::ALL {
        let labels = [("reason", kind.label())];
        page.sample(names::UPLOAD_FAILURES.name, &labels, upload.failures[kind as usize]);
    }
}
