//! The answers of TensorFlow Serving's REST API and of KServe's v1 protocol: values nested as their shapes are.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    json_write::{elements, string},
    tfs::Form,
};
use crate::types::{
    datatype::Datatype,
    error::Error,
    request::{InferResponse, OutputTensor},
    tensor::{Tensor, element_count},
};

/// Empty arrays that one answer may nest: a shape of zero elements may have any number of them.
const MOST_EMPTY: usize = 65_536;

/// Encodes the answer to `:predict` in the form that was asked in, appended to `out`. Floats that are no numbers are bare tokens,
/// as TensorFlow Serving writes them; bytes that are no text, and those of outputs whose names end in `_bytes`, are
/// `{"b64": …}`.
///
/// # Errors
/// `InvalidArgument` where rows are asked for and an output has none for each.
pub fn encode_predict(
    response: &InferResponse,
    form: Form,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    out.extend_from_slice(match form {
        Form::Rows => b"{\"predictions\":",
        Form::Columns => b"{\"outputs\":",
    });
    match (form, response.outputs.as_slice()) {
        (_, [output]) => whole(response, output, out)?,
        (Form::Rows, outputs) => rows(response, outputs, out)?,
        (Form::Columns, outputs) => {
            out.push(b'{');
            for (n, output) in outputs.iter().enumerate() {
                named(n, response, output, out);
                whole(response, output, out)?;
            }
            out.push(b'}');
        }
    }
    out.push(b'}');
    Ok(())
}

/// Encodes the answer to `:classify`: of each row of `output` every class with its score, by name where `labels` has them.
///
/// # Errors
/// `InvalidArgument` where the output has not rows of scores.
pub fn encode_classes(
    response: &InferResponse,
    output: &OutputTensor,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let (name, tensor) = (response.output_name(output), &output.tensor);
    let [rows, classes] = *tensor.dims else { return Err(no_rows(name, &tensor.dims)) };
    let labels = response.signature.outputs[output.index].labels.as_deref().unwrap_or_default();
    let mut feed = Feed::new(name, tensor);
    out.extend_from_slice(b"{\"result\":[");
    list(rows, out, |_, out| {
        out.push(b'[');
        list(classes, out, |class, out| {
            out.push(b'[');
            match usize::try_from(class).ok().and_then(|class| labels.get(class)) {
                Some(label) => string(label, out),
                None => string(&class.to_string(), out),
            }
            out.push(b',');
            feed.write(1, out)?;
            out.push(b']');
            Ok(())
        })?;
        out.push(b']');
        Ok(())
    })?;
    out.extend_from_slice(b"]}");
    Ok(())
}

/// Encodes the answer to `:regress`: of each row of `output` its one value.
///
/// # Errors
/// `InvalidArgument` where the output has not one value for each row.
pub fn encode_values(
    response: &InferResponse,
    output: &OutputTensor,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let (name, tensor) = (response.output_name(output), &output.tensor);
    let ([rows] | [rows, 1]) = *tensor.dims else { return Err(no_rows(name, &tensor.dims)) };
    out.extend_from_slice(b"{\"result\":[");
    Feed::new(name, tensor).write(usize::try_from(rows).unwrap_or(0), out)?;
    out.extend_from_slice(b"]}");
    Ok(())
}

#[cold]
fn no_rows(name: &str, dims: &[i64]) -> Error {
    Error::invalid(format!(
        "output '{name}' has the shape {dims:?}, which has no row for each example: ask for it by ':predict'"
    ))
}

fn named(n: usize, response: &InferResponse, output: &OutputTensor, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
    string(response.output_name(output), out);
    out.push(b':');
}

fn whole(response: &InferResponse, output: &OutputTensor, out: &mut Vec<u8>) -> Result<(), Error> {
    let name = response.output_name(output);
    bounded(name, &output.tensor.dims)?;
    let mut feed = Feed::new(name, &output.tensor);
    nested(&output.tensor.dims, &mut feed, out)
}

