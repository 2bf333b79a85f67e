//! Requests made of logged rows: which columns are which input. Pure.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use onnxd::{
    predlog::{
        footer::{LogSchema, Part, Role},
        value::{self, Value},
    },
    types::datatype::Datatype,
};
use serde_json::{Value as Json, json};

use super::{InputSpec, elements::values};

/// Where an input's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// One column an element, in order.
    Spread(Vec<String>),
    /// One column of lists, or of one element a row; that of its dimensions; and that of the blobs that hold what was too large.
    Whole { column: Option<String>, shape: Option<String>, blob: Option<String> },
}

/// What gives the bytes of a blob, by what a row says of it; or says why it cannot.
pub type Blobs<'b> = &'b dyn Fn(&str) -> Result<Vec<u8>, String>;

/// How the rows of one file become requests.
#[derive(Clone, Debug)]
pub struct Plan {
    inputs: Vec<(InputSpec, Found)>,
    /// A row is an instance of a batch, and not a request.
    pub table: bool,
}

impl Plan {
    /// # Errors
    /// Why rows of this file cannot be asked again: what is missing of which input.
    pub fn of(schema: &LogSchema, inputs: &[InputSpec]) -> Result<Plan, String> {
        let table = schema.layout == "table";
        let planned: Result<Vec<_>, String> =
            inputs.iter().map(|spec| Ok((spec.clone(), found(schema, spec)?))).collect();
        Ok(Plan { inputs: planned?, table })
    }

