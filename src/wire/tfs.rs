//! The request of TensorFlow Serving's REST API and of KServe's v1 protocol: values without names of datatypes and shapes, which
//! the model's signature and the nesting give.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    check::{MAX_RANK, Shown},
    json_data::Data,
    json_read::{Cursor, Seen, string_span, twice},
};
use crate::types::{
    error::Error,
    model::{Signature, TensorSpec},
    request::{InferRequest, InputTensor},
    tensor::Dims,
    text::Text,
};

/// The only signature that an ONNX model has, by TensorFlow's name for it.
pub const SIGNATURE: &str = "serving_default";

/// How a request wrote its tensors, and so how its answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `instances`: one value, or one object of named values, for each row.
    Rows,
    /// `inputs`: each tensor whole.
    Columns,
}

/// What a key's value spans, for those that are read once everything is known.
type Span = Option<Range<usize>>;

/// Decodes the body of `:predict`. Model and version stay empty.
///
/// # Errors
/// `InvalidArgument` for what is no such request, or not one that the signature takes.
pub fn decode_predict(body: &Bytes, signature: &Signature) -> Result<(InferRequest, Form), Error> {
    let mut c = Cursor::new(body);
    let [instances, inputs] = spans(&mut c, ["instances", "inputs"])?;
    let mut inputs_read = SmallVec::new();
    let form = match (instances, inputs) {
        (Some(_), Some(_)) => {
            return Err(Error::invalid(
                "the request has both 'instances' and 'inputs', expected one of the two",
            ));
        }
        (None, None) => return Err(Error::invalid("the request has no 'instances' or 'inputs'")),
        (Some(span), None) => {
            within(&mut c, &span, |c| rows(c, signature, &mut inputs_read))?;
            Form::Rows
        }
        (None, Some(span)) => {
            within(&mut c, &span, |c| columns(c, signature, &mut inputs_read))?;
            Form::Columns
        }
    };
    Ok((InferRequest { inputs: inputs_read, protocol: "tfs", ..InferRequest::default() }, form))
}

/// Decodes the body of `:classify` and `:regress`: examples of named features, and a context that they share.
///
/// # Errors
/// As `decode_predict`.
pub fn decode_examples(body: &Bytes, signature: &Signature) -> Result<InferRequest, Error> {
    let mut c = Cursor::new(body);
    let [examples, context] = spans(&mut c, ["examples", "context"])?;
    let Some(examples) = examples else {
        return Err(Error::invalid("the request has no 'examples'"));
    };
    let mut shared: SmallVec<[Span; 2]> = SmallVec::from_elem(None, signature.inputs.len());
    if let Some(span) = context {
        within(&mut c, &span, |c| {
            c.object(format_args!("'context'"), |c, key| {
                let index = position(signature, &key)?;
                if shared[index].is_some() {
                    return Err(twice(&key, c.at()));
                }
                shared[index] = Some(c.span()?);
                Ok(())
            })
        })?;
    }
    let mut columns = Columns::new(signature, "examples", true);
    within(&mut c, &examples, |c| {
        c.array(format_args!("'examples'"), |c| {
            columns.row(c)?;
            let back = c.at();
            for (index, span) in shared.iter().enumerate() {
                if let Some(span) = span.as_ref().filter(|_| columns.lacks(index)) {
                    within(c, span, |c| columns.value(c, index))?;
                }
            }
            c.move_to(back);
            columns.ended()
        })
    })?;
    Ok(InferRequest { inputs: columns.finish()?, protocol: "tfs", ..InferRequest::default() })
}

/// Finds two of the request's values, and holds its `signature_name` against the only one there is.
fn spans(c: &mut Cursor<'_>, names: [&str; 2]) -> Result<[Span; 2], Error> {
    if c.bytes().is_empty() {
        return Err(Error::invalid("the body is empty, expected a JSON object"));
    }
    let mut found = [None, None];
    let mut seen = Seen::default();
    c.object(format_args!("the request"), |c, key| {
        if let Some(at) = names.iter().position(|name| **name == *key) {
            seen.once(at as u32, &key, c.at())?;
            found[at] = Some(c.span()?);
            return Ok(());
        }
        if &*key != "signature_name" {
            return c.skip();
        }
        seen.once(2, &key, c.at())?;
        let name = c.text(format_args!("'signature_name'"))?;
        if name.is_empty() || &*name == SIGNATURE {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "there is no signature '{}': the model has '{SIGNATURE}'",
            Shown(&name)
        )))
    })?;
    c.finish()?;
    Ok(found)
}

