//! The tables of a query: the log's rows, whatever columns each file has, its labels, and both joined.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, BooleanArray},
        datatypes::{DataType, Field, Schema, TimeUnit},
    },
    common::DataFusionError,
    datasource::{listing::PartitionedFile, table_schema::TableSchema},
    execution::context::SessionContext,
    logical_expr::{ColumnarValue, Expr, Volatility, col, create_udf, lit},
    scalar::ScalarValue,
    sql::parser::Statement,
};
use onnxd::predlog::{
    compact::journal,
    erased::Ledger,
    labels::store::{self, Store},
    reader::{Filter, Log, Opened, ReadError, failed},
};

use super::{
    files::{Files, checked, file},
    refused::Nothing,
};

/// The tables, for who asks for another.
pub const NAMES: &str = "there are log (the rows), labels (what counts of each key), labelled (log with its labels) and label_revisions (every label as it came)";

/// Of several labels of a key the highest revision counts, then the latest.
const LABELS: &str = "create view labels as \
    select model, label_key, event_id, ts_label, ts_event, label, label_value, weight, source, revision \
    from (select *, row_number() over (partition by model, label_key order by revision desc, ts_label desc) as place \
    from label_revisions) where place = 1 and not deleted";

/// What a labelled row has of its label, and what it is called there.
const OF_A_LABEL: [(&str, &str); 7] = [
    ("label", "label"),
    ("label_value", "label_value"),
    ("ts_label", "ts_label"),
    ("ts_event", "ts_event"),
    ("weight", "label_weight"),
    ("source", "label_source"),
    ("revision", "label_revision"),
];

/// Everything that a query can name.
pub struct Tables {
    log: Files,
    revisions: Files,
    filter: Filter,
    ledger: Arc<Ledger>,
    /// Columns that the table `log` has not, and why.
    apart: BTreeMap<String, String>,
}

impl Tables {
    pub fn of(log: &Log, filter: &Filter) -> Result<Tables, ReadError> {
        let mut rows = Union::default();
        for part in log.files(filter)? {
            let (model, version) = (&part.partition.model, &part.partition.version);
            let days = part.partition.begins().div_euclid(86_400_000_000);
            let keys = vec![
                ScalarValue::Utf8(Some(model.clone())),
                ScalarValue::Utf8(Some(version.clone())),
                ScalarValue::Date32(i32::try_from(days).ok()),
                ScalarValue::Int32(i32::try_from(part.partition.hour).ok()),
            ];
            let whose = format!("version {version} of model {model}");
            rows.add((&log.root, &part.path), keys, &whose)?;
        }
        // What is built on the rows can be named, though there be none.
        rows.know(&Schema::new(vec![
            Field::new("ts", time_type(), true),
            Field::new("label_key", DataType::Utf8, true),
        ]));
        let store = Store::at(&log.root);
        let mut labels = Union::default();
        for model in store.models()? {
            if filter.model.as_ref().is_some_and(|wanted| *wanted != model) {
                continue;
            }
            for path in store.files(&model)? {
                let keys = vec![ScalarValue::Utf8(Some(model.clone()))];
                labels.add((&log.root, &path), keys, "labels")?;
            }
        }
        labels.know(&store::schema());
        let key = |name: &str, kind| Arc::new(Field::new(name, kind, false));
        let apart = rows.apart.clone();
        Ok(Tables {
            log: rows.files(vec![
                key("model", DataType::Utf8),
                key("version", DataType::Utf8),
                key("date", DataType::Date32),
                key("hour", DataType::Int32),
            ]),
            revisions: labels.files(vec![key("model", DataType::Utf8)]),
            filter: filter.clone(),
            ledger: Arc::new(Ledger::read(&log.root)?),
            apart,
        })
    }