    /// A request of the rows from `first` on, `count` of them. A row that lacks something is an error for all of them.
    ///
    /// # Errors
    /// What a row lacks.
    pub fn request(
        &self,
        (batch, blobs): (&RecordBatch, Blobs<'_>),
        first: usize,
        count: usize,
    ) -> Result<Json, String> {
        let rows = first..first + count;
        let of = |(spec, found): &(_, _)| self.input(spec, found, (batch, blobs), rows.clone());
        let inputs: Result<Vec<Json>, String> = self.inputs.iter().map(of).collect();
        Ok(json!({ "inputs": inputs? }))
    }

    fn input(
        &self,
        spec: &InputSpec,
        found: &Found,
        (batch, blobs): (&RecordBatch, Blobs<'_>),
        rows: std::ops::Range<usize>,
    ) -> Result<Json, String> {
        let mut data: Vec<Json> = Vec::new();
        let mut dims: Option<Vec<i64>> = None;
        let count = rows.len() as i64;
        for row in rows {
            let values = elements(spec, found, (batch, blobs), row)?;
            let own = own_dims(spec, found, batch, row, (values.len(), self.table))?;
            if dims.as_ref().is_some_and(|dims| *dims != own) {
                return Err(format!("{}: rows of different shapes in one batch", spec.name));
            }
            dims = Some(own);
            data.extend(values.iter().map(Value::json));
        }
        let own = dims.unwrap_or_default();
        let shape: Vec<i64> = if self.table { [vec![count], own].concat() } else { own };
        Ok(json!({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}))
    }
}

fn found(schema: &LogSchema, spec: &InputSpec) -> Result<Found, String> {
    let of: Vec<_> = schema
        .of(Role::Feature)
        .filter(|column| column.tensor.as_deref() == Some(spec.name.as_str()))
        .collect();
    if let Some(changed) = of.iter().find(|column| column.redaction.is_some()) {
        let how = changed.redaction.as_deref().unwrap_or_default();
        return Err(format!(
            "input {}: the column {} was redacted ({how})",
            spec.name, changed.name
        ));
    }
    let spread: BTreeMap<u32, String> = of
        .iter()
        .filter(|column| column.part == Some(Part::Value))
        .filter_map(|column| Some((column.index?, column.name.clone())))
        .collect();
    if !spread.is_empty() {
        let whole = spread.keys().copied().eq(0..spread.len() as u32);
        return match whole {
            true => Ok(Found::Spread(spread.into_values().collect())),
            false => Err(format!("input {}: not every element of it was logged", spec.name)),
        };
    }
    let named =
        |part: Part| of.iter().find(|column| column.part == Some(part)).map(|c| c.name.clone());
    let was = of.iter().find_map(|column| column.datatype.as_deref());
    match (named(Part::Value), named(Part::Ref)) {
        (None, None) => Err(format!("input {}: its values were not logged", spec.name)),
        (_, Some(_)) if was != Some(&spec.datatype) => {
            let was = was.unwrap_or_default();
            Err(format!("input {}: it was {was} when it was logged", spec.name))
        }
        (column, blob) => Ok(Found::Whole { column, shape: named(Part::Shape), blob }),
    }
}

/// The elements of one row.
fn elements(
    spec: &InputSpec,
    found: &Found,
    (batch, blobs): (&RecordBatch, Blobs<'_>),
    row: usize,
) -> Result<Vec<Value>, String> {
    let cell = |name: &str| -> Result<Value, String> {
        let column =
            batch.column_by_name(name).ok_or_else(|| format!("there is no column {name}"))?;
        match value::at(column.as_ref(), row)? {
            Value::Null => Err(format!("the column {name} is null")),
            value => Ok(value),
        }
    };
    match found {
        Found::Spread(columns) => columns.iter().map(|name| cell(name)).collect(),
        Found::Whole { column, blob, .. } => {
            if let Some(Ok(Value::Text(reference))) = blob.as_deref().map(&cell) {
                let bytes = blobs(&reference)?;
                let datatype = Datatype::parse(&spec.datatype);
                let values = datatype.and_then(|datatype| values(datatype, &bytes));
                return values.ok_or_else(|| format!("{reference}: no elements of {}", spec.name));
            }
            let column = column.as_deref().ok_or_else(|| {
                format!("input {}: the row has neither its values nor a blob", spec.name)
            })?;
            Ok(match cell(column)? {
                Value::List(items) => items,
                one => vec![one],
            })
        }
    }
}

/// The dimensions of one row's part: without the batch's in a table, whole otherwise.
fn own_dims(
    spec: &InputSpec,
    found: &Found,
    batch: &RecordBatch,
    row: usize,
    (len, table): (usize, bool),
) -> Result<Vec<i64>, String> {
    if let Found::Whole { shape: Some(shape), .. } = found {
        let column =
            batch.column_by_name(shape).ok_or_else(|| format!("there is no column {shape}"))?;
        if let Value::List(dims) = value::at(column.as_ref(), row)? {
            let whole = |value: &Value| match value {
                Value::Int(v) => Ok(*v),
                other => Err(format!("{shape}: expected a dimension, got {}", other.json())),
            };
            let dims: Vec<i64> = dims.iter().map(whole).collect::<Result<_, _>>()?;
            // Of a row in a table, the batch's dimension stands in front where it was logged at all.
            let batched = table && dims.len() == spec.dims.len() && !dims.is_empty();
            return Ok(if batched { dims[1..].to_vec() } else { dims });
        }
    }
    let declared = if table { spec.dims.get(1..).unwrap_or_default() } else { &spec.dims[..] };
    filled(declared, len).ok_or_else(|| {
        format!("input {}: {len} elements do not make the shape {:?}", spec.name, spec.dims)
    })
}

/// Declared dimensions with the one that is open worked out from the number of elements.
fn filled(declared: &[i64], len: usize) -> Option<Vec<i64>> {
    let fixed: i64 = declared.iter().filter(|dim| **dim >= 0).product();
    let open = declared.iter().filter(|dim| **dim < 0).count();
    let len = i64::try_from(len).ok()?;
    match open {
        0 => (fixed == len).then(|| declared.to_vec()),
        1 if fixed > 0 && len % fixed == 0 => {
            Some(declared.iter().map(|dim| if *dim < 0 { len / fixed } else { *dim }).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_dimension_is_worked_out() {
        assert_eq!(filled(&[2], 2), Some(vec![2]));
        assert_eq!(filled(&[], 1), Some(vec![]));
        assert_eq!(filled(&[-1, 3], 12), Some(vec![4, 3]));
        assert_eq!(filled(&[-1, 3], 13), None);
        assert_eq!(filled(&[-1, -1], 4), None);
        assert_eq!(filled(&[2], 3), None);
    }
}
