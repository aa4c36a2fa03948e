mod cluster;
mod faults;
mod meta;
mod objects;
mod protocol;
mod raft;
