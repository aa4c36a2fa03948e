//! What a mount's daemon and its machine's agent say to each other.
//!
//! ```text
//!   frame = bytes of the message (u32, little-endian) ‖ bytes that follow it (likewise) ‖ message (postcard) ‖ bytes
//!   daemon: Hello, then asks          agent: Greeting, then answers, in whatever order
//! ```
//!
//! Among the answers come news of what was lent, as answers to [`NOBODY`]; the daemon says that it heard. An answer
//! is lent, and news end loans, in the order in which they are sent.

use std::io::IoSlice;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use nexusgrid_grid::volume::{
    AttrsChange, Creation, Ino, LoanNews, Lock, LockKind, LockRange, Moment, Node, PosixError,
    Question, RenameMode, XattrWhen,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;

/// Of this conversation; the first byte of a [`Hello`]. A daemon of a later version is refused, and one from before
/// [`VERSION_OLDEST`]. Each says the oldest version that knows what it needs, so that an older agent serves it.
///
/// Daemons of this version may make all calls, [`Call::Alone`] and [`Call::Sync`] as well, and may bring a key.
pub const VERSION: u8 = 4;

/// Daemons of this version bring an access key: [`Credentials`](super::Credentials) (postcard) follow their [`Hello`].
pub const VERSION_WITH_KEY: u8 = 3;

/// Daemons of this version have no access key.
pub const VERSION_WITHOUT_KEY: u8 = 2;

/// Daemons of this version borrow nothing.
pub const VERSION_OLDEST: u8 = 1;

/// The number of no ask.
pub const NOBODY: u64 = 0;

/// The longest message, in bytes: a listing of long names.
pub const MESSAGE_MAX: usize = 4 << 20;

/// The most bytes that follow a message: what one flush brings, or one read.
pub const PAYLOAD_MAX: usize = 16 << 20;

/// Names a request, so that making it again does not do it twice.
pub type RequestName = [u8; 16];

/// What a daemon says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`], or an older one.
    pub version: u8,
    /// The bucket.
    pub bucket: String,
    /// The lease that the daemon before had.
    pub lease: Option<u64>,
    /// Where it is mounted, for people.
    pub dir: PathBuf,
    /// Whether nothing is to be written.
    pub read_only: bool,
}

/// What the agent says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// The mount lives.
    Welcome {
        /// Its lease.
        lease: u64,
    },
    /// Not now: ask again.
    Away(String),
    /// Never.
    Refused(String),
}

/// What a daemon asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// To do something.
    Call(Option<RequestName>, Call),
    /// Nobody waits for the answer any more.
    Forget,
    /// News up to this number were heard, and so many questions answered so far from what was lent. Of no ask.
    Heard {
        /// See [`LoanNews::number`].
        number: u64,
        /// Since the line began.
        recalled: u64,
    },
}

