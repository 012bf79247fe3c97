//! Names as bytes: every command that takes one finds the same file.
