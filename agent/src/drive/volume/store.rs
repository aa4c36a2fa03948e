//! Bytes that wait are brought to the volume.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nexusgrid_fuse::dirty::NoRoom;
use nexusgrid_fuse::volume::{Handle, Ino};
use nexusgrid_fuse::{Outcome, VolumeError};

use super::super::wire::Call;
use super::files::Turn;
use super::{Inner, LOT_BYTES, at, moment, now};

/// Whether trying again is of no use: the bytes will never be taken.
fn is_final(error: VolumeError) -> bool {
    matches!(error, VolumeError::NotFound | VolumeError::Stale)
}

/// Whether bytes are given up once their file is closed and its program has heard why.
fn is_refused(error: VolumeError) -> bool {
    !matches!(error, VolumeError::TimedOut | VolumeError::Interrupted)
}

impl Inner {
    /// Takes what a program writes; waits while there is no room.
    pub(super) async fn take(self: &Arc<Self>, ino: Ino, offset: u64, data: &[u8]) -> Outcome<()> {
        let mut done = 0;
        loop {
            let rest = data.get(done..).unwrap_or_default();
            let (took, why) = self.dirty.write(ino, offset + done as u64, rest, now())?;
            done += took;
            match why {
                None => break,
                Some(NoRoom::Crowded) => self.store(ino).await?,
                Some(NoRoom::Full) => self.make_room(ino).await?,
            }
        }
        if self.dirty.waiting(ino).is_some_and(|waiting| waiting.bytes >= LOT_BYTES)
            && let Some(turn) = self.files.storing_now(ino)
        {
            let inner = Arc::clone(self);
            tokio::spawn(async move { inner.store_meanwhile(ino, turn).await });
        }
        Ok(())
    }

    /// Stores the file of which most waits; if that cannot be stored, the next one.
    async fn make_room(self: &Arc<Self>, own: Ino) -> Outcome<()> {
        let mut files: Vec<(u64, Ino)> =
            self.dirty.files().into_iter().map(|(ino, bytes)| (bytes, ino)).collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        let mut outcome = Err(VolumeError::Io);
        for (_, ino) in files {
            match self.store(ino).await {
                Ok(()) => return Ok(()),
                Err(error) if ino == own => outcome = Err(error),
                Err(_) => {}
            }
        }
        outcome
    }

    /// Stores what waits of a file now.
    pub(super) async fn store(self: &Arc<Self>, ino: Ino) -> Outcome<()> {
        if let Some(why) = self.files.given_up(ino) {
            return Err(why);
        }
        if self.dirty.waiting(ino).is_none() && self.files.storing_now(ino).is_some() {
            return Ok(());
        }
        let inner = Arc::clone(self);
        detached(async move {
            let _turn = inner.files.storing(ino).await;
            inner.store_alone(ino).await
        })
        .await
    }

    async fn store_meanwhile(&self, ino: Ino, turn: Turn) {
        // Whoever closes the file or asks for it to be synced tries again, and says what is wrong.
        if let Err(error) = self.store_alone(ino).await {
            tracing::debug!(ino = ino.0, %error, "bytes wait on");
        }
        drop(turn);
    }

    /// Likewise, for who has the turn.
    pub(super) async fn store_alone(&self, ino: Ino) -> Outcome<()> {
        let mut from = 0;
        while let Some(lot) = self.dirty.lot(ino, from, LOT_BYTES)? {
            from = lot.next();
            let mut bytes = BytesMut::with_capacity(usize::try_from(lot.bytes()).unwrap_or(0));
            let mut ranges = Vec::with_capacity(lot.ranges.len());
            for (offset, pieces) in &lot.ranges {
                let before = bytes.len();
                pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
                ranges.push((*offset, (bytes.len() - before) as u64));
            }
            let call = Call::Write(at(ino), ranges, moment(lot.modified));
            // By name: one that is asked for again must not come after what is written next.
            match self.call(Some(self.own.next()), call, bytes.freeze()).await {
                Ok(_) => self.dirty.settle(&lot),
                Err(error) => {
                    if is_final(error) {
                        self.dirty.cut(ino, 0)?;
                        self.files.gave_up(ino, error);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// A handle is gone; with the last one of a file it is held no more.
    pub(super) async fn let_go(self: &Arc<Self>, handle: Handle) {
        let inner = Arc::clone(self);
        let _ = detached(async move {
            inner.let_go_of(handle).await;
            Ok(())
        })
        .await;
    }

    async fn let_go_of(self: &Arc<Self>, handle: Handle) {
        let Some(ino) = self.files.of(handle) else { return };
        let _turn = self.files.holding(ino).await;
        if !self.files.close(handle) {
            return;
        }
        if self.dirty.waiting(ino).is_some()
            && let Err(error) = self.store(ino).await
            && is_refused(error)
        {
            tracing::error!(ino = ino.0, %error, "bytes of a closed file are given up");
            // The kernel may have them still.
            self.files.forget_pages(ino);
            if let Err(error) = self.dirty.cut(ino, 0) {
                tracing::error!(ino = ino.0, %error, "they cannot be forgotten");
            }
        }
        self.give_back(ino).await;
    }

    /// A file that nobody has open is held no more; for who has the turn to hold it.
    pub(super) async fn give_back(&self, ino: Ino) {
        if let Err(error) = self.call(None, Call::Release(at(ino)), Bytes::new()).await {
            tracing::warn!(ino = ino.0, %error, "a file stays held");
        }
    }
}

/// Does something to its end also when nobody waits for it any more: what has its turn keeps it as long as the
/// agent may be at it.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> Outcome<T> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(%error, "a call ended in a panic");
            Err(VolumeError::Io)
        }
    }
}

/// Stores what has waited long enough, until the volume is dropped.
pub(super) async fn keep(volume: Weak<Inner>, delay: Duration) {
    loop {
        tokio::time::sleep(delay).await;
        let Some(inner) = volume.upgrade() else { return };
        for ino in inner.dirty.files().into_keys() {
            if let Some(turn) = inner.files.storing_now(ino) {
                inner.store_meanwhile(ino, turn).await;
            }
        }
    }
}
