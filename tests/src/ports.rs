//! Addresses for servers that tests start.
//!
//! They are below those that the kernel gives to whoever connects (`ip_local_port_range`): while a node is down, no
//! client of another test has its port. Tests that run at once, as nextest numbers them, have ports of their own.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 20_000;
/// Of one test: of its grids, and of what else it starts.
const EACH: u16 = 500;
/// Tests at once; those beyond share.
const SLOTS: u16 = 25;

static GIVEN: AtomicU16 = AtomicU16::new(0);

/// An address nobody listens on now, nor will in another test.
pub fn free_address() -> SocketAddr {
    let slot = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse().ok());
    let process = std::process::id();
    let slot = slot.unwrap_or((process % u32::from(SLOTS)) as u16) % SLOTS;
    // Not where the test before in this place began: its last connections may linger.
    let begin = (process % u32::from(EACH)) as u16;
    for _ in 0..EACH {
        let place = (begin + GIVEN.fetch_add(1, Ordering::Relaxed) % EACH) % EACH;
        let address = SocketAddr::from(([127, 0, 0, 1], FIRST + slot * EACH + place));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("none of {EACH} ports is free");
}
