//! The status of all services and of EDI files: one document, and its forms as text and as a page.

pub mod edi;
pub mod model;
pub mod page;
pub mod problems;
pub mod text;
