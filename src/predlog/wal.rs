//! The write-ahead log: frames of `[u32 length][u32 CRC-32C][Arrow IPC stream]`, both numbers little-endian. What a crash leaves
//! at the end is cut off where the first frame is not whole.
//!
//! Why the CRC: a stream that is cut and followed by zeros reads without an error, as rows that nobody wrote.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use arrow_array::RecordBatch;
use arrow_ipc::{reader::StreamReader, writer::StreamWriter};
use arrow_schema::{Schema, SchemaRef};

use super::{
    footer::{self, LogSchema},
    schema,
};

/// Bytes before a frame's stream.
pub const HEAD: usize = 8;

/// A frame for these rows; with `footer`, which the first frame of a segment needs.
///
/// # Errors
/// The rows are too many for one frame.
pub fn frame(batch: &RecordBatch, footer: Option<&str>) -> Result<Vec<u8>, String> {
    let schema = match footer {
        Some(footer) => schema::with_footer(&batch.schema(), footer),
        None => batch.schema(),
    };
    let batch = batch.clone().with_schema(schema.clone()).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; HEAD];
    let mut writer = StreamWriter::try_new(&mut bytes, &schema).map_err(|e| e.to_string())?;
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    drop(writer);
    let (length, crc) = {
        let stream = &bytes[HEAD..];
        let length = u32::try_from(stream.len()).map_err(|_| "a frame above 4 GiB".to_owned())?;
        (length, crc32c::crc32c(stream))
    };
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..HEAD].copy_from_slice(&crc.to_le_bytes());
    Ok(bytes)
}

/// Reads a segment's frames, up to the first that is not whole.
pub struct Segment {
    file: BufReader<File>,
    /// Where the last whole frame ends.
    good: u64,
    /// Bytes that are left to read.
    left: u64,
    /// Bytes from the first frame on that is not whole.
    torn: u64,
    /// Why that is more than a crash's doing.
    damage: Option<&'static str>,
    footer: Option<LogSchema>,
    schema: Option<SchemaRef>,
}

impl Segment {
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> io::Result<Segment> {
        let file = File::open(path)?;
        let left = file.metadata()?.len();
        let file = BufReader::with_capacity(1 << 20, file);
        let (good, torn, damage) = (0, 0, None);
        Ok(Segment { file, good, left, torn, damage, footer: None, schema: None })
    }

    /// Goes on behind the last whole frame, with what has been written since.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn go_on(&mut self) -> io::Result<()> {
        let length = self.file.get_ref().metadata()?.len();
        self.file.seek(SeekFrom::Start(self.good))?;
        (self.left, self.torn, self.damage) = (length.saturating_sub(self.good), 0, None);
        Ok(())
    }

    /// The rows of the next frame; `None` at the end of what is whole.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&mut self) -> io::Result<Option<RecordBatch>> {
        if self.torn > 0 || self.left == 0 {
            return Ok(None);
        }
        let before = self.left;
        match self.whole()? {
            Some(batch) => {
                self.good += before - self.left;
                Ok(Some(batch))
            }
            None => {
                self.torn = before;
                Ok(None)
            }
        }
    }

    fn whole(&mut self) -> io::Result<Option<RecordBatch>> {
        if self.left < HEAD as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD];
        self.file.read_exact(&mut head)?;
        self.left -= HEAD as u64;
        let [a, b, c, d, rest @ ..] = head;
        let (length, crc) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(rest));
        // The CRC of nothing is zero: a tail of zeros is no frame.
        if length == 0 || u64::from(length) > self.left {
            return Ok(None);
        }
        let mut stream = vec![0; length as usize];
        self.file.read_exact(&mut stream)?;
        self.left -= u64::from(length);
        if crc32c::crc32c(&stream) != crc {
            self.damage = Some("a frame's bytes are not those of its CRC");
            return Ok(None);
        }
        let rows = self.parse(stream);
        if rows.is_none() {
            self.damage = Some("a frame whose CRC holds is not readable");
        }
        Ok(rows)
    }

    fn parse(&mut self, stream: Vec<u8>) -> Option<RecordBatch> {
        let mut reader = StreamReader::try_new(Cursor::new(stream), None).ok()?;
        let batch = reader.next()?.ok()?;
        let schema = batch.schema();
        if self.footer.is_none() {
            let footer = serde_json::from_str(schema.metadata().get(footer::KEY)?).ok()?;
            self.footer = Some(footer);
            self.schema = Some(Arc::new(Schema::new(schema.fields().clone())));
        }
        // All frames of a segment have the same columns; what a frame says beside them is dropped.
        RecordBatch::try_new(self.schema.clone()?, batch.columns().to_vec()).ok()
    }

    /// What the segment's rows are, once the first frame was read.
    pub fn footer(&self) -> Option<&LogSchema> {
        self.footer.as_ref()
    }

    /// Where the first frame is that is not whole, and what is wrong with it, where a write that was cut off does not explain it: all of
    /// its bytes are there. Known once `read` has given `None`.
    pub fn damage(&self) -> Option<(u64, &'static str)> {
        self.damage.map(|why| (self.good, why))
    }

    /// Bytes at the end that are no whole frame; known once `read` has given `None`.
    pub fn torn(&self) -> u64 {
        self.torn
    }
}
