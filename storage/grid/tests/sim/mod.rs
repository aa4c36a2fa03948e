mod cluster;
mod degraded;
mod faults;
mod meta;
mod objects;
mod protocol;
mod raft;
