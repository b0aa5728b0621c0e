//! The console's pages: pure functions from what is known to HTML.
//!
//! Two rules, each in one place. *Escaping*: pages are written with `maud`, whose values are always
//! escaped; `PreEscaped` is not used here. *Deceptive characters*: [`layout::page`] is the only way
//! out, and lets no control, bidirectional or zero-width character through, whoever wrote it.

pub mod agents;
pub mod assets;
pub mod attention;
pub mod delegations;
pub mod inbox;
pub mod layout;
pub mod leases;
pub mod link;
pub mod log;
pub mod narrow;
pub mod passkeys;
pub mod policies;
pub mod problem;
pub mod request;
pub mod story;
pub mod words;

pub use layout::{Frame, Here, Notice, Viewer, page};
