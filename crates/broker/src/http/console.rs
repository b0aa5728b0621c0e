//! The console: pages for people who signed in. Rendering is `grantwright_approval::console`'s;
//! here the pages' matter is read, forms are taken, and everything that changes something goes
//! through the same functions as the API.

pub mod assets;
pub mod respond;
