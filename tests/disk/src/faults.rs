//! Which operations fail, and when the power goes.

use anyhow::{Context, bail};

/// What a rule makes fail with EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads of a file.
    Read,
    /// Writes and truncations.
    Write,
    /// Syncs of files and directories.
    Sync,
}

/// The power goes at a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutAt {
    /// Counted from when this was told, files' and directories' syncs alike, from 1.
    pub sync: u64,
    /// Just after the sync took effect; else just before.
    pub after: bool,
    /// This process dies with the power.
    pub pid: Option<i32>,
    /// See [`Command::Cut`].
    pub seed: Option<u64>,
}

/// What the program is told, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The power goes. With a seed, chance lets some of what was not synced survive.
    Cut(Option<u64>),
    /// The power goes at a sync to come.
    CutAt(CutAt),
    /// The power returns.
    On,
    /// These operations fail for paths that contain this.
    Fail(Operation, String),
    /// Forgets all rules, the capacity and a cut to come.
    Heal,
    /// The disk has room for so many bytes.
    Capacity(u64),
    /// Answers `on` or `off`, and how many syncs there were since the last [`Command::CutAt`].
    State,
}

impl std::fmt::Display for Command {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let or_none = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        match self {
            Command::Cut(seed) => write!(out, "cut {}", or_none(*seed)),
            Command::CutAt(at) => write!(
                out,
                "cut-at {} {} {} {}",
                at.sync,
                if at.after { "after" } else { "before" },
                or_none(at.pid.map(i64::from).and_then(|pid| u64::try_from(pid).ok())),
                or_none(at.seed)
            ),
            Command::On => write!(out, "on"),
            Command::Fail(operation, part) => {
                let name = match operation {
                    Operation::Read => "read",
                    Operation::Write => "write",
                    Operation::Sync => "sync",
                };
                write!(out, "fail {name} {part}")
            }
            Command::Heal => write!(out, "heal"),
            Command::Capacity(bytes) => write!(out, "capacity {bytes}"),
            Command::State => write!(out, "state"),
        }
    }
}

impl std::str::FromStr for Command {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Command> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| -> anyhow::Result<Option<u64>> {
            if word == "-" { Ok(None) } else { Ok(Some(word.parse()?)) }
        };
        Ok(match words[..] {
            ["cut", seed] => Command::Cut(number(seed)?),
            ["cut-at", sync, when @ ("before" | "after"), pid, seed] => Command::CutAt(CutAt {
                sync: number(sync)?.context("a number of syncs")?,
                after: when == "after",
                pid: number(pid)?.map(i32::try_from).transpose()?,
                seed: number(seed)?,
            }),
            ["on"] => Command::On,
            ["fail", "read", part] => Command::Fail(Operation::Read, part.to_owned()),
            ["fail", "write", part] => Command::Fail(Operation::Write, part.to_owned()),
            ["fail", "sync", part] => Command::Fail(Operation::Sync, part.to_owned()),
            ["heal"] => Command::Heal,
            ["capacity", bytes] => Command::Capacity(bytes.parse()?),
            ["state"] => Command::State,
            _ => bail!("not a command: {line}"),
        })
    }
}

/// The faults of one disk.
#[derive(Default)]
pub struct Faults {
    /// Operations that fail, and for which paths.
    pub rules: Vec<(Operation, String)>,
    /// Room, in bytes; none: that of the machine.
    pub capacity: Option<u64>,
    /// The cut to come.
    pub cut_at: Option<CutAt>,
    /// Syncs since the last [`Command::CutAt`].
    pub syncs: u64,
}

impl Faults {
    /// Whether an operation on a path is to fail.
    pub fn hits(&self, operation: Operation, path: impl FnOnce() -> String) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let path = path();
        self.rules.iter().any(|(failing, part)| *failing == operation && path.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_and_understood() {
        let at = CutAt { sync: 3, after: true, pid: Some(42), seed: None };
        for command in [
            Command::Cut(None),
            Command::Cut(Some(7)),
            Command::CutAt(at),
            Command::CutAt(CutAt { after: false, pid: None, seed: Some(1), ..at }),
            Command::On,
            Command::Fail(Operation::Sync, "drive/".to_owned()),
            Command::Heal,
            Command::Capacity(1 << 20),
            Command::State,
        ] {
            assert_eq!(command.to_string().parse::<Command>().unwrap(), command);
        }
        for line in ["", "cut", "cut x", "cut-at 1 before", "fail open x", "fail read a b"] {
            assert!(line.parse::<Command>().is_err(), "{line}");
        }
    }
}
