//! Modules of CPython's standard library that Bots uses, with the same results. Tests compare them with CPython.

pub mod configparser;
pub mod fnmatch;