/// One call; each is a method of [`nexusgrid_grid::Volume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// → `Node`.
    Lookup(Ino, Vec<u8>),
    /// → `Node`.
    Node(Ino),
    /// → `Node`.
    Make(Ino, Vec<u8>, Creation),
    /// → `Done`.
    Unlink(Ino, Vec<u8>),
    /// → `Done`.
    Rmdir(Ino, Vec<u8>),
    /// → `Done`.
    Rename((Ino, Vec<u8>), (Ino, Vec<u8>), RenameMode),
    /// → `Node`.
    Link(Ino, Ino, Vec<u8>),
    /// And the file's size. → `Node`.
    SetAttrs(Ino, AttrsChange, Option<u64>),
    /// → `Done`, with bytes.
    Read(Ino, u64, u64),
    /// Ranges by their offsets and lengths; their bytes follow. → `Node`.
    Write(Ino, Vec<(u64, u64)>, Moment),
    /// The bytes follow. → `Appended`.
    Append(Ino),
    /// → `Node`.
    Punch(Ino, u64, u64),
    /// By reference: from, to, how many. → `Offset`, how many it were.
    CopyRange((Ino, u64), (Ino, u64), u64),
    /// The next data (`true`) or hole. → `Offset`.
    Seek(Ino, u64, bool),
    /// → `Listed`.
    List(Ino, u64, u32),
    /// → `Done`, with bytes.
    Xattr(Ino, Vec<u8>),
    /// → `Names`.
    Xattrs(Ino),
    /// The value follows. → `Done`.
    SetXattr(Ino, Vec<u8>, XattrWhen),
    /// → `Done`.
    RemoveXattr(Ino, Vec<u8>),
    /// → `Node`.
    Hold(Ino),
    /// → `Done`.
    Release(Ino),
    /// `wait`: stands in line. → `Done`.
    Lock {
        /// The file.
        ino: Ino,
        /// Whose.
        owner: u64,
        /// The process, for others to see.
        pid: u32,
        /// Which bytes.
        range: LockRange,
        /// How; `None`: no more.
        kind: Option<LockKind>,
        /// Whether to wait for it.
        wait: bool,
    },
    /// → `Conflict`.
    Conflict(Ino, u64, LockRange, LockKind),
    /// → `Done`.
    UnlockAll(Ino, u64),
    /// → `Space`.
    Space,
    /// Ends the mount. → `Done`.
    Close,
    /// To so many bytes, unless it is as long already. → `Node`.
    Lengthen(Ino, u64),
    /// These are open, all of them: what else is held is held for nothing. → `Done`.
    Opens(Vec<Ino>),
    /// The mount may have its bucket to itself (see `Volume::work_alone`). → `Done`.
    Alone,
    /// All that was answered is to be durable. → `Done`.
    Sync,
}

impl Call {
    /// What it asks, if the answer can be lent.
    pub fn question(&self) -> Option<Question> {
        match self {
            Call::Lookup(parent, name) => Some(Question::Lookup(*parent, name.clone())),
            Call::Node(ino) => Some(Question::Node(*ino)),
            Call::Xattr(ino, name) => Some(Question::Xattr(*ino, name.clone())),
            _ => None,
        }
    }

    /// What it does to the bucket.
    pub fn kind(&self) -> Kind {
        match self {
            Call::Lookup(..)
            | Call::Node(_)
            | Call::Read(..)
            | Call::Seek(..)
            | Call::List(..)
            | Call::Xattr(..)
            | Call::Xattrs(_)
            | Call::Conflict(..)
            | Call::Space
            | Call::Hold(_)
            | Call::Lock { kind: Some(_), .. } => Kind::Looks,
            Call::Release(_)
            | Call::Lock { kind: None, .. }
            | Call::UnlockAll(..)
            | Call::Close
            | Call::Opens(_)
            | Call::Alone
            | Call::Sync => Kind::GivesBack,
            Call::Make(..)
            | Call::Unlink(..)
            | Call::Rmdir(..)
            | Call::Rename(..)
            | Call::Link(..)
            | Call::SetAttrs(..)
            | Call::Write(..)
            | Call::Append(_)
            | Call::Punch(..)
            | Call::CopyRange(..)
            | Call::SetXattr(..)
            | Call::RemoveXattr(..)
            | Call::Lengthen(..) => Kind::Changes,
        }
    }
}

/// What a call does to the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Shows something of it, or keeps it from changing.
    Looks,
    /// Ends what the mount has of it.
    GivesBack,
    /// Changes it.
    Changes,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// A node.
    Node(Box<Node>),
    /// A node, and where bytes were appended.
    Appended(Box<Node>, u64),
    /// Names of a directory: name, node, cookie.
    Listed(Vec<(Vec<u8>, Node, u64)>),
    /// Names of extended attributes.
    Names(Vec<Vec<u8>>),
    /// A place in a file, or a number of bytes.
    Offset(u64),
    /// The lock in the way.
    Conflict(Option<Lock>),
    /// Bytes and nodes: all, free.
    Space {
        /// Bytes in all.
        bytes: u64,
        /// Bytes that can still be written.
        free: u64,
        /// Nodes in all.
        nodes: u64,
        /// Nodes that can still be made.
        nodes_free: u64,
    },
    /// Why not.
    Fault(Fault),
    /// An answer that may be kept until news say otherwise.
    Lent(Box<Answer>),
    /// Of what was lent; to [`NOBODY`].
    News(LoanNews),
}

