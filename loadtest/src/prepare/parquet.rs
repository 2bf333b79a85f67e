//! Requests from a Parquet file: columns are inputs by their names, rows are instances, lists are tensors.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use ::parquet::{
    basic::{ConvertedType, LogicalType, Repetition, Type as Physical},
    column::reader::{ColumnReader, ColumnReaderImpl},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData},
        reader::{FileReader, SerializedFileReader},
    },
    schema::types::{SchemaDescriptor, Type},
};

use super::{
    entry::Entry,
    files::MOST,
    tensor::{Datatype, Tensor, push_bytes},
    values::batches,
};
use crate::metadata::{ModelMetadata, TensorMetadata};

/// Rows that are unpacked at once: little enough that a column of images fits into memory.
const CHUNK: usize = 32;
/// Bytes of all requests.
pub(super) const LARGEST: usize = 4 << 30;

/// The requests of a file. Where the model can batch, a request takes `rows` of its rows, in turn; otherwise each row is one.
///
/// # Errors
/// In words, with column and row: no Parquet file, an input without a column, a column of another kind, a value that is missing
/// or does not fit, lists that make no tensor.
pub fn read(file: &Path, entry: &Entry, model: &ModelMetadata) -> Result<Vec<Vec<Tensor>>, String> {
    let opened = File::open(file).map_err(|e| e.to_string())?;
    // The crate has panics for some damages of a file that `whole` does not see.
    let read = catch_unwind(AssertUnwindSafe(|| all(opened, entry, model)));
    read.unwrap_or_else(|_| Err("it is a damaged Parquet file".to_owned()))
}

fn all(opened: File, entry: &Entry, model: &ModelMetadata) -> Result<Vec<Vec<Tensor>>, String> {
    let bad = |e: ParquetError| format!("it is no Parquet file that can be read: {e}");
    let length = opened.metadata().map_err(|e| e.to_string())?.len();
    let reader = SerializedFileReader::new(opened).map_err(bad)?;
    if !whole(reader.metadata(), length) {
        return Err("it is a damaged Parquet file: columns lie outside of it".to_owned());
    }
    let schema = reader.metadata().file_metadata().schema_descr();
    let column = |input| Column::find(input, schema, entry, model);
    let columns: Vec<Column> = model.inputs.iter().map(column).collect::<Result<_, _>>()?;
    let mut requests = Requests::new(&columns, if batches(model) { entry.rows } else { 1 });
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at).map_err(bad)?;
        let reader = |column: &Column| group.get_column_reader(column.leaf);
        let readers: Result<Vec<_>, _> = columns.iter().map(reader).collect();
        let mut readers = readers.map_err(bad)?;
        while !requests.full() {
            let chunk = columns.iter().zip(&mut readers);
            let chunk: Result<Vec<_>, _> =
                chunk.map(|(column, reader)| column.chunk(reader, requests.read)).collect();
            if !requests.add(chunk?)? {
                break;
            }
        }
    }
    requests.done()
}

/// Whether every column lies within the file.
pub(super) fn whole(metadata: &ParquetMetaData, length: u64) -> bool {
    let mut chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    let rows = metadata.row_groups().iter().map(|group| group.num_rows());
    let inside = |chunk: &ColumnChunkMetaData| {
        let begin = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let range = (u64::try_from(begin), u64::try_from(chunk.compressed_size()));
        let (Ok(begin), Ok(size)) = range else { return false };
        begin.checked_add(size).is_some_and(|end| end <= length)
    };
    rows.min().is_none_or(|least| least >= 0) && chunks.all(inside)
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bool,
    Whole,
    Unsigned,
    Float,
    Half,
    Bytes,
}

/// One value.
enum Cell {
    Bool(bool),
    Whole(i128),
    Float(f64),
    Bytes(ByteArray),
}

/// Values, and for each of them or list without any, its definition and repetition level.
type Cells = (Vec<Cell>, Vec<i16>, Vec<i16>);

