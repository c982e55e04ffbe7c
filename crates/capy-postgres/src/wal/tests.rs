//! The WAL reader on synthetic segments.
