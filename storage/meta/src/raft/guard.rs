//! A store that remembers when something in it was found rotten: whichever read met it, the host
//! takes the replica out of its group.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::kv::Row;
use nexusgrid_env::{Batch, Durability, Kv, KvError, KvRead, KvVerify, ScanRange};
use parking_lot::Mutex;

/// What was found, first.
#[derive(Default)]
pub(crate) struct Rot(Mutex<Option<String>>);

impl Rot {
    /// What was found.
    pub(crate) fn found(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Notes rot among results.
    pub(crate) fn note<T>(&self, result: Result<T, KvError>) -> Result<T, KvError> {
        if let Err(KvError::Corrupt(why)) = &result {
            self.0.lock().get_or_insert_with(|| why.clone());
        }
        result
    }
}

/// `kv`, watched by `rot`.
pub(crate) fn guarded(kv: Arc<dyn Kv>, rot: Arc<Rot>) -> Arc<dyn Kv> {
    Arc::new(Guarded { kv, rot })
}

struct Guarded<K: ?Sized> {
    rot: Arc<Rot>,
    kv: Arc<K>,
}

impl<K: KvRead + ?Sized> KvRead for Guarded<K> {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.rot.note(self.kv.get(family, key))
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        self.rot.note(self.kv.scan(family, range))
    }
}

impl Kv for Guarded<dyn Kv> {
    fn write(&self, batch: Batch, durability: Durability) -> Result<(), KvError> {
        self.rot.note(self.kv.write(batch, durability))
    }

    fn flush(&self) -> Result<(), KvError> {
        self.rot.note(self.kv.flush())
    }

    fn snapshot(&self) -> Result<Arc<dyn KvRead>, KvError> {
        let kv = self.rot.note(self.kv.snapshot())?;
        Ok(Arc::new(Guarded { kv, rot: self.rot.clone() }))
    }

    fn checkpoint(&self, dir: &Path) -> Result<(), KvError> {
        self.rot.note(self.kv.checkpoint(dir))
    }

    fn verify(&self, scratch: &Path) -> Result<Box<dyn KvVerify>, KvError> {
        let walk = self.rot.note(self.kv.verify(scratch))?;
        Ok(Box::new(GuardedWalk { walk, rot: self.rot.clone() }))
    }

    fn size_bytes(&self) -> u64 {
        self.kv.size_bytes()
    }
}

struct GuardedWalk {
    walk: Box<dyn KvVerify>,
    rot: Arc<Rot>,
}

impl KvVerify for GuardedWalk {
    fn step(&mut self, bytes: u64) -> Result<Option<u64>, KvError> {
        self.rot.note(self.walk.step(bytes))
    }
}
