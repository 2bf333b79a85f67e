//! Files of one table as DataFusion reads them: each where it lies, with the keys of its directories, and columns that others have as null.

use std::{
    fs::File,
    future::{Future, ready},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{DataFusionError, Statistics, project_schema, stats::Precision},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
        },
        source::DataSourceExec,
        table_schema::TableSchema,
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableType},
    physical_plan::{ExecutionPlan, empty::EmptyExec, metrics::ExecutionPlanMetricsSet},
    scalar::ScalarValue,
};
use onnxd::predlog::{
    compact::journal,
    reader::{Opened, ReadError, failed},
};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::ParquetError,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
};

/// A file with the keys of its directories.
pub fn file(root: &Path, path: &Path, bytes: u64, keys: Vec<ScalarValue>) -> PartitionedFile {
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    PartitionedFile::new(name, bytes).with_partition_values(keys).with_extension(path.to_owned())
}

/// Reads all of a file that a query may: its footer, its indexes and its rows.
pub fn checked(path: &Path) -> Result<(), ReadError> {
    let file = journal::open(path).map_err(|error| failed(path, error))?;
    ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(&file)
        .map_err(|error| failed(path, format!("damaged: {error}")))?;
    Opened::at(path)?.batches(None)?.try_for_each(|batch| batch.map(drop))
}

/// Files as a table.
#[derive(Clone, Debug)]
pub struct Files {
    pub schema: TableSchema,
    pub files: Vec<PartitionedFile>,
    pub rows: u64,
}

impl Files {
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().filter_map(|file| file.extension::<PathBuf>())
    }
}

#[async_trait]
impl TableProvider for Files {
    fn schema(&self) -> SchemaRef {
        self.schema.table_schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn statistics(&self) -> Option<Statistics> {
        let unknown = Statistics::new_unknown(self.schema.table_schema());
        let rows = usize::try_from(self.rows).unwrap_or(usize::MAX);
        Some(unknown.with_num_rows(Precision::Inexact(rows)))
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        if self.files.is_empty() {
            let schema = project_schema(&self.schema(), projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        // Filters reach the files all the same: the optimizer of the plan pushes them down.
        let source = ParquetSource::new(self.schema.clone())
            .with_parquet_file_reader_factory(Arc::new(Readers));
        let parts = session.config().target_partitions();
        let groups = FileGroup::new(self.files.clone()).split_files(parts);
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics().unwrap_or_default())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}

/// Opens files as our own readers do: also one that a compaction has just put into another.
#[derive(Debug)]
struct Readers;

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        _partition: usize,
        file: PartitionedFile,
        _footer: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let path = file.extension::<PathBuf>().cloned().unwrap_or_default();
        let told =
            |error: std::io::Error| DataFusionError::External(Box::new(failed(&path, error)));
        let open = journal::open(&path).map_err(told)?;
        let bytes = open.metadata().map_err(told)?.len();
        Ok(Box::new(Reader { file: open, path, bytes }))
    }
}

struct Reader {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Reader {
    fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        // A damaged footer may name any place: no more is set aside than there is.
        let length = range.end.checked_sub(range.start).filter(|_| range.end <= self.bytes);
        let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else {
            return Err(self.told("damaged: its footer names a place that is not in it"));
        };
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, range.start).map_err(|error| self.told(error))?;
        Ok(bytes.into())
    }

    fn metadata(
        &self,
        options: Option<&ArrowReaderOptions>,
    ) -> Result<Arc<ParquetMetaData>, ParquetError> {
        let mut reader = ParquetMetaDataReader::new();
        if let Some(options) = options {
            reader = reader
                .with_metadata_options(Some(options.metadata_options().clone()))
                .with_column_index_policy(options.column_index_policy())
                .with_offset_index_policy(options.offset_index_policy());
        }
        let read = reader.parse_and_finish(&self.file);
        read.map(Arc::new)
            .map_err(|error| self.told(format!("not a readable Parquet file: {error}")))
    }

    fn told(&self, what: impl std::fmt::Display) -> ParquetError {
        ParquetError::External(Box::new(failed(&self.path, what)))
    }
}

/// What is there at once: the disk is read on the query's own threads.
type Ready<'a, T> = Pin<Box<dyn Future<Output = Result<T, ParquetError>> + Send + 'a>>;

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> Ready<'_, Bytes> {
        Box::pin(ready(self.read(range)))
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> Ready<'a, Arc<ParquetMetaData>> {
        Box::pin(ready(self.metadata(options)))
    }
}
