//! Makes a profile of rows, a batch at a time. Pure.

use std::{
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, PrimitiveArray, RecordBatch, StringArray, UInt32Array,
    cast::AsArray,
    types::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type},
};
use arrow_schema::DataType;

use super::{Bins, CATEGORIES, Cell, Column, Moments, Profile};
use crate::predlog::footer::{LogSchema, Part, Role};

/// Elements of a list that are columns of their own.
const ELEMENTS: usize = 128;
/// Different values that are counted while a file is written; what comes after them is `other`.
const COUNTED: usize = 10 * CATEGORIES;
/// Bytes of a text that is counted by value, or stands in the sample.
const MOST_TEXT: usize = 128;

/// Columns about requests whose values say something together. The others are names and numbers of single rows.
const ABOUT: [&str; 13] = [
    "route",
    "protocol",
    "status",
    "error_code",
    "cache",
    "batch_size",
    "queue_us",
    "pre_us",
    "infer_us",
    "post_us",
    "total_us",
    "device",
    "sample_p",
];

/// Numbers of a column that are looked at together: in order, so that equal ones are counted as one.
const TOGETHER: usize = 4096;

type Map<K> = HashMap<K, u64, foldhash::fast::RandomState>;

/// A profile in the making.
pub struct Builder {
    profile: Profile,
    /// Columns that are looked at, with what they are; list columns with their elements' type.
    wanted: Vec<Wanted>,
    making: HashMap<String, Making>,
    chosen: Chosen,
}

struct Wanted {
    name: String,
    role: Role,
    kind: String,
}

/// The sample in the making: each of its rows keeps its place until another one takes it.
#[derive(Default)]
struct Chosen {
    /// The rows' hashes, the largest first to go, with their places.
    keys: BinaryHeap<(u64, usize)>,
}

/// What is known of a column beside what its profile says already.
#[derive(Default)]
struct Making {
    /// Finite numbers that are not in the profile yet.
    numbers: Vec<f64>,
    counted: Counted,
}

/// How often values of a column were seen.
#[derive(Default)]
struct Counted {
    texts: Map<Arc<str>>,
    numbers: Map<u64>,
    other: u64,
}

impl Builder {
    /// `sample`: so many rows at most stand for all.
    pub fn new(schema: &LogSchema, sample: usize) -> Builder {
        let of_values = |part: Option<Part>| part.is_none_or(|part| part == Part::Value);
        let wanted = schema.columns.iter().filter(|column| match column.role {
            Role::Meta => ABOUT.contains(&column.name.as_str()),
            Role::Feature | Role::Prediction => of_values(column.part),
        });
        let wanted = wanted.map(|column| Wanted {
            name: column.name.clone(),
            role: column.role,
            kind: column.kind.clone(),
        });
        Builder {
            profile: Profile::empty(sample),
            wanted: wanted.collect(),
            making: HashMap::new(),
            chosen: Chosen::default(),
        }
    }

    /// Counts values into the bins of a reference from now on.
    pub fn against(&mut self, reference: &Profile) {
        let bins = reference.columns.iter().filter_map(|(name, column)| {
            let bins = Bins::of(column)?;
            let mut own = Column::new(column.role, &column.kind);
            own.bins = Some(bins);
            Some((name.clone(), own))
        });
        self.profile.columns = bins.collect();
    }

    pub fn add(&mut self, batch: &RecordBatch) {
        let fresh = self.chosen.of(batch, self.profile.sample.most);
        // What a row left in its place goes with it: a column need not be in every batch.
        for column in self.profile.columns.values_mut() {
            for row in &fresh {
                if let Some(cell) = column.sample.get_mut(row.place) {
                    *cell = Cell::Null;
                }
            }
        }
        for wanted in std::mem::take(&mut self.wanted) {
            if let Some(array) = batch.column_by_name(&wanted.name) {
                self.column(&wanted, array, &fresh);
            }
            self.wanted.push(wanted);
        }
        self.profile.rows += batch.num_rows() as u64;
    }

