//! Tests of the store as a whole, on a simulated machine (one on a real one).

mod faults;
mod format;
mod model;
mod real;
mod rot;
mod rules;
mod support;