/// The column of an input.
struct Column<'a> {
    input: &'a TensorMetadata,
    datatype: Datatype,
    /// Its place among all that hold values.
    leaf: usize,
    kind: Kind,
    /// The definition level of a value that is there.
    defined: i16,
    /// The definition level of a list that is there and empty, for each depth of lists.
    empty: Vec<i16>,
    /// The axes of a row's part of the input, -1 where the model leaves them open.
    axes: &'a [i64],
    /// What the entry says of those.
    shape: Option<&'a [u64]>,
}

/// A row's part of an input.
struct Row {
    shape: Vec<u64>,
    raw: Vec<u8>,
}

impl<'a> Column<'a> {
    fn find(
        input: &'a TensorMetadata,
        schema: &SchemaDescriptor,
        entry: &'a Entry,
        model: &ModelMetadata,
    ) -> Result<Column<'a>, String> {
        let fields = schema.root_schema().get_fields();
        let Some(field) = fields.iter().find(|field| field.name() == input.name) else {
            let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
            return Err(format!(
                "no column has the name of the input '{}' (it has {})",
                input.name,
                names.join(", ")
            ));
        };
        let wrong = |why: String| format!("column '{}' {why}", input.name);
        let Described { path, kind, defined, empty } = described(field).map_err(wrong)?;
        let mut leaves = schema.columns().iter();
        let leaf = leaves.position(|leaf| leaf.path().parts() == path);
        let datatype = Datatype::parse(&input.datatype)?;
        if !suits(kind, datatype) {
            let has = match kind {
                Kind::Bool => "booleans",
                Kind::Whole | Kind::Unsigned => "whole numbers",
                Kind::Float | Kind::Half => "floating-point numbers",
                Kind::Bytes => "texts",
            };
            return Err(wrong(format!("has {has}, the model's input is {}", input.datatype)));
        }
        Ok(Column {
            input,
            datatype,
            leaf: leaf.ok_or_else(|| wrong("has no values".to_owned()))?,
            kind,
            defined,
            empty,
            axes: if batches(model) { &input.shape[1..] } else { &input.shape },
            shape: entry.shapes.get(&input.name).map(Vec::as_slice),
        })
    }

    /// The next rows, of which none is left at the end of the row group. `before`: rows of the file that were read already.
    fn chunk(&self, reader: &mut ColumnReader, before: u64) -> Result<Vec<Row>, String> {
        let (cells, defined, repeated) =
            self.cells(reader).map_err(|e| self.wrong(before, &e.to_string()))?;
        let mut cells = cells.into_iter();
        let mut rows = Vec::new();
        let mut from = 0;
        while from < defined.len() {
            let next = repeated[from + 1..].iter().position(|level| *level == 0);
            let to = next.map_or(defined.len(), |next| from + 1 + next);
            let number = before + rows.len() as u64;
            let row = self.row(&defined[from..to], &repeated[from..to], &mut cells);
            rows.push(row.map_err(|why| self.wrong(number, &why))?);
            from = to;
        }
        Ok(rows)
    }

    /// `row`: from 0.
    fn wrong(&self, row: u64, why: &str) -> String {
        format!("column '{}', row {}: {why}", self.input.name, row + 1)
    }

    /// The next values, and for each of them or list without any, the two levels that say where it stands.
    fn cells(&self, reader: &mut ColumnReader) -> Result<Cells, ParquetError> {
        let unsigned = self.kind == Kind::Unsigned;
        let half = self.kind == Kind::Half;
        let bytes = |value: &ByteArray| match (half, value.data()) {
            (true, data) => Cell::Float(Datatype::Fp16.float(data)),
            (false, _) => Cell::Bytes(value.clone()),
        };
        let levels = (self.defined, self.empty.is_empty());
        match reader {
            ColumnReader::BoolColumnReader(reader) => next(reader, levels, |v| Cell::Bool(*v)),
            ColumnReader::Int32ColumnReader(reader) => next(reader, levels, |v| {
                Cell::Whole(if unsigned { (*v as u32).into() } else { (*v).into() })
            }),
            ColumnReader::Int64ColumnReader(reader) => next(reader, levels, |v| {
                Cell::Whole(if unsigned { (*v as u64).into() } else { (*v).into() })
            }),
            ColumnReader::FloatColumnReader(reader) => {
                next(reader, levels, |v| Cell::Float((*v).into()))
            }
            ColumnReader::DoubleColumnReader(reader) => next(reader, levels, |v| Cell::Float(*v)),
            ColumnReader::ByteArrayColumnReader(reader) => next(reader, levels, bytes),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                next(reader, levels, |v| bytes(v))
            }
            ColumnReader::Int96ColumnReader(_) => {
                Err(ParquetError::General("a moment is no value of a tensor".to_owned()))
            }
        }
    }

    /// The part of the input that one row is, of its levels and the values that come next.
    fn row(
        &self,
        defined: &[i16],
        repeated: &[i16],
        cells: &mut impl Iterator<Item = Cell>,
    ) -> Result<Row, String> {
        let nested = nested(self.defined, &self.empty, defined, repeated)?;
        let mut raw = Vec::new();
        let mut count = 0;
        for _ in defined.iter().filter(|level| **level == self.defined) {
            push(self.datatype, cells.next().ok_or("a value is cut off")?, &mut raw)?;
            count += 1;
        }
        Ok(Row { shape: self.shaped(nested, count)?, raw })
    }

    /// The shape of a row: that of its lists; a value, or one flat list, fills whatever axes the model has.
    fn shaped(&self, nested: Vec<u64>, count: u64) -> Result<Vec<u64>, String> {
        if nested.len() == self.axes.len() || nested.len() > 1 {
            return Ok(nested);
        }
        let wrong = || {
            let axes = self.axes;
            format!("{count} values in one list do not say a shape of the model's axes {axes:?}")
        };
        if let Some(shape) = self.shape {
            let product = shape.iter().try_fold(1u64, |product, axis| product.checked_mul(*axis));
            return if product == Some(count) { Ok(shape.to_vec()) } else { Err(wrong()) };
        }
        let open = self.axes.iter().filter(|axis| **axis < 0).count();
        let mut fixed = self.axes.iter().filter_map(|axis| u64::try_from(*axis).ok());
        let fixed = fixed.try_fold(1u64, |product, axis| product.checked_mul(axis));
        let fixed = fixed.filter(|fixed| *fixed > 0).ok_or_else(wrong)?;
        let fits = match open {
            0 => fixed == count,
            1 => count.is_multiple_of(fixed),
            _ => false,
        };
        if !fits {
            return Err(wrong());
        }
        Ok(self.axes.iter().map(|axis| u64::try_from(*axis).unwrap_or(count / fixed)).collect())
    }
}

