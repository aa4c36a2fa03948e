//! Contracts of the seams, checked on every implementation, and properties of the simulation.

#[cfg(test)]
#[path = "all/disk_contract.rs"]
mod disk_contract;
#[cfg(test)]
#[path = "all/disk_crash.rs"]
mod disk_crash;
#[cfg(test)]
#[path = "all/kv_contract.rs"]
mod kv_contract;
#[cfg(test)]
#[path = "all/kv_crash.rs"]
mod kv_crash;
#[cfg(test)]
#[path = "all/kv_rot.rs"]
mod kv_rot;
#[cfg(test)]
#[path = "all/net.rs"]
mod net;
#[cfg(test)]
#[path = "all/rocks.rs"]
mod rocks;
#[cfg(test)]
#[path = "all/world.rs"]
mod world;
