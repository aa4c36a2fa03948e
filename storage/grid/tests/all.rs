//! The grid on simulated machines: seven nodes in one process, with real drives, real metadata
//! state machines and a simulated world below them.

mod sim;