/// Reads up to `CHUNK` rows. `levels`: the definition level of a value, and whether there are no lists.
fn next<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    (level, flat): (i16, bool),
    cell: impl Fn(&T::T) -> Cell,
) -> Result<Cells, ParquetError> {
    let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(CHUNK, Some(&mut defined), Some(&mut repeated), &mut values)?;
    // A column of which nothing can be missing has no levels of its own.
    if level == 0 {
        defined = vec![0; values.len()];
    }
    if flat {
        repeated = vec![0; defined.len()];
    }
    if repeated.len() != defined.len() {
        return Err(ParquetError::General("its levels are damaged".to_owned()));
    }
    Ok((values.iter().map(cell).collect(), defined, repeated))
}

/// How long the lists of a row are, outermost first. `level`: the definition level of a value that is there.
fn nested(
    level: i16,
    empty: &[i16],
    defined: &[i16],
    repeated: &[i16],
) -> Result<Vec<u64>, String> {
    let depth = empty.len();
    let mut sizes: Vec<Option<u64>> = vec![None; depth];
    let mut counts = vec![0; depth];
    let mut close = |counts: &[u64], from: usize, to: usize| {
        for at in from..to {
            let size = *sizes[at].get_or_insert(counts[at]);
            if size != counts[at] {
                return Err(format!("lists of {size} and of {} stand side by side", counts[at]));
            }
        }
        Ok(())
    };
    let mut open = 0;
    for (defined, repeated) in defined.iter().zip(repeated) {
        let goes_on = usize::try_from(*repeated).unwrap_or(0).min(depth);
        close(&counts, goes_on, open)?;
        if goes_on > 0 {
            counts[goes_on - 1] += 1;
        }
        let nothing = empty.iter().position(|empty| empty == defined);
        let reaches = match nothing {
            _ if *defined == level => depth,
            Some(at) => at,
            None => return Err("a value is missing".to_owned()),
        };
        for count in counts.iter_mut().take(reaches).skip(goes_on) {
            *count = 1;
        }
        open = reaches;
        if reaches < depth {
            counts[reaches] = 0;
            open += 1;
        }
    }
    close(&counts, 0, open)?;
    Ok(sizes.into_iter().map(|size| size.unwrap_or(0)).collect())
}

