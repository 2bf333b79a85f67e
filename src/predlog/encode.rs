//! Records to columns: everything that becomes of a value before it is written anywhere.

use std::{borrow::Cow, sync::Arc};

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    builder::{
        ArrayBuilder, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, Int64Builder,
        ListBuilder, MapBuilder, MapFieldNames, StringBuilder,
    },
};
use uuid::Builder;

use super::{
    cells::{Part, Predicted, Row},
    columns::{Column, Kind, Scalar, Source, meta::Meta},
    large::{Large, Larges},
    record::Record,
    redact::Redaction,
    schema,
    subject::Subject,
};
use crate::types::{time::Tick, trace::TraceIds};

/// What a tick is on the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Anchor {
    pub tick: Tick,
    /// Microseconds since 1970, then.
    pub wall_us: i64,
}

impl Anchor {
    pub fn wall_us(&self, tick: Tick) -> i64 {
        let since = i128::from(tick.0) - i128::from(self.tick.0);
        self.wall_us.saturating_add(i64::try_from(since / 1000).unwrap_or(0))
    }
}

/// Gives every row its id: the time and 74 bits of chance, so that ids sort by time and never meet.
pub struct Ids(u64);

impl Ids {
    pub fn new(seed: u64) -> Ids {
        Ids(seed)
    }