/// Why a call was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// POSIX says why.
    Posix(PosixError),
    /// The grid, or the part that is needed, cannot be reached: make the call again.
    Away(String),
    /// The grid is full.
    Full,
    /// The quota is used up.
    Quota,
    /// The key's policies do not allow it.
    Denied,
    /// Bytes that cannot be read, or something that must not happen.
    Failed(String),
    /// Refused for now by who decides, which says the same whenever it is asked under this name: make the call
    /// again under another ([`another`]).
    Refused(String),
}

/// The name under which a request is made again when it was refused for the n-th time: the same for whoever
/// repeats the request from its beginning. Names as they are given first end in the same 28 bits.
pub fn another(name: RequestName, refusals: u32) -> RequestName {
    (u128::from_be_bytes(name) ^ u128::from(refusals & REFUSALS_MASK)).to_be_bytes()
}

const REFUSALS_MASK: u32 = (1 << 28) - 1;

/// A message and the bytes that follow it, ready to be sent.
#[derive(Clone, Debug)]
pub struct Frame {
    head: Bytes,
    payload: Bytes,
}

impl Frame {
    /// Of a message.
    pub fn new<T: Serialize>(message: &T, payload: Bytes) -> anyhow::Result<Frame> {
        let message = postcard::to_stdvec(message).context("a message cannot be encoded")?;
        ensure!(message.len() <= MESSAGE_MAX, "a message of {} bytes", message.len());
        ensure!(payload.len() <= PAYLOAD_MAX, "{} bytes behind a message", payload.len());
        let mut head = BytesMut::with_capacity(8 + message.len());
        head.extend_from_slice(&(message.len() as u32).to_le_bytes());
        head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        head.extend_from_slice(&message);
        Ok(Frame { head: head.freeze(), payload })
    }

    /// Bytes of both parts.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// What is left when so many bytes are sent.
    pub fn rest(mut self, sent: usize) -> Frame {
        let of_head = sent.min(self.head.len());
        self.head = self.head.slice(of_head..);
        self.payload = self.payload.slice((sent - of_head).min(self.payload.len())..);
        self
    }

    /// Sends as much of it as there is room for; how many bytes that are.
    pub fn try_send(&self, to: &OwnedWriteHalf) -> std::io::Result<usize> {
        to.try_write_vectored(&[IoSlice::new(&self.head), IoSlice::new(&self.payload)])
    }