/// A column as the file's schema has it.
struct Described {
    path: Vec<String>,
    kind: Kind,
    defined: i16,
    empty: Vec<i16>,
}

/// Goes down through lists to the values.
fn described(field: &Type) -> Result<Described, String> {
    let other = |what: &str| format!("is {what}, expected values or lists of them");
    let mut field = field;
    let (mut path, mut defined, mut empty) = (Vec::new(), 0, Vec::new());
    loop {
        let info = field.get_basic_info();
        path.push(field.name().to_owned());
        let repetition =
            if info.has_repetition() { info.repetition() } else { Repetition::REQUIRED };
        match repetition {
            Repetition::REQUIRED => {}
            Repetition::OPTIONAL => defined += 1,
            Repetition::REPEATED => {
                empty.push(defined);
                defined += 1;
            }
        }
        if field.is_primitive() {
            return Ok(Described { path, kind: kind(field)?, defined, empty });
        }
        let is_list = info.converted_type() == ConvertedType::LIST
            || matches!(info.logical_type_ref(), Some(LogicalType::List));
        field = match field.get_fields() {
            [inner] if is_list || repetition == Repetition::REPEATED => inner,
            fields => return Err(other(&format!("a structure of {} columns", fields.len()))),
        };
    }
}

/// What the values of a leaf are; an error for those that are no elements of tensors.
fn kind(leaf: &Type) -> Result<Kind, String> {
    let info = leaf.get_basic_info();
    let (logical, converted) = (info.logical_type_ref(), info.converted_type());
    let kind = match (leaf.get_physical_type(), logical) {
        (Physical::BOOLEAN, None) => Some(Kind::Bool),
        (Physical::INT32 | Physical::INT64, Some(LogicalType::Integer(int))) => {
            Some(if int.is_signed { Kind::Whole } else { Kind::Unsigned })
        }
        (Physical::INT32 | Physical::INT64, None) => match converted {
            ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64 => Some(Kind::Whole),
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64 => Some(Kind::Unsigned),
            _ => None,
        },
        (Physical::FLOAT | Physical::DOUBLE, None) => Some(Kind::Float),
        (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Float16)) => Some(Kind::Half),
        (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, logical) => match logical {
            None if converted == ConvertedType::DECIMAL => None,
            None if converted == ConvertedType::INTERVAL => None,
            Some(LogicalType::Decimal { .. }) => None,
            _ => Some(Kind::Bytes),
        },
        _ => None,
    };
    kind.ok_or_else(|| {
        let named = match logical {
            Some(logical) => format!("{logical:?}"),
            None if converted != ConvertedType::NONE => format!("{converted:?}"),
            None => format!("{:?}", leaf.get_physical_type()),
        };
        format!("has values of the type {named}, which are no elements of a tensor: convert them")
    })
}

/// Whether values of this kind are elements of such a tensor. Whole numbers are numbers everywhere; fractions are not.
fn suits(kind: Kind, datatype: Datatype) -> bool {
    match kind {
        Kind::Bool => datatype == Datatype::Bool,
        Kind::Whole | Kind::Unsigned => datatype.is_float() || datatype.bounds().is_some(),
        Kind::Float | Kind::Half => datatype.is_float(),
        Kind::Bytes => datatype == Datatype::Bytes,
    }
}