    fn column(&mut self, wanted: &Wanted, array: &ArrayRef, fresh: &[Fresh]) {
        let Some(list) = array.as_list_opt::<i32>() else {
            let cells = Cells { values: array, absent: 0 };
            return self.scalar((&wanted.name, &wanted.kind), wanted.role, cells, fresh);
        };
        let lengths = (0..list.len()).filter(|row| list.is_valid(*row));
        let lengths: Vec<f64> = lengths.map(|row| f64::from(list.value_length(row))).collect();
        let widest = lengths.iter().copied().fold(0.0, f64::max);
        let column = at(&mut self.profile, (&wanted.name, &wanted.kind), wanted.role);
        column.count += list.len() as u64;
        column.nulls += list.null_count() as u64;
        column.moments.merge(&Moments::of(&lengths));
        let kind = wanted.kind.strip_prefix("list<").and_then(|kind| kind.strip_suffix('>'));
        for element in 0..ELEMENTS.min(widest as usize) {
            let at = list.value_offsets().iter().zip(0..list.len()).map(|(first, row)| {
                let there = list.is_valid(row) && element < list.value_length(row) as usize;
                there.then(|| first.unsigned_abs() + element as u32)
            });
            let at: UInt32Array = at.collect();
            let Ok(values) = arrow_select::take::take(list.values(), &at, None) else { return };
            let name = format!("{}[{element}]", wanted.name);
            let cells = Cells { values: &values, absent: at.null_count() as u64 };
            self.scalar((&name, kind.unwrap_or("-")), wanted.role, cells, fresh);
        }
    }

    fn scalar(
        &mut self,
        (name, kind): (&str, &str),
        role: Role,
        cells: Cells<'_>,
        fresh: &[Fresh],
    ) {
        let making = self.making.entry(name.to_owned()).or_default();
        let column = at(&mut self.profile, (name, kind), role);
        let array = cells.values;
        column.count += array.len() as u64 - cells.absent;
        column.nulls += array.null_count() as u64 - cells.absent;
        if let Some(number) = numbers(array) {
            for value in (0..array.len()).filter_map(&number) {
                if value.is_finite() {
                    // -0 and 0 are one.
                    making.numbers.push(value + 0.0);
                } else {
                    column.nan += u64::from(value.is_nan());
                    column.infinite += u64::from(value.is_infinite());
                }
            }
            if making.numbers.len() >= TOGETHER {
                making.look(column);
            }
            sampled(column, fresh, |row| number(row).map_or(Cell::Null, Cell::Number));
        } else if let Some(texts) = array.as_string_opt::<i32>() {
            making.texts(column, texts);
            sampled(column, fresh, |row| cell(texts, row));
        }
    }

    pub fn finish(mut self) -> Profile {
        for (name, mut making) in self.making {
            let Some(column) = self.profile.columns.get_mut(&name) else { continue };
            making.look(column);
            let (counted, categories) = (making.counted, &mut column.categories);
            // Of numbers, many different ones are no categories: none is listed.
            if counted.numbers.len() <= CATEGORIES {
                let text = |bits: u64| Arc::from(f64::from_bits(bits).to_string());
                categories.counts =
                    counted.numbers.into_iter().map(|(v, n)| (text(v), n)).collect();
            } else {
                categories.other += counted.numbers.into_values().sum::<u64>();
            }
            categories.counts.extend(counted.texts);
            categories.other += counted.other;
            categories.keep(CATEGORIES);
        }
        // A reference's columns that the rows have not.
        self.profile.columns.retain(|_, column| column.count > 0);
        let mut order = self.chosen.keys.into_sorted_vec();
        order.dedup_by_key(|(key, _)| *key);
        for column in self.profile.columns.values_mut() {
            let cells = std::mem::take(&mut column.sample);
            let cell = |(_, place): &(u64, usize)| cells.get(*place).cloned().unwrap_or(Cell::Null);
            column.sample = order.iter().map(cell).collect();
        }
        self.profile.sample.keys = order.into_iter().map(|(key, _)| key).collect();
        self.profile
    }
}

fn at<'p>(profile: &'p mut Profile, (name, kind): (&str, &str), role: Role) -> &'p mut Column {
    let made = || Column::new(role, kind);
    profile.columns.entry(name.to_owned()).or_insert_with(made)
}

/// A row of a batch that the sample takes, and its place there.
struct Fresh {
    row: usize,
    place: usize,
}

impl Chosen {
    /// The rows of a batch that are of the sample, of so many at most, now, unless one that comes after it in here takes its place.
    fn of(&mut self, batch: &RecordBatch, most: usize) -> Vec<Fresh> {
        let ids = batch.column_by_name("event_id").and_then(|ids| ids.as_string_opt::<i32>());
        let hash = |id: &str| {
            let digest = <sha2::Sha256 as sha2::Digest>::digest(id.as_bytes());
            digest.iter().take(8).fold(0u64, |hash, byte| (hash << 8) | u64::from(*byte))
        };
        let ids = ids.into_iter().flat_map(|ids| ids.iter().enumerate());
        ids.filter_map(|(row, id)| {
            let place = self.place(hash(id?), most)?;
            Some(Fresh { row, place })
        })
        .collect()
    }

