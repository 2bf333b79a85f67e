//! Makes a profile of rows, a batch at a time. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, RecordBatch, StringArray, UInt32Array,
    cast::AsArray,
    types::{Float32Type, Float64Type, Int32Type, Int64Type},
};
use arrow_schema::DataType;

use super::{Bins, CATEGORIES, Cell, Column, Moments, Place, Profile};
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

/// A profile in the making.
pub struct Builder {
    profile: Profile,
    /// Columns that are looked at, with what they are; list columns with their elements' type.
    wanted: Vec<Wanted>,
    counted: HashMap<String, Counted>,
}

struct Wanted {
    name: String,
    role: Role,
    kind: String,
}

/// How often values of a column were seen.
#[derive(Default)]
struct Counted {
    texts: HashMap<Arc<str>, u64>,
    numbers: HashMap<u64, u64>,
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
            counted: HashMap::new(),
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
        let keys = keys(batch);
        let order =
            self.profile.sample.united(&keys.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        // Where a key stands among the new ones, and the row that it is of.
        let order: Vec<Place> = order
            .into_iter()
            .map(|(_, place)| match place {
                Place::Right(at) => Place::Right(keys.get(at).map_or(0, |(_, row)| *row)),
                left => left,
            })
            .collect();
        // What is left of the sample moves to its place; new rows of it are filled in.
        for column in self.profile.columns.values_mut() {
            let old = std::mem::take(&mut column.sample);
            let kept = order.iter().map(|place| match place {
                Place::Left(at) => old.get(*at).cloned().unwrap_or(Cell::Null),
                Place::Right(_) => Cell::Null,
            });
            column.sample = kept.collect();
        }
        for wanted in std::mem::take(&mut self.wanted) {
            if let Some(array) = batch.column_by_name(&wanted.name) {
                self.column(&wanted, array, &order);
            }
            self.wanted.push(wanted);
        }
        let old = std::mem::take(&mut self.profile.sample.keys);
        let by_row: BTreeMap<usize, u64> = keys.into_iter().map(|(key, row)| (row, key)).collect();
        self.profile.sample.keys = order
            .iter()
            .filter_map(|place| match place {
                Place::Left(at) => old.get(*at).copied(),
                Place::Right(row) => by_row.get(row).copied(),
            })
            .collect();
        self.profile.rows += batch.num_rows() as u64;
    }

    fn column(&mut self, wanted: &Wanted, array: &ArrayRef, order: &[Place]) {
        let Some(list) = array.as_list_opt::<i32>() else {
            let cells = Cells { values: array, absent: 0 };
            return self.scalar((&wanted.name, &wanted.kind), wanted.role, cells, order);
        };
        let lengths = (0..list.len()).filter(|row| list.is_valid(*row));
        let lengths: Vec<f64> = lengths.map(|row| f64::from(list.value_length(row))).collect();
        let widest = lengths.iter().copied().fold(0.0, f64::max);
        let column = self.at((&wanted.name, &wanted.kind), wanted.role, order);
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
            self.scalar((&name, kind.unwrap_or("-")), wanted.role, cells, order);
        }
    }

    fn at(&mut self, (name, kind): (&str, &str), role: Role, order: &[Place]) -> &mut Column {
        self.profile.columns.entry(name.to_owned()).or_insert_with(|| {
            let mut column = Column::new(role, kind);
            column.sample = vec![Cell::Null; order.len()];
            column
        })
    }

    fn scalar(
        &mut self,
        (name, kind): (&str, &str),
        role: Role,
        cells: Cells<'_>,
        order: &[Place],
    ) {
        let mut counted = self.counted.remove(name).unwrap_or_default();
        let column = self.at((name, kind), role, order);
        let array = cells.values;
        column.count += array.len() as u64 - cells.absent;
        column.nulls += array.null_count() as u64 - cells.absent;
        if let Some(numbers) = numbers(array) {
            let mut finite = Vec::with_capacity(numbers.len());
            for value in numbers.iter().flatten() {
                column.nan += u64::from(value.is_nan());
                column.infinite += u64::from(value.is_infinite());
                if value.is_finite() {
                    finite.push(*value);
                    column.sketches.number(*value);
                    counted.number(*value);
                    if let Some(bins) = &mut column.bins {
                        bins.add(*value);
                    }
                }
            }
            column.moments.merge(&Moments::of(&finite));
            sampled(column, order, |row| {
                numbers.get(row).copied().flatten().map_or(Cell::Null, Cell::Number)
            });
        } else if let Some(texts) = array.as_string_opt::<i32>() {
            for text in texts.iter().flatten() {
                column.sketches.value(&text);
                counted.text(text);
            }
            sampled(column, order, |row| cell(texts, row));
        }
        self.counted.insert(name.to_owned(), counted);
    }

    pub fn finish(mut self) -> Profile {
        for (name, counted) in self.counted {
            let Some(column) = self.profile.columns.get_mut(&name) else { continue };
            let categories = &mut column.categories;
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
        self.profile
    }
}