    /// Chance, from a sequence that is as long as a number of 64 bits.
    pub fn chance(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A UUID of version 7.
    pub fn next(&mut self, wall_us: i64) -> uuid::Uuid {
        let millis = u64::try_from(wall_us / 1000).unwrap_or(0);
        let mut random = [0; 10];
        let (a, b) = (self.chance().to_le_bytes(), self.chance().to_le_bytes());
        random[..8].copy_from_slice(&a);
        random[8..].copy_from_slice(&b[..2]);
        Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

/// The rows of records of one version. `larges`: of the same records and anchor.
///
/// # Errors
/// The columns do not fit the schema, which would be a mistake of ours.
pub fn encode(
    records: &[Record],
    larges: &Larges<'_>,
    ids: &mut Ids,
    anchor: Anchor,
) -> Result<RecordBatch, String> {
    let Some(first) = records.first() else { return Err("there are no records".into()) };
    let subject = first.subject.clone();
    let rows = records.iter().map(|record| record.rows).sum();
    let encoding = Encoding { records, larges, subject: &subject, rows, anchor };
    let columns = subject.columns.columns.iter().zip(&subject.redactions);
    let arrays =
        columns.map(|(column, redaction)| encoding.column(column, redaction.as_ref(), ids));
    RecordBatch::try_new(subject.schema.clone(), arrays.collect()).map_err(|e| e.to_string())
}

struct Encoding<'a> {
    records: &'a [Record],
    larges: &'a Larges<'a>,
    subject: &'a Subject,
    rows: usize,
    anchor: Anchor,
}

/// Texts come owned or not.
type Texts<'t> = Cow<'t, str>;

impl<'a> Encoding<'a> {
    fn column(&self, column: &Column, redaction: Option<&Redaction>, ids: &mut Ids) -> ArrayRef {
        let name = &*column.name;
        match (column.source, column.kind) {
            (Source::Meta(meta), _) => self.meta(meta, name, redaction, ids),
            (Source::PredLabel, _) => self.predicted_label(name, redaction),
            (Source::PredScore, kind) => self.predicted_score(kind, name, redaction),
            (Source::Element { tensor, at }, Kind::Scalar(scalar)) => {
                self.elements(&Cells { tensor, name, redaction }, at, scalar)
            }
            (Source::Whole { tensor }, Kind::List(scalar)) => {
                self.lists(&Cells { tensor, name, redaction }, scalar)
            }
            (Source::Shape { tensor }, _) => self.shapes(tensor),
            (Source::Digest { tensor }, _) => {
                self.of_large(tensor, name, redaction, |large| Some(&large.digest))
            }
            (Source::Reference { tensor }, _) => {
                self.of_large(tensor, name, redaction, |large| large.reference.as_deref())
            }
            // `columns` makes no others.
            _ => arrow_array::new_null_array(&schema::data_type(column.kind), self.rows),
        }
    }

    /// Each row's record, and which row of it it is.
    fn each(&self) -> impl Iterator<Item = (&'a Record, usize)> {
        self.records.iter().flat_map(|record| (0..record.rows).map(move |row| (record, row)))
    }

    fn ints(&self, of: impl Fn(&Record) -> Option<i32>) -> ArrayRef {
        Arc::new(Int32Array::from_iter(self.each().map(|(record, _)| of(record))))
    }

    fn longs(&self, of: impl Fn(&Record) -> Option<i64>) -> ArrayRef {
        Arc::new(Int64Array::from_iter(self.each().map(|(record, _)| of(record))))
    }

    fn texts<'t>(
        &self,
        name: &str,
        redaction: Option<&Redaction>,
        of: impl Fn(&'a Record) -> Option<&'t str>,
    ) -> ArrayRef
    where
        'a: 't,
    {
        let mut texts = StringBuilder::with_capacity(self.rows, self.rows * 16);
        for (record, _) in self.each() {
            append(&mut texts, name, redaction, of(record).map(Texts::Borrowed));
        }
        Arc::new(texts.finish())
    }

    fn meta(
        &self,
        meta: Meta,
        name: &str,
        redaction: Option<&Redaction>,
        ids: &mut Ids,
    ) -> ArrayRef {
        let subject = self.subject;
        let us = |time: std::time::Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let answered = |record: &Record| record.code.is_none();
        let ran = |record: &Record| answered(record) && record.batch.is_some();
        match meta {
            Meta::EventId => self.event_ids(ids),
            Meta::Row => {
                let row = |row: usize| i32::try_from(row).unwrap_or(i32::MAX);
                Arc::new(Int32Array::from_iter_values(self.each().map(|(_, at)| row(at))))
            }
            Meta::LabelKey => self.label_keys(name, redaction),
            Meta::Ts => self.times(),
            Meta::RolloutStep => self.ints(|r| r.route.rollout().map(|(_, step)| *step)),
            Meta::TraceId => self.hexes(name, redaction, |ids| &ids.trace),
            Meta::SpanId => self.hexes(name, redaction, |ids| &ids.span),
            Meta::Status => self.ints(|r| Some(r.code.map_or(200, |code| i32::from(code.http())))),
            Meta::BatchSize => {
                self.ints(|r| r.batch.map(|(rows, _)| i32::try_from(rows).unwrap_or(i32::MAX)))
            }
            Meta::BatchId => self.longs(|r| r.batch.map(|(_, id)| id.cast_signed())),
            Meta::QueueUs => self.longs(|r| ran(r).then(|| us(r.spans.queue))),
            Meta::PreUs => self.longs(|r| ran(r).then(|| us(r.spans.input))),
            Meta::InferUs => self.longs(|r| ran(r).then(|| us(r.spans.infer))),
            Meta::PostUs => self.longs(|r| ran(r).then(|| us(r.spans.output))),
            Meta::TotalUs => self.longs(|r| Some(us(r.spans.total))),
            Meta::SampleP => Arc::new(Float64Array::from_iter_values(
                self.each().map(|(record, _)| record.sample_p),
            )),
            Meta::RedactionRev => self.ints(|_| Some(subject.footer.redaction_rev)),
            Meta::Tags => self.tags(),
            _ => self.texts(name, redaction, |record| text(meta, record, subject)),
        }
    }

    fn hexes(
        &self,
        name: &str,
        redaction: Option<&Redaction>,
        of: impl Fn(&TraceIds) -> &[u8],
    ) -> ArrayRef {
        let mut texts = StringBuilder::new();
        for (record, _) in self.each() {
            let hex = record.texts.trace.as_ref().map(|ids| Texts::Owned(hex::encode(of(ids))));
            append(&mut texts, name, redaction, hex);
        }
        Arc::new(texts.finish())
    }

    fn event_ids(&self, ids: &mut Ids) -> ArrayRef {
        let mut texts = StringBuilder::with_capacity(self.rows, self.rows * 36);
        let mut buffer = [0; 36];
        for (record, _) in self.each() {
            let id = ids.next(self.anchor.wall_us(record.received));
            texts.append_value(&*id.hyphenated().encode_lower(&mut buffer));
        }
        Arc::new(texts.finish())
    }

    fn times(&self) -> ArrayRef {
        let times = self.each().map(|(record, _)| self.anchor.wall_us(record.received));
        Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
    }

    /// The client's key as it gave it; of several rows, with the row behind it; without one, that of the request.
    fn label_keys(&self, name: &str, redaction: Option<&Redaction>) -> ArrayRef {
        // What stands in `request_id` must not stand here either way.
        let columns = self.subject.columns.columns.iter().zip(&self.subject.redactions);
        let id = columns
            .clone()
            .find(|(column, _)| column.source == Source::Meta(Meta::RequestId))
            .and_then(|(column, redaction)| Some((&*column.name, redaction.as_ref()?)));
        let mut texts = StringBuilder::with_capacity(self.rows, self.rows * 40);
        for (record, row) in self.each() {
            let key = match (&record.texts.label_key, id) {
                (Some(key), _) if record.rows == 1 => Texts::Borrowed(&**key),
                (Some(key), _) => format!("{key}:{row}").into(),
                (None, None) => format!("{}:{row}", record.texts.request_id).into(),
                (None, Some((name, hidden))) => {
                    format!("{}:{row}", hidden.text(name, &record.texts.request_id)).into()
                }
            };
            append(&mut texts, name, redaction, Some(key));
        }
        Arc::new(texts.finish())
    }

    fn tags(&self) -> ArrayRef {
        let names =
            MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
        let mut sound = true;
        for (record, _) in self.each() {
            let tags = &record.texts.tags;
            for (key, value) in tags {
                map.keys().append_value(key);
                map.values().append_value(value);
            }
            sound &= map.append(!tags.is_empty()).is_ok();
        }
        debug_assert!(sound, "as many keys as values");
        Arc::new(map.finish())
    }

    fn predicted_label(&self, name: &str, redaction: Option<&Redaction>) -> ArrayRef {
        let mut texts = StringBuilder::with_capacity(self.rows, self.rows * 8);
        for record in self.records {
            let predicted = Predicted::of(record, self.subject);
            for row in 0..record.rows {
                append(&mut texts, name, redaction, predicted.label(row).map(Texts::Owned));
            }
        }
        Arc::new(texts.finish())
    }

    fn predicted_score(&self, kind: Kind, name: &str, redaction: Option<&Redaction>) -> ArrayRef {
        let scores = self.records.iter().flat_map(|record| {
            let predicted = Predicted::of(record, self.subject);
            (0..record.rows).map(move |row| predicted.score(row)).collect::<Vec<_>>()
        });
        match (kind, redaction) {
            (Kind::Scalar(Scalar::String), _) => {
                let mut texts = StringBuilder::new();
                for score in scores {
                    let text = score.map(|score| Texts::Owned(score.to_string()));
                    append(&mut texts, name, redaction, text);
                }
                Arc::new(texts.finish())
            }
            (_, None) => Arc::new(Float64Array::from_iter(scores)),
            (_, Some(rule)) => {
                Arc::new(Float64Array::from_iter(scores.map(|s| s.map(|s| rule.number(s)))))
            }
        }
    }

    /// Calls `f` with each row's part of a tensor; `None` where the record has none.
    fn rows_of(&self, tensor: usize, mut f: impl FnMut(Option<Row<'_, '_>>)) {
        for record in self.records {
            let part = Part::of(record, tensor, self.subject.columns.table);
            for row in 0..record.rows {
                f(part.as_ref().map(|part| part.row(row)));
            }
        }
    }

    fn elements(&self, cells: &Cells<'_>, at: usize, scalar: Scalar) -> ArrayRef {
        let Cells { tensor, .. } = *cells;
        macro_rules! column {
            ($builder:expr, $read:expr) => {{
                let mut values = $builder;
                self.rows_of(tensor, |row| match row.filter(|row| at < row.count()) {
                    Some(row) => values.append_value($read(&row, at)),
                    None => values.append_null(),
                });
                Arc::new(values.finish())
            }};
        }
        let rows = self.rows;
        match scalar {
            Scalar::Bool => {
                column!(BooleanBuilder::with_capacity(rows), |r: &Row, n| r.whole(n) != 0)
            }
            Scalar::Int32 => {
                column!(Int32Builder::with_capacity(rows), |r: &Row, n| cells.int(r, n))
            }
            Scalar::Int64 => {
                column!(Int64Builder::with_capacity(rows), |r: &Row, n| cells.long(r, n))
            }
            Scalar::Float => {
                column!(Float32Builder::with_capacity(rows), |r: &Row, n| cells.float(r, n))
            }
            Scalar::Double => {
                column!(Float64Builder::with_capacity(rows), |r: &Row, n| cells.double(r, n))
            }
            Scalar::String => column!(StringBuilder::new(), |r: &Row, n| cells.text(r, n)),
        }
    }

    fn lists(&self, cells: &Cells<'_>, scalar: Scalar) -> ArrayRef {
        let most = self.subject.options.max_inline_bytes;
        macro_rules! column {
            ($builder:expr, $read:expr) => {{
                let mut lists = ListBuilder::new($builder).with_field(schema::element(scalar));
                self.rows_of(cells.tensor, |row| match row.filter(|row| row.bytes() <= most) {
                    Some(row) => {
                        for at in 0..row.count() {
                            lists.values().append_value($read(&row, at));
                        }
                        lists.append(true);
                    }
                    None => lists.append(false),
                });
                debug_assert_eq!(lists.len(), self.rows);
                Arc::new(lists.finish())
            }};
        }
        match scalar {
            Scalar::Bool => column!(BooleanBuilder::new(), |r: &Row, n| r.whole(n) != 0),
            Scalar::Int32 => column!(Int32Builder::new(), |r: &Row, n| cells.int(r, n)),
            Scalar::Int64 => column!(Int64Builder::new(), |r: &Row, n| cells.long(r, n)),
            Scalar::Float => column!(Float32Builder::new(), |r: &Row, n| cells.float(r, n)),
            Scalar::Double => column!(Float64Builder::new(), |r: &Row, n| cells.double(r, n)),
            Scalar::String => column!(StringBuilder::new(), |r: &Row, n| cells.text(r, n)),
        }
    }

    fn shapes(&self, tensor: usize) -> ArrayRef {
        let element = schema::element(Scalar::Int32);
        let mut lists = ListBuilder::new(Int32Builder::new()).with_field(element);
        self.rows_of(tensor, |row| {
            for dim in row.iter().flat_map(Row::dims) {
                lists.values().append_value(i32::try_from(*dim).unwrap_or(i32::MAX));
            }
            lists.append(row.is_some());
        });
        Arc::new(lists.finish())
    }

    /// Only of what is too large to stand beside it.
    fn of_large(
        &self,
        tensor: usize,
        name: &str,
        redaction: Option<&Redaction>,
        of: impl Fn(&'a Large<'a>) -> Option<&'a str>,
    ) -> ArrayRef {
        let mut texts = StringBuilder::new();
        for row in 0..self.rows {
            let text = self.larges.at(tensor, row).and_then(&of);
            append(&mut texts, name, redaction, text.map(Texts::Borrowed));
        }
        Arc::new(texts.finish())
    }
}

/// A text of a record, or of its version.
fn text<'t>(meta: Meta, record: &'t Record, subject: &'t Subject) -> Option<&'t str> {
    let texts = &record.texts;
    match meta {
        Meta::RequestId => Some(&texts.request_id),
        Meta::ModelName => Some(&subject.model),
        Meta::ModelVersion => Some(&subject.version),
        Meta::ModelDigest => Some(&subject.digest),
        Meta::RequestedVersion => texts.requested_version.as_deref(),
        Meta::Route => Some(record.route.name()),
        Meta::RolloutId => record.route.rollout().map(|(id, _)| &**id),
        Meta::Protocol => Some(record.protocol),
        Meta::ErrorCode => record.code.map(|code| code.label()),
        Meta::Cache => Some(record.cache.label()),
        Meta::Device => Some(&subject.device),
        Meta::Node => Some(&subject.node),
        Meta::Caller => texts.caller.as_deref(),
        Meta::Tenant => texts.tenant.as_deref(),
        Meta::SubjectKey => texts.subject_key.as_deref(),
        Meta::SchemaId => Some(&subject.footer.schema_id),
        _ => None,
    }
}

fn append(
    texts: &mut StringBuilder,
    name: &str,
    redaction: Option<&Redaction>,
    text: Option<Texts<'_>>,
) {
    match (text, redaction) {
        (None, _) => texts.append_null(),
        (Some(text), None) => texts.append_value(text),
        (Some(text), Some(rule)) => texts.append_value(rule.text(name, &text)),
    }
}

/// The cells of one tensor, and what becomes of each.
struct Cells<'c> {
    tensor: usize,
    name: &'c str,
    redaction: Option<&'c Redaction>,
}

impl Cells<'_> {
    fn int(&self, row: &Row<'_, '_>, at: usize) -> i32 {
        i32::try_from(self.long(row, at)).unwrap_or(i32::MAX)
    }

    fn long(&self, row: &Row<'_, '_>, at: usize) -> i64 {
        let value = row.whole(at);
        self.redaction.map_or(value, |rule| rule.number(value as f64) as i64)
    }

    fn float(&self, row: &Row<'_, '_>, at: usize) -> f32 {
        let value = row.float(at);
        self.redaction.map_or(value, |rule| rule.number(f64::from(value)) as f32)
    }

    fn double(&self, row: &Row<'_, '_>, at: usize) -> f64 {
        let value = row.double(at);
        self.redaction.map_or(value, |rule| rule.number(value))
    }

    fn text(&self, row: &Row<'_, '_>, at: usize) -> String {
        let text = row.text(at);
        self.redaction.map(|rule| rule.text(self.name, &text)).unwrap_or(text)
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