/// Reads the value that a span holds, all of it.
fn within(
    c: &mut Cursor<'_>,
    span: &Range<usize>,
    read: impl FnOnce(&mut Cursor<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    c.move_to(span.start);
    read(c)?;
    c.peek();
    if c.at() != span.end {
        return Err(c.malformed("',' or the end of the value"));
    }
    Ok(())
}

/// `instances`: a bare value for each row, where the model takes one input, or an object.
fn rows(
    c: &mut Cursor<'_>,
    signature: &Signature,
    inputs: &mut SmallVec<[InputTensor; 2]>,
) -> Result<(), Error> {
    let start = c.at();
    if !c.take(b'[') {
        return Err(c.wrong_kind(format_args!("'instances'"), "an array"));
    }
    let first = c.peek();
    let named = first == Some(b'{') && !is_base64(c, signature);
    c.move_to(start);
    if first == Some(b']') {
        return Err(Error::invalid("'instances' is empty"));
    }
    if !named {
        let spec = single(signature, "instances", "[{\"NAME\": …}, …]")?;
        inputs.push(tensor(c, spec)?);
        return Ok(());
    }
    let mut columns = Columns::new(signature, "instances", false);
    c.array(format_args!("'instances'"), |c| {
        columns.row(c)?;
        columns.ended()
    })?;
    *inputs = columns.finish()?;
    Ok(())
}

/// `inputs`: one tensor, where the model takes one, or an object of them.
fn columns(
    c: &mut Cursor<'_>,
    signature: &Signature,
    inputs: &mut SmallVec<[InputTensor; 2]>,
) -> Result<(), Error> {
    if c.peek() != Some(b'{') || is_base64(c, signature) {
        let spec = single(signature, "inputs", "{\"NAME\": …}")?;
        inputs.push(tensor(c, spec)?);
        return Ok(());
    }
    let mut seen: SmallVec<[bool; 8]> = SmallVec::from_elem(false, signature.inputs.len());
    c.object(format_args!("'inputs'"), |c, key| {
        let index = position(signature, &key)?;
        if std::mem::replace(&mut seen[index], true) {
            return Err(twice(&key, c.at()));
        }
        inputs.push(tensor(c, &signature.inputs[index])?);
        Ok(())
    })
}

/// Whether the object at the cursor is a value, `{"b64": …}`, rather than values by name.
fn is_base64(c: &mut Cursor<'_>, signature: &Signature) -> bool {
    let back = c.at();
    let mut key = false;
    if c.take(b'{') && c.peek() == Some(b'"') {
        let inside = string_span(c.bytes(), c.at()).map(|(inside, _)| inside).unwrap_or_default();
        key = c.bytes().get(inside) == Some(b"b64");
    }
    c.move_to(back);
    key && signature.inputs.iter().all(|spec| &*spec.name != "b64")
}

/// The one input that a value without a name is for.
fn single<'a>(signature: &'a Signature, key: &str, named: &str) -> Result<&'a TensorSpec, Error> {
    let mut needed = signature.inputs.iter().filter(|spec| !spec.optional);
    match (needed.next(), needed.next(), signature.inputs.as_slice()) {
        (Some(spec), None, _) | (None, None, [spec]) => Ok(spec),
        _ => Err(Error::invalid(format!(
            "'{key}' has values without names: the model takes {}, expected {named}",
            names(signature)
        ))),
    }
}

fn position(signature: &Signature, name: &str) -> Result<usize, Error> {
    signature.inputs.iter().position(|spec| *spec.name == *name).ok_or_else(|| {
        Error::invalid(format!(
            "there is no input '{}': the model takes {}",
            Shown(name),
            names(signature)
        ))
    })
}

fn names(signature: &Signature) -> String {
    let names: Vec<String> = signature.inputs.iter().map(|i| format!("'{}'", i.name)).collect();
    names.join(", ")
}

/// The tensor at the cursor.
fn tensor(c: &mut Cursor<'_>, spec: &TensorSpec) -> Result<InputTensor, Error> {
    let dims = shape(c, &spec.name)?;
    let data = data(spec, &dims).read(c)?;
    Ok(InputTensor { name: Text::from(&*spec.name), datatype: spec.datatype, dims, data })
}

fn data<'a>(spec: &'a TensorSpec, dims: &'a [i64]) -> Data<'a> {
    Data { name: &spec.name, datatype: spec.datatype, dims, base64: true }
}