/// The cells of a column in a batch, of which some do not belong to it: lists that are too short for this element.
#[derive(Clone, Copy)]
struct Cells<'a> {
    values: &'a ArrayRef,
    absent: u64,
}

/// Fills in the sample's new rows.
fn sampled(column: &mut Column, order: &[Place], cell: impl Fn(usize) -> Cell) {
    for (place, own) in order.iter().zip(&mut column.sample) {
        if let Place::Right(row) = place {
            *own = cell(*row);
        }
    }
}

impl Counted {
    fn number(&mut self, value: f64) {
        // -0 and 0 are one.
        let bits = (value + 0.0).to_bits();
        let different = self.numbers.len();
        match self.numbers.get_mut(&bits) {
            Some(count) => *count += 1,
            // One more than would be listed, so that it shows that there are too many.
            None if different <= CATEGORIES => {
                self.numbers.insert(bits, 1);
            }
            None => self.other += 1,
        }
    }

    fn text(&mut self, text: &str) {
        let different = self.texts.len();
        match self.texts.get_mut(text) {
            Some(count) => *count += 1,
            None if different < COUNTED && text.len() <= MOST_TEXT => {
                self.texts.insert(text.into(), 1);
            }
            None => self.other += 1,
        }
    }
}

fn cell(texts: &StringArray, row: usize) -> Cell {
    match texts.is_valid(row) && texts.value(row).len() <= MOST_TEXT {
        true => Cell::Text(texts.value(row).into()),
        false => Cell::Null,
    }
}

/// The rows' hashes in order, with the row of each.
fn keys(batch: &RecordBatch) -> Vec<(u64, usize)> {
    let ids = batch.column_by_name("event_id").and_then(|ids| ids.as_string_opt::<i32>());
    let hash = |id: &str| {
        let digest = <sha2::Sha256 as sha2::Digest>::digest(id.as_bytes());
        digest.iter().take(8).fold(0u64, |hash, byte| (hash << 8) | u64::from(*byte))
    };
    let ids = ids.into_iter().flat_map(|ids| ids.iter().enumerate());
    let mut keys: Vec<(u64, usize)> = ids.filter_map(|(row, id)| Some((hash(id?), row))).collect();
    keys.sort_unstable();
    keys
}

/// The values of a column of numbers.
fn numbers(array: &ArrayRef) -> Option<Vec<Option<f64>>> {
    Some(match array.data_type() {
        DataType::Float32 => {
            array.as_primitive_opt::<Float32Type>()?.iter().map(|v| v.map(f64::from)).collect()
        }
        DataType::Float64 => array.as_primitive_opt::<Float64Type>()?.iter().collect(),
        DataType::Int32 => {
            array.as_primitive_opt::<Int32Type>()?.iter().map(|v| v.map(f64::from)).collect()
        }
        DataType::Int64 => {
            array.as_primitive_opt::<Int64Type>()?.iter().map(|v| v.map(|v| v as f64)).collect()
        }
        DataType::Boolean => {
            array.as_boolean_opt()?.iter().map(|v| v.map(|v| f64::from(u8::from(v)))).collect()
        }
        _ => return None,
    })
}
