//! Records set aside on disk: in parts by a hash of their key, so that each part can be joined in memory, and in runs that are read in
//! the order in which they were written.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use onnxd::predlog::{
    labels::Label,
    reader::{ReadError, failed},
};

/// What can be set aside.
pub trait Record: Sized {
    fn put(&self, out: &mut Fields);
    /// `None` where the bytes are not what `put` wrote.
    fn get(from: &mut Written<'_>) -> Option<Self>;
}

/// The fields of a record, one behind the other.
#[derive(Default)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.number(text.len() as i64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub fn maybe<T>(&mut self, value: Option<T>, put: impl Fn(&mut Fields, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
    }

    pub fn double(&mut self, double: f64) {
        self.number(double.to_bits().cast_signed());
    }
}

/// The fields again.
pub struct Written<'a>(&'a [u8]);

impl Written<'_> {
    fn bytes(&mut self, count: usize) -> Option<&[u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    pub fn number(&mut self) -> Option<i64> {
        self.bytes(8)?.try_into().ok().map(i64::from_le_bytes)
    }

    pub fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        String::from_utf8(self.bytes(length)?.to_vec()).ok()
    }

    pub fn maybe<T>(&mut self, get: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.bytes(1)?.first()? {
            0 => Some(None),
            _ => get(self).map(Some),
        }
    }

    pub fn double(&mut self) -> Option<f64> {
        Some(f64::from_bits(self.number()?.cast_unsigned()))
    }
}

impl Record for Label {
    fn put(&self, out: &mut Fields) {
        out.text(&self.label_key);
        out.maybe(self.event_id.as_deref(), Fields::text);
        out.number(self.ts_label);
        out.maybe(self.ts_event, Fields::number);
        out.maybe(self.label.as_deref(), Fields::text);
        out.maybe(self.label_value, Fields::double);
        out.maybe(self.weight, Fields::double);
        out.maybe(self.source.as_deref(), Fields::text);
        out.number(self.revision);
        out.number(i64::from(self.deleted));
    }

    fn get(from: &mut Written<'_>) -> Option<Label> {
        Some(Label {
            label_key: from.text()?,
            event_id: from.maybe(Written::text)?,
            ts_label: from.number()?,
            ts_event: from.maybe(Written::number)?,
            label: from.maybe(Written::text)?,
            label_value: from.maybe(Written::double)?,
            weight: from.maybe(Written::double)?,
            source: from.maybe(Written::text)?,
            revision: from.number()?,
            deleted: from.number()? != 0,
        })
    }
}

/// A file of records that is being written.
pub struct Run {
    path: PathBuf,
    file: BufWriter<File>,
    fields: Fields,
}

impl Run {
    pub fn create(path: PathBuf) -> Result<Run, ReadError> {
        let file = File::create(&path).map_err(|error| failed(&path, error))?;
        Ok(Run { path, file: BufWriter::new(file), fields: Fields::default() })
    }

    pub fn add(&mut self, record: &impl Record) -> Result<(), ReadError> {
        self.fields.0.clear();
        record.put(&mut self.fields);
        let length = (self.fields.0.len() as u64).to_le_bytes();
        let written =
            self.file.write_all(&length).and_then(|()| self.file.write_all(&self.fields.0));
        written.map_err(|error| failed(&self.path, error))
    }

    /// It can be read from now on.
    pub fn finish(mut self) -> Result<PathBuf, ReadError> {
        self.file.flush().map_err(|error| failed(&self.path, error))?;
        Ok(self.path)
    }
}

/// The records of a file, in the order in which they were written.
pub struct Records<T> {
    path: PathBuf,
    file: BufReader<File>,
    bytes: Vec<u8>,
    next: Option<T>,
}

impl<T: Record> Records<T> {
    pub fn open(path: &Path) -> Result<Records<T>, ReadError> {
        let file = File::open(path).map_err(|error| failed(path, error))?;
        let (path, file) = (path.to_owned(), BufReader::new(file));
        let mut records = Records { path, file, bytes: Vec::new(), next: None };
        records.next = records.read().transpose()?;
        Ok(records)
    }

    /// The record that comes next.
    pub fn peek(&self) -> Option<&T> {
        self.next.as_ref()
    }

    fn read(&mut self) -> Option<Result<T, ReadError>> {
        let mut length = [0; 8];
        match self.file.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => return Some(Err(failed(&self.path, error))),
        }
        self.bytes.clear();
        let length = u64::from_le_bytes(length);
        if let Err(error) = self.file.by_ref().take(length).read_to_end(&mut self.bytes) {
            return Some(Err(failed(&self.path, error)));
        }
        let record = T::get(&mut Written(&self.bytes));
        Some(record.ok_or_else(|| failed(&self.path, "somebody wrote in this temporary file")))
    }
}

impl<T: Record> Iterator for Records<T> {
    type Item = Result<T, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.next.take()?;
        match self.read().transpose() {
            Ok(next) => self.next = next,
            Err(error) => return Some(Err(error)),
        }
        Some(Ok(record))
    }
}

/// Records in parts, those of one key in one part.
pub struct Parts(Vec<Run>);

impl Parts {
    /// So many files in `dir`, called `name` and a number.
    pub fn create(dir: &Path, name: &str, count: usize) -> Result<Parts, ReadError> {
        let create = |n| Run::create(dir.join(format!("{name}-{n}")));
        (0..count).map(create).collect::<Result<_, _>>().map(Parts)
    }

    pub fn add(&mut self, key: &str, record: &impl Record) -> Result<(), ReadError> {
        let at = hash(key) as usize % self.0.len().max(1);
        self.0.get_mut(at).map_or(Ok(()), |run| run.add(record))
    }

    pub fn finish(self) -> Result<Vec<PathBuf>, ReadError> {
        self.0.into_iter().map(Run::finish).collect()
    }
}

/// A number that stands for a text within one run of the program.
pub fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn label() -> impl Strategy<Value = Label> {
        let text = || prop::option::of(".{0,9}");
        let number = || prop::option::of(any::<i64>());
        let double = || prop::option::of(-1e300..1e300);
        let first = (".{0,9}", text(), any::<i64>(), number(), text());
        (first, (double(), double(), text(), any::<i64>(), any::<bool>())).prop_map(|(a, b)| {
            Label {
                label_key: a.0,
                event_id: a.1,
                ts_label: a.2,
                ts_event: a.3,
                label: a.4,
                label_value: b.0,
                weight: b.1,
                source: b.2,
                revision: b.3,
                deleted: b.4,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_set_aside_comes_back_in_order_and_each_key_in_one_part(
            labels in prop::collection::vec(label(), 0..40), count in 1usize..5,
        ) {
            let dir = tempfile::tempdir().expect("a directory");
            let mut parts = Parts::create(dir.path(), "part", count).expect("made");
            for label in &labels {
                parts.add(&label.label_key, label).expect("written");
            }
            let mut found = Vec::new();
            for (n, path) in parts.finish().expect("written").iter().enumerate() {
                let part: Vec<Label> =
                    Records::open(path).expect("open").map(|label| label.expect("read")).collect();
                for label in &part {
                    prop_assert_eq!(hash(&label.label_key) as usize % count, n);
                }
                let same = labels.iter().filter(|l| hash(&l.label_key) as usize % count == n);
                prop_assert!(part.iter().eq(same));
                found.extend(part);
            }
            prop_assert_eq!(found.len(), labels.len());
        }
    }
}