    /// Makes them known to a session.
    pub async fn register(&self, session: &SessionContext) -> Result<(), DataFusionError> {
        let mut rows = session.read_table(Arc::new(self.log.clone()))?;
        let time = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
        if let Some(from) = self.filter.from {
            rows = rows.filter(col("ts").gt_eq(time(from)))?;
        }
        if let Some(to) = self.filter.to {
            rows = rows.filter(col("ts").lt(time(to)))?;
        }
        if self.has("subject_key") && self.ledger.keys().next().is_some() {
            rows = rows.filter(not_erased(self.ledger.clone()))?;
        }
        session.register_table("log", rows.into_view())?;
        session.register_table("label_revisions", Arc::new(self.revisions.clone()))?;
        session.sql(LABELS).await?;
        session.sql(&self.labelled()).await?;
        Ok(())
    }

    /// The rows with what turned out to be true of them; null where nothing is known yet. A column of the log keeps its name.
    fn labelled(&self) -> String {
        let columns = OF_A_LABEL.map(|(name, wanted)| {
            let other = format!("label_{name}");
            let as_called = if self.has(wanted) { other.as_str() } else { wanted };
            format!("labels.{name} as {as_called}")
        });
        format!(
            "create view labelled as select log.*, {} from log left join labels \
            on log.model = labels.model and log.label_key = labels.label_key",
            columns.join(", ")
        )
    }

    fn has(&self, column: &str) -> bool {
        self.log.schema.file_schema().index_of(column).is_ok()
    }

    /// Refuses to ask rows where there is no file of any.
    pub fn are_there(
        &self,
        session: &SessionContext,
        statement: &Statement,
    ) -> Result<(), DataFusionError> {
        let of_rows = |name: String| ["log", "labelled"].contains(&name.as_str());
        match self.log.files.is_empty() && names_of(session, statement).any(of_rows) {
            true => Err(DataFusionError::External(Box::new(Nothing))),
            false => Ok(()),
        }
    }

    /// Whether it can be said which rows wait for a label.
    pub fn waits_for_labels(&self) -> bool {
        !self.log.files.is_empty() && self.has("status") && self.has("route")
    }

    /// Names of columns that are not in small letters.
    pub fn capitals(&self) -> Vec<String> {
        let fields = self.log.schema.file_schema().fields();
        let names = fields.iter().map(|field| field.name());
        names.filter(|name| name.chars().any(|c| c.is_ascii_uppercase())).cloned().collect()
    }

    /// Why the table `log` has no column of this name, where some files have.
    pub fn apart(&self, column: &str) -> Option<&String> {
        self.apart.get(column)
    }

    /// Rows of all files.
    pub fn rows(&self) -> u64 {
        self.log.rows + self.revisions.rows
    }

    pub fn labels_count(&self) -> u64 {
        self.revisions.rows
    }

    /// Whether a file has gone since they were listed.
    pub fn have_changed(&self) -> bool {
        let mut paths = self.log.paths().chain(self.revisions.paths());
        paths.any(|path| journal::open(path).is_err())
    }

    /// Reads every file, and says which is damaged.
    pub fn damaged(&self) -> Option<ReadError> {
        let mut paths = self.log.paths().chain(self.revisions.paths());
        paths.find_map(|path| checked(path).err())
    }
}

/// The tables that a statement names.
pub fn names_of(session: &SessionContext, statement: &Statement) -> impl Iterator<Item = String> {
    let named = session.state().resolve_table_references(statement).unwrap_or_default();
    named.into_iter().map(|name| name.table().to_owned())
}

/// Whether the table of this name has to do with labels.
pub fn has_labels(name: String) -> bool {
    ["labels", "labelled", "label_revisions"].contains(&name.as_str())
}

/// Rows about nobody who was erased: late ones may still lie in files. A function, since a list would stand in a plan that somebody looks at.
fn not_erased(ledger: Arc<Ledger>) -> Expr {
    let keeps = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let keys = arrays.first().and_then(|keys| keys.as_string_opt::<i32>());
        let Some(keys) = keys else {
            return Err(DataFusionError::Internal("a subject_key that is no text".to_owned()));
        };
        let keep: BooleanArray =
            keys.iter().map(|key| Some(!key.is_some_and(|key| ledger.holds(key)))).collect();
        Ok(ColumnarValue::Array(Arc::new(keep) as ArrayRef))
    };
    let kinds = (vec![DataType::Utf8], DataType::Boolean);
    create_udf("not_erased", kinds.0, kinds.1, Volatility::Immutable, Arc::new(keeps))
        .call(vec![col("subject_key")])
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Columns of several files, by name.
#[derive(Default)]
struct Union {
    order: Vec<String>,
    kinds: BTreeMap<String, (DataType, String)>,
    apart: BTreeMap<String, String>,
    files: Vec<PartitionedFile>,
    rows: u64,
}

