//! Models and their versions: what is on disk, what is wanted, what is loaded, and the snapshot that requests see.

pub mod table;
