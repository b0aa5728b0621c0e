//! The whole system from outside. The tests are programs (`tests/run`), the measurements too
//! (`tests/bench/run`); this package only builds the clients and the bare servers that measurements
//! compare with. It may use any crate, and nothing may use it.