    /// Sends it, to whoever others may send to as well when this is done.
    pub async fn send_shared(self, to: &OwnedWriteHalf) -> std::io::Result<()> {
        let mut left = self;
        while left.len() > 0 {
            match left.try_send(to) {
                Ok(sent) => left = left.rest(sent),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    to.writable().await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends it.
    pub async fn send<W: AsyncWrite + Unpin>(&self, to: &mut W) -> std::io::Result<()> {
        to.write_all(&self.head).await?;
        to.write_all(&self.payload).await
    }
}

/// Receives a message and the bytes that follow it; `None`: the other end has closed.
pub async fn receive<T: DeserializeOwned, R: AsyncRead + Unpin>(
    from: &mut R,
) -> anyhow::Result<Option<(T, Bytes)>> {
    let mut lengths = [0; 8];
    let mut got = 0;
    while got < lengths.len() {
        let read = from.read(lengths.get_mut(got..).unwrap_or_default()).await?;
        match read {
            0 if got == 0 => return Ok(None),
            0 => bail!("the other end broke off"),
            read => got += read,
        }
    }
    let [a, b, c, d, e, f, g, h] = lengths;
    let message_len = u32::from_le_bytes([a, b, c, d]) as usize;
    let payload_len = u32::from_le_bytes([e, f, g, h]) as usize;
    ensure!(message_len <= MESSAGE_MAX, "a message of {message_len} bytes");
    ensure!(payload_len <= PAYLOAD_MAX, "{payload_len} bytes behind a message");
    let mut message = vec![0; message_len];
    from.read_exact(&mut message).await?;
    let mut payload = vec![0; payload_len];
    from.read_exact(&mut payload).await?;
    let message =
        postcard::from_bytes(&message).context("a message that this version cannot read")?;
    Ok(Some((message, payload.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<T: Serialize>(message: &T) -> String {
        let bytes = postcard::to_stdvec(message).unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn messages_keep_their_bytes() {
        let hello = Hello {
            version: VERSION,
            bucket: "b".to_owned(),
            lease: Some(7),
            dir: "/m".into(),
            read_only: true,
        };
        let why = "another layout needs another VERSION";
        assert_eq!(bytes_of(&hello), "0401620107022f6d01", "{why}");
        let ask = Ask::Call(Some([1; 16]), Call::Unlink(Ino(5), b"x".to_vec()));
        let name = "01".repeat(16);
        assert_eq!(bytes_of(&(3_u64, ask)), format!("030001{name}03050178"), "{why}");
        assert_eq!(bytes_of(&(3_u64, Ask::Forget)), "0301", "{why}");
        assert_eq!(bytes_of(&(3_u64, Answer::Fault(Fault::Full))), "030802", "{why}");
        let refused = Answer::Fault(Fault::Refused("x".to_owned()));
        assert_eq!(bytes_of(&(3_u64, refused)), "0308060178", "{why}");
        let heard = Ask::Heard { number: 5, recalled: 6 };
        assert_eq!(bytes_of(&(NOBODY, heard)), "00020506", "{why}");
        assert_eq!(bytes_of(&(3_u64, Answer::Lent(Box::new(Answer::Done)))), "030900", "{why}");
        let lost = Some(vec![
            Question::Lookup(Ino(1), b"x".to_vec()),
            Question::Node(Ino(2)),
            Question::Xattr(Ino(3), b"y".to_vec()),
        ]);
        let until = Some(std::time::Duration::new(4, 5));
        let news = Answer::News(LoanNews { number: 6, lost, until });
        let text = "000a06010300010178010202030179010405";
        assert_eq!(bytes_of(&(NOBODY, news)), text, "{why}");
    }

    #[tokio::test]
    async fn frames_arrive_as_they_were_sent() {
        let (mut here, mut there) = tokio::io::duplex(64);
        let payload = Bytes::from(vec![9; 1000]);
        let frame = Frame::new(&(1_u64, Ask::Forget), payload.clone()).unwrap();
        let sending = async {
            frame.send(&mut here).await.unwrap();
            drop(here);
        };
        let receiving = async {
            let first = receive::<(u64, Ask), _>(&mut there).await.unwrap();
            let end = receive::<(u64, Ask), _>(&mut there).await.unwrap();
            (first, end)
        };
        let ((), (first, end)) = tokio::join!(sending, receiving);
        assert_eq!(first, Some(((1, Ask::Forget), payload)));
        assert_eq!(end, None);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused() {
        let long_message = ((MESSAGE_MAX as u32 + 1).to_le_bytes(), [0; 4]);
        let long_payload = ([0; 4], (PAYLOAD_MAX as u32 + 1).to_le_bytes());
        for (message, payload) in [long_message, long_payload] {
            let bytes = [message, payload].concat();
            assert!(receive::<(u64, Ask), _>(&mut bytes.as_slice()).await.is_err());
        }
        for bytes in [&[3_u8, 0, 0, 0, 0, 0, 0, 0, 1, 1][..], &[1, 0, 0, 0, 0, 0, 0, 0, 0xff], &[1]]
        {
            let mut bytes = bytes;
            assert!(receive::<(u64, Ask), _>(&mut bytes).await.is_err());
        }
        let long = Call::Lookup(Ino(1), vec![0; MESSAGE_MAX]);
        assert!(Frame::new(&(1_u64, Ask::Call(None, long)), Bytes::new()).is_err());
    }
}