    fn place(&mut self, key: u64, most: usize) -> Option<usize> {
        if self.keys.len() < most {
            let place = self.keys.len();
            self.keys.push((key, place));
            return Some(place);
        }
        let mut largest = self.keys.peek_mut()?;
        let (last, place) = *largest;
        (key < last).then(|| {
            *largest = (key, place);
            place
        })
    }
}

impl Making {
    /// Puts the numbers into the profile.
    fn look(&mut self, column: &mut Column) {
        // As whole numbers in the same order, which sort faster.
        let mut keys: Vec<i64> = self.numbers.iter().map(|number| ordered(*number)).collect();
        keys.sort_unstable();
        self.numbers.clear();
        self.numbers.extend(keys.iter().map(|key| from_ordered(*key)));
        column.moments.merge(&Moments::of(&self.numbers));
        for equal in self.numbers.chunk_by(|a, b| a == b) {
            let Some(value) = equal.first() else { continue };
            column.sketches.numbers(equal);
            if !self.counted.number(*value, equal.len() as u64) {
                column.sketches.value(&value.to_bits());
            }
            if let Some(bins) = &mut column.bins {
                bins.add(*value, equal.len() as u64);
            }
        }
        self.numbers.clear();
    }

    fn texts(&mut self, column: &mut Column, texts: &StringArray) {
        let mut texts = texts.iter().flatten().peekable();
        // What is about requests has long runs of one text.
        while let Some(text) = texts.next() {
            let mut times = 1;
            while texts.next_if_eq(&text).is_some() {
                times += 1;
            }
            if !self.counted.text(text, times) {
                column.sketches.value(&text);
            }
        }
    }
}

/// A number that is in the order of those that it is made of.
fn ordered(number: f64) -> i64 {
    let bits = number.to_bits() as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

fn from_ordered(key: i64) -> f64 {
    f64::from_bits((key ^ ((key >> 63) as u64 >> 1) as i64) as u64)
}

/// The cells of a column in a batch, of which some do not belong to it: lists that are too short for this element.
#[derive(Clone, Copy)]
struct Cells<'a> {
    values: &'a ArrayRef,
    absent: u64,
}

/// Fills in the sample's new rows.
fn sampled(column: &mut Column, fresh: &[Fresh], cell: impl Fn(usize) -> Cell) {
    for Fresh { row, place } in fresh {
        if column.sample.len() <= *place {
            // It was not there in the rows before.
            column.sample.resize(place + 1, Cell::Null);
        }
        if let Some(own) = column.sample.get_mut(*place) {
            *own = cell(*row);
        }
    }
}

impl Counted {
    /// Counts a value; says whether it was counted by itself before.
    fn number(&mut self, value: f64, times: u64) -> bool {
        let different = self.numbers.len();
        // One more than would be listed, so that it shows that there are too many: then none is looked for any more.
        if different > CATEGORIES {
            self.other += times;
            return false;
        }
        let count = self.numbers.entry(value.to_bits()).or_default();
        *count += times;
        *count > times
    }

    /// Counts a text; says whether it was counted by itself before.
    fn text(&mut self, text: &str, times: u64) -> bool {
        let different = self.texts.len();
        match self.texts.get_mut(text) {
            Some(count) => {
                *count += times;
                return true;
            }
            None if different < COUNTED && text.len() <= MOST_TEXT => {
                self.texts.insert(text.into(), times);
            }
            None => self.other += times,
        }
        false
    }
}

fn cell(texts: &StringArray, row: usize) -> Cell {
    match texts.is_valid(row) && texts.value(row).len() <= MOST_TEXT {
        true => Cell::Text(texts.value(row).into()),
        false => Cell::Null,
    }
}

/// The numbers of a column, each by its row.
fn numbers(array: &ArrayRef) -> Option<Box<dyn Fn(usize) -> Option<f64> + '_>> {
    fn of<T: ArrowPrimitiveType>(
        array: &PrimitiveArray<T>,
        number: fn(T::Native) -> f64,
    ) -> Box<dyn Fn(usize) -> Option<f64> + '_> {
        Box::new(move |row| array.is_valid(row).then(|| number(array.value(row))))
    }
    Some(match array.data_type() {
        DataType::Float32 => of(array.as_primitive::<Float32Type>(), f64::from),
        DataType::Float64 => of(array.as_primitive::<Float64Type>(), |value| value),
        DataType::Int32 => of(array.as_primitive::<Int32Type>(), f64::from),
        DataType::Int64 => of(array.as_primitive::<Int64Type>(), |value| value as f64),
        DataType::Boolean => {
            let array = array.as_boolean();
            Box::new(move |row| array.is_valid(row).then(|| f64::from(u8::from(array.value(row)))))
        }
        _ => return None,
    })
}
