//! Arrays of NumPy: `.npy` files, and `.npz` archives of them.

use std::{fs, io::Read, path::Path};

use super::tensor::{Datatype, Tensor, elements, push_bytes};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Bytes of one array, unpacked.
const LARGEST: u64 = 4 << 30;

/// The arrays of a file; that of an `.npy` has no name.
///
/// # Errors
/// In words: another kind of file, a datatype that the protocol has not, an array in Fortran's order.
pub fn read(file: &Path) -> Result<Vec<Tensor>, String> {
    if file.extension().is_some_and(|ending| ending == "npy") {
        let bytes = fs::read(file).map_err(|e| e.to_string())?;
        return Ok(vec![array("", &bytes)?]);
    }
    let opened = fs::File::open(file).map_err(|e| e.to_string())?;
    let bad = |e: zip::result::ZipError| format!("it is no .npz: {e}");
    let mut archive = zip::ZipArchive::new(opened).map_err(bad)?;
    let mut arrays = Vec::new();
    for at in 0..archive.len() {
        let member = archive.by_index(at).map_err(bad)?;
        let name = member.name().to_owned();
        let mut bytes = Vec::new();
        let mut limited = member.take(LARGEST + 1);
        limited.read_to_end(&mut bytes).map_err(|e| format!("'{name}': {e}"))?;
        if bytes.len() as u64 > LARGEST {
            return Err(format!("'{name}' has more than 4 GiB"));
        }
        arrays.push(array(name.strip_suffix(".npy").unwrap_or(&name), &bytes)?);
    }
    Ok(arrays)
}

/// One array, in the format's versions 1 to 3.
fn array(name: &str, bytes: &[u8]) -> Result<Tensor, String> {
    let wrong = |why: &str| match name {
        "" => why.to_owned(),
        name => format!("'{name}': {why}"),
    };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it is no array of NumPy"))?;
    let cut = || wrong("it is cut off");
    let ([major, _], rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
    let (length, rest) = match major {
        1 => {
            let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes(*length)), rest)
        }
        _ => {
            let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
            (u32::from_le_bytes(*length) as usize, rest)
        }
    };
    let (head, data) = rest.split_at_checked(length).ok_or_else(cut)?;
    let head = std::str::from_utf8(head).map_err(|_| wrong("its head is no text"))?;
    let (descr, shape) = described(head).map_err(|why| wrong(&why))?;
    let count = elements(&shape).map_err(|why| wrong(&why))?;
    let (datatype, raw) = converted(&descr, count, data).map_err(|why| wrong(&why))?;
    Ok(Tensor { name: name.to_owned(), datatype, shape, raw })
}

/// Datatype and shape, of a head as in `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn described(head: &str) -> Result<(String, Vec<u64>), String> {
    let after = |key: &str| {
        let at = head.find(key).ok_or_else(|| format!("its head has no {key}"))?;
        Ok::<_, String>(head[at + key.len()..].trim_start_matches([':', ' ']))
    };
    let descr = after("'descr'")?;
    let descr = descr.strip_prefix('\'').and_then(|d| d.split_once('\''));
    let (descr, _) = descr.ok_or("it has fields of several datatypes")?;
    if after("'fortran_order'")?.starts_with("True") {
        return Err("it is in Fortran's order: write numpy.ascontiguousarray of it".to_owned());
    }
    let shape = after("'shape'")?.strip_prefix('(').and_then(|s| s.split_once(')'));
    let (shape, _) = shape.ok_or("its head has no shape")?;
    let axes = shape.split(',').map(str::trim).filter(|axis| !axis.is_empty());
    let axes: Result<Vec<u64>, _> = axes.map(str::parse).collect();
    Ok((descr.to_owned(), axes.map_err(|_| "its shape has an axis that is no number")?))
}

/// The wire's form of `count` elements.
fn converted(descr: &str, count: usize, data: &[u8]) -> Result<(Datatype, Vec<u8>), String> {
    let unknown = || format!("its datatype '{descr}' has no counterpart in the protocol");
    let mut characters = descr.chars();
    let order = characters.next().ok_or_else(unknown)?;
    let kind = &descr[order.len_utf8()..];
    if order == '>' && kind.len() > 1 && !kind.ends_with('1') {
        return Err("its numbers are big-endian".to_owned());
    }
    let datatype = match kind {
        "b1" => Datatype::Bool,
        "u1" => Datatype::Uint8,
        "u2" => Datatype::Uint16,
        "u4" => Datatype::Uint32,
        "u8" => Datatype::Uint64,
        "i1" => Datatype::Int8,
        "i2" => Datatype::Int16,
        "i4" => Datatype::Int32,
        "i8" => Datatype::Int64,
        "f2" => Datatype::Fp16,
        "f4" => Datatype::Fp32,
        "f8" => Datatype::Fp64,
        _ => Datatype::Bytes,
    };
    let short = || format!("it has {} bytes, its shape asks for more", data.len());
    if let Some(size) = datatype.size() {
        let bytes = count.checked_mul(size).and_then(|length| data.get(..length));
        return Ok((datatype, bytes.ok_or_else(short)?.to_vec()));
    }
    // Texts of one length: bytes (S) or characters of four bytes (U), filled up with zeros.
    let width: usize = kind.get(1..).and_then(|n| n.parse().ok()).ok_or_else(unknown)?;
    let size = match kind.as_bytes().first() {
        Some(b'S') => width,
        Some(b'U') => width.saturating_mul(4),
        _ => return Err(unknown()),
    };
    let mut raw = Vec::new();
    if size == 0 {
        (0..count).try_for_each(|_| push_bytes(b"", &mut raw))?;
        return Ok((datatype, raw));
    }
    let all = count.checked_mul(size).and_then(|length| data.get(..length)).ok_or_else(short)?;
    for element in all.chunks_exact(size) {
        let text: Vec<u8> = match kind.as_bytes().first() {
            Some(b'S') => element.to_vec(),
            _ => {
                let (points, _) = element.as_chunks::<4>();
                let characters = points.iter().map(|point| u32::from_le_bytes(*point));
                let text: Option<String> = characters.map(char::from_u32).collect();
                text.ok_or("a text in it is no Unicode")?.into_bytes()
            }
        };
        let end = text.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        push_bytes(&text[..end], &mut raw)?;
    }
    Ok((datatype, raw))
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