/// The shape that the nesting of the value at the cursor has: of each level, the length of its first array. Whether all others
/// have it is found out when they are read. One pass, however deep it is nested.
fn shape(c: &mut Cursor<'_>, input: &str) -> Result<Dims, Error> {
    let start = c.at();
    let mut dims = Dims::new();
    let mut depth = 0;
    // Levels up to here are in their first array still.
    let mut open = 0;
    loop {
        match c.peek() {
            Some(b'[') => {
                c.move_to(c.at() + 1);
                depth += 1;
                if depth > dims.len() {
                    if depth > MAX_RANK {
                        return Err(Error::invalid(format!(
                            "input '{}': the data is nested deeper than {MAX_RANK} arrays",
                            Shown(input)
                        )));
                    }
                    dims.push(i64::from(c.peek() != Some(b']')));
                    open = depth;
                }
                if c.peek() != Some(b']') {
                    continue;
                }
            }
            Some(b']') => {}
            _ => {
                c.span()?;
            }
        }
        // Behind a value, or before the bracket that closes an empty array.
        loop {
            if depth == 0 {
                c.move_to(start);
                return Ok(dims);
            }
            if c.take(b']') {
                open = open.min(depth - 1);
                depth -= 1;
            } else if c.take(b',') {
                if depth <= open {
                    dims[depth - 1] += 1;
                }
                break;
            } else {
                return Err(c.malformed("',' or ']'"));
            }
        }
    }
}

/// Tensors that grow by a row at a time.
struct Columns<'a> {
    signature: &'a Signature,
    /// The key whose array holds the rows.
    key: &'static str,
    /// Features: a single value and a list of one are the same.
    examples: bool,
    columns: SmallVec<[Option<Column>; 2]>,
    rows: usize,
}

/// One input's rows so far.
struct Column {
    /// Of each row.
    dims: Dims,
    data: Vec<u8>,
    rows: usize,
}

impl<'a> Columns<'a> {
    fn new(signature: &'a Signature, key: &'static str, examples: bool) -> Columns<'a> {
        let columns = signature.inputs.iter().map(|_| None).collect();
        Columns { signature, key, examples, columns, rows: 0 }
    }

    /// Reads the object at the cursor as one row; `ended` must follow.
    fn row(&mut self, c: &mut Cursor<'_>) -> Result<(), Error> {
        let (key, row) = (self.key, self.rows);
        c.object(format_args!("{key}[{row}]"), |c, name| {
            let index = position(self.signature, &name)?;
            if !self.lacks(index) {
                return Err(twice(&name, c.at()));
            }
            self.value(c, index)
        })
    }

    /// Whether the row that is being read has no value for this input yet.
    fn lacks(&self, index: usize) -> bool {
        self.columns[index].as_ref().is_none_or(|column| column.rows == self.rows)
    }

    fn value(&mut self, c: &mut Cursor<'_>, index: usize) -> Result<(), Error> {
        let (spec, rows) = (&self.signature.inputs[index], self.rows);
        let column = match &mut self.columns[index] {
            Some(column) => column,
            None if rows > 0 => return Err(self.lacking(spec, 0)),
            none => {
                let mut dims = shape(c, &spec.name)?;
                if self.examples && *dims == [1] {
                    dims.clear();
                }
                none.insert(Column { dims, data: Vec::new(), rows: 0 })
            }
        };
        let bytes = data(spec, &column.dims).read(c)?;
        column.data.extend_from_slice(&bytes);
        column.rows += 1;
        Ok(())
    }

    /// Every row has what the first one has, and what the model needs.
    fn ended(&mut self) -> Result<(), Error> {
        let row = self.rows;
        self.rows += 1;
        for (spec, column) in self.signature.inputs.iter().zip(&self.columns) {
            let has = column.as_ref().map_or(spec.optional, |column| column.rows == self.rows);
            if !has {
                return Err(self.lacking(spec, row));
            }
        }
        Ok(())
    }

    #[cold]
    fn lacking(&self, spec: &TensorSpec, row: usize) -> Error {
        let (key, name) = (self.key, &spec.name);
        Error::invalid(format!("{key}[{row}] has no '{name}': every row has the same inputs"))
    }

    fn finish(self) -> Result<SmallVec<[InputTensor; 2]>, Error> {
        if self.rows == 0 {
            return Err(Error::invalid(format!("'{}' is empty", self.key)));
        }
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let both = self.signature.inputs.iter().zip(self.columns);
        Ok(both
            .filter_map(|(spec, column)| {
                let Column { dims: each, data, .. } = column?;
                let mut dims = Dims::new();
                dims.push(rows);
                let rank = spec.dims.as_ref().map(Vec::len);
                match (each.as_slice(), rank) {
                    ([], Some(2)) if self.examples => dims.push(1),
                    (each, _) => dims.extend_from_slice(each),
                }
                let (name, datatype) = (Text::from(&*spec.name), spec.datatype);
                Some(InputTensor { name, datatype, dims, data: Bytes::from(data) })
            })
            .collect())
    }
}