/// One object for each row, of every output's part of it.
fn rows(
    response: &InferResponse,
    outputs: &[OutputTensor],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let count = |output: &OutputTensor| output.tensor.dims.first().copied();
    let rows = outputs.first().and_then(count);
    if let Some(odd) = outputs.iter().find(|output| count(output) != rows || rows.is_none()) {
        return Err(Error::invalid(format!(
            "output '{}' has the shape {:?}, which has no row for each instance: ask with 'inputs' in place of \
             'instances'",
            response.output_name(odd),
            odd.tensor.dims
        )));
    }
    let mut feeds = Vec::with_capacity(outputs.len());
    for output in outputs {
        let name = response.output_name(output);
        bounded(name, &output.tensor.dims)?;
        feeds.push(Feed::new(name, &output.tensor));
    }
    out.push(b'[');
    list(rows.unwrap_or(0), out, |_, out| {
        out.push(b'{');
        for (n, (output, feed)) in outputs.iter().zip(&mut feeds).enumerate() {
            named(n, response, output, out);
            nested(output.tensor.dims.get(1..).unwrap_or_default(), feed, out)?;
        }
        out.push(b'}');
        Ok(())
    })?;
    out.push(b']');
    Ok(())
}

/// Refuses what would be little but empty arrays.
fn bounded(name: &str, dims: &[i64]) -> Result<(), Error> {
    let before_zero: Vec<i64> = dims.iter().copied().take_while(|dim| *dim != 0).collect();
    let empty = before_zero.len() < dims.len();
    if empty && element_count(&before_zero).is_none_or(|n| n > MOST_EMPTY) {
        return Err(Error::invalid(format!(
            "output '{name}' has the shape {dims:?}: more than {MOST_EMPTY} empty arrays"
        )));
    }
    Ok(())
}

/// The value of these dimensions that is next in `feed`. As deep as the model's output is.
fn nested(dims: &[i64], feed: &mut Feed<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    match dims {
        [] => feed.write(1, out),
        [last] => {
            out.push(b'[');
            feed.write(usize::try_from(*last).unwrap_or(0), out)?;
            out.push(b']');
            Ok(())
        }
        [first, rest @ ..] => {
            out.push(b'[');
            list(*first, out, |_, out| nested(rest, feed, out))?;
            out.push(b']');
            Ok(())
        }
    }
}

/// Writes so many items with commas between them.
fn list(
    count: i64,
    out: &mut Vec<u8>,
    mut write: impl FnMut(i64, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    for n in 0..count {
        if n > 0 {
            out.push(b',');
        }
        write(n, out)?;
    }
    Ok(())
}

/// The elements of a tensor that have not been written yet.
struct Feed<'a> {
    name: &'a str,
    datatype: Datatype,
    data: &'a [u8],
}

impl<'a> Feed<'a> {
    fn new(name: &'a str, tensor: &'a Tensor) -> Feed<'a> {
        Feed { name, datatype: tensor.datatype, data: &tensor.data }
    }

    /// The next `count` elements, with commas between them.
    fn write(&mut self, count: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(size) = self.datatype.size() else {
            return list(i64::try_from(count).unwrap_or(0), out, |_, out| self.text(out));
        };
        let taken = count.checked_mul(size).and_then(|bytes| self.data.split_at_checked(bytes));
        let Some((now, rest)) = taken else { return Err(self.cut()) };
        self.data = rest;
        elements::<true>(self.name, self.datatype, now, out)
    }

    fn text(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let next = self
            .data
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
        let Some((element, rest)) = next else { return Err(self.cut()) };
        self.data = rest;
        match std::str::from_utf8(element) {
            Ok(text) if !self.name.ends_with("_bytes") => string(text, out),
            _ => {
                out.extend_from_slice(b"{\"b64\":\"");
                out.extend_from_slice(STANDARD.encode(element).as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
        Ok(())
    }

    #[cold]
    fn cut(&self) -> Error {
        Error::internal(format!("output '{}': its data is shorter than its shape", self.name))
    }
}
