//! An agent for tests: answers a daemon's calls as it is told to, and notes what it was asked.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UnixStream;

use super::SOCKET_NAME;
use super::wire::{Answer, Ask, Call, Frame, Greeting, Hello, RequestName, VERSION, receive};

type Asked = Vec<(Option<RequestName>, Call)>;
type Answers = dyn FnMut(Option<RequestName>, &Call) -> Option<Answer> + Send;

/// The agent; it is gone when this is dropped.
pub struct Agent {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Asked>>,
    task: tokio::task::JoinHandle<()>,
}

/// What a daemon says first.
pub fn hello() -> Hello {
    let bucket = "bucket".to_owned();
    Hello { version: VERSION, bucket, lease: None, dir: "/m".into(), read_only: false }
}

impl Agent {
    /// One that answers so; `None`: never.
    pub fn start(
        answers: impl FnMut(Option<RequestName>, &Call) -> Option<Answer> + Send + 'static,
    ) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let listener = nexusgrid_env::real::net::unix_listen(&dir.path().join(SOCKET_NAME));
        let (listener, asked) = (listener.unwrap(), Arc::default());
        let notes = Arc::clone(&asked);
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(answers));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&notes)));
            }
        });
        Agent { dir, asked, task }
    }

    /// Where it listens.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join(SOCKET_NAME)
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Asked {
        self.asked.lock().clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: UnixStream,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Asked>>,
) -> anyhow::Result<()> {
    if receive::<Hello, _>(&mut stream).await?.is_none() {
        return Ok(());
    }
    Frame::new(&Greeting::Welcome { lease: 1 }, Bytes::new())?.send(&mut stream).await?;
    while let Some(((id, ask), _)) = receive::<(u64, Ask), _>(&mut stream).await? {
        let Ask::Call(name, call) = ask else { continue };
        let answer = (*answers.lock())(name, &call);
        asked.lock().push((name, call));
        if let Some(answer) = answer {
            Frame::new(&(id, answer), Bytes::new())?.send(&mut stream).await?;
        }
    }
    Ok(())
}