/// Appends a value of a kind that suits.
fn push(datatype: Datatype, cell: Cell, raw: &mut Vec<u8>) -> Result<(), String> {
    match cell {
        Cell::Bool(value) => raw.push(value.into()),
        Cell::Bytes(value) => push_bytes(value.data(), raw)?,
        Cell::Whole(value) => match datatype.bounds() {
            Some((least, most)) if !(least..=most).contains(&value) => {
                return Err(format!("{value} is no {}", datatype.name()));
            }
            Some(_) => datatype.push_whole(value, raw),
            None => datatype.push_float(value as f64, raw),
        },
        Cell::Float(value) => {
            let from = raw.len();
            datatype.push_float(value, raw);
            if value.is_finite() && !datatype.float(&raw[from..]).is_finite() {
                return Err(format!("{value:?} is no {}", datatype.name()));
            }
        }
    }
    Ok(())
}

/// Requests in the making.
struct Requests<'a> {
    columns: &'a [Column<'a>],
    /// Rows of a request.
    rows: u64,
    /// Rows of the file so far.
    read: u64,
    bytes: usize,
    done: Vec<Vec<Tensor>>,
    /// The one that is being filled, and with how many rows.
    filling: Vec<Row>,
    filled: u64,
}

impl<'a> Requests<'a> {
    fn new(columns: &'a [Column<'a>], rows: u64) -> Requests<'a> {
        let (done, filling) = (Vec::new(), Vec::new());
        Requests { columns, rows, read: 0, bytes: 0, done, filling, filled: 0 }
    }

    fn full(&self) -> bool {
        self.done.len() >= MOST
    }

    /// Takes the next rows of every column; whether there were any.
    fn add(&mut self, chunk: Vec<Vec<Row>>) -> Result<bool, String> {
        let count = chunk.first().map_or(0, Vec::len);
        if let Some(at) = chunk.iter().position(|rows| rows.len() != count) {
            let name = &self.columns[at].input.name;
            return Err(format!("column '{name}' has not as many rows as the others"));
        }
        let mut columns: Vec<_> = chunk.into_iter().map(Vec::into_iter).collect();
        for _ in 0..count {
            let row: Vec<Row> = columns.iter_mut().filter_map(Iterator::next).collect();
            self.row(row)?;
        }
        Ok(count > 0)
    }

    fn row(&mut self, row: Vec<Row>) -> Result<(), String> {
        self.read += 1;
        if self.full() {
            return Ok(());
        }
        self.bytes += row.iter().map(|part| part.raw.len()).sum::<usize>();
        if self.bytes > LARGEST {
            return Err(format!("row {}: the requests have more than 4 GiB", self.read));
        }
        if self.filling.is_empty() {
            self.filling = row;
        } else {
            for (at, (all, part)) in self.filling.iter_mut().zip(row).enumerate() {
                if all.shape != part.shape {
                    return Err(format!(
                        "column '{}', row {}: a value of the shape {:?} in one request with {:?}: ask for one row in each",
                        self.columns[at].input.name, self.read, part.shape, all.shape
                    ));
                }
                all.raw.extend_from_slice(&part.raw);
            }
        }
        self.filled += 1;
        if self.filled == self.rows {
            self.finish();
        }
        Ok(())
    }

    fn finish(&mut self) {
        let rows = std::mem::take(&mut self.filling);
        let request = self.columns.iter().zip(rows).map(|(column, Row { shape, raw })| {
            let batch = (column.axes.len() < column.input.shape.len()).then_some(self.filled);
            let shape = batch.into_iter().chain(shape).collect();
            Tensor { name: column.input.name.clone(), datatype: column.datatype, shape, raw }
        });
        self.done.push(request.collect());
        self.filled = 0;
    }

    fn done(self) -> Result<Vec<Vec<Tensor>>, String> {
        if self.done.is_empty() {
            return Err(format!("{} rows make no request of {}", self.read, self.rows));
        }
        Ok(self.done)
    }
}

#[cfg(test)]
#[path = "parquet_tests.rs"]
mod tests;