impl Union {
    /// Adds a file below the log's root; `whose` it is, for what cannot be put together.
    fn add(
        &mut self,
        (root, path): (&Path, &Path),
        keys: Vec<ScalarValue>,
        whose: &str,
    ) -> Result<(), ReadError> {
        let opened = Opened::at(path)?;
        let about = journal::open(path).and_then(|file| file.metadata());
        let bytes = about.map_err(|error| failed(path, error))?.len();
        self.files.push(file(root, path, bytes, keys));
        self.rows += opened.rows;
        for field in opened.schema.fields() {
            self.column(field, whose);
        }
        Ok(())
    }

    /// Has these columns, though no file have them.
    fn know(&mut self, schema: &Schema) {
        for field in schema.fields() {
            self.column(field, "");
        }
    }

    fn column(&mut self, field: &Field, whose: &str) {
        let name = field.name();
        match self.kinds.get_mut(name) {
            None => {
                self.order.push(name.clone());
                self.kinds.insert(name.clone(), (field.data_type().clone(), whose.to_owned()));
            }
            Some((kind, first)) => match wider(kind, field.data_type()) {
                Some(wide) => *kind = wide,
                None => {
                    let (one, other) = (kind.clone(), field.data_type());
                    let why = format!(
                        "it is {one} in {first} and {other} in {whose} (--model and --version choose one)"
                    );
                    self.apart.entry(name.clone()).or_insert(why);
                }
            },
        }
    }

    fn files(self, keys: Vec<Arc<Field>>) -> Files {
        let there = self.order.iter().filter(|name| !self.apart.contains_key(*name));
        let fields: Vec<Field> = there
            .filter_map(|name| Some(Field::new(name, self.kinds.get(name)?.0.clone(), true)))
            .collect();
        let schema = TableSchema::builder(Arc::new(Schema::new(fields)))
            .with_table_partition_cols(keys)
            .build();
        Files { schema, files: self.files, rows: self.rows }
    }
}

/// The type that holds both; none where there is none.
fn wider(one: &DataType, other: &DataType) -> Option<DataType> {
    use DataType::{Float32, Float64, Int32, Int64, List};
    match (one, other) {
        (one, other) if one == other => Some(one.clone()),
        (Int32 | Int64, Int32 | Int64) => Some(Int64),
        (Int32 | Int64 | Float32 | Float64, Int32 | Int64 | Float32 | Float64) => Some(Float64),
        (List(one), List(other)) => {
            let item = wider(one.data_type(), other.data_type())?;
            Some(List(Arc::new(one.as_ref().clone().with_data_type(item).with_nullable(true))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_one_name_are_put_together_where_they_can_be() {
        let mut union = Union::default();
        let field = |name: &str, kind: &DataType| Field::new(name, kind.clone(), false);
        let list = |kind: DataType| DataType::List(Arc::new(Field::new("element", kind, true)));
        for (name, one, other) in [
            ("n", DataType::Int32, DataType::Int64),
            ("x", DataType::Float32, DataType::Int64),
            ("v", list(DataType::Float32), list(DataType::Float64)),
            ("t", DataType::Utf8, DataType::Int32),
        ] {
            union.column(&field(name, &one), "version 1 of model m");
            union.column(&field(name, &other), "version 2 of model m");
        }
        assert_eq!(
            union.apart.get("t").map(String::as_str),
            Some(
                "it is Utf8 in version 1 of model m and Int32 in version 2 of model m (--model and --version choose one)"
            )
        );
        let files = union.files(Vec::new());
        let schema = files.schema.file_schema().clone();
        let kinds: Vec<DataType> =
            schema.fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(kinds, [DataType::Int64, DataType::Float64, list(DataType::Float64)]);
        assert!(schema.fields().iter().all(|field| field.is_nullable()));
    }
}
