//! The rules of the block protocol. Each can be switched off to see what it prevents.

/// One rule, or one clause beside the rules that the design states in passing and that the model
/// found to be as necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// R1: a drive refuses a shard write of an epoch older than the one it knows, and durably
    /// adopts a newer one.
    DriveFence,
    /// R2: repair lists a survivor only after that drive acknowledged the new epoch.
    FenceThenList,
    /// R3: all acknowledgements of a commit carry the same epoch.
    OneEpochQuorum,
    /// R4: a repair write carries its repair session, and drives refuse a closed one.
    FillSession,
    /// R5: tombstones live until no repair session or remap of the placement group is open.
    TombstoneHold,
    /// R6: a dropped tombstone leaves the writers' session floor behind.
    SessionFloor,
    /// R7: a drive that enters a slot trashes the older shards that nobody lists.
    RejoinReconcile,
    /// Never more slots are remapped at once than the quorum's slack allows.
    RemapWithinSlack,
    /// A survivor that sleeps is woken and listed; repair does not finish without it.
    SleeperIsListed,
    /// R2, second half: a woken drive reads the map before it serves a shard write. The others
    /// suffice without it here: a survivor that woke is fenced before it is listed, and a drive that
    /// re-enters a slot adopts the epoch then. It stays a rule for what the model leaves out, map
    /// leases that run out.
    WakeReadsMap,
}

impl Rule {
    /// Those of which none can be left out, R1 to R7 first.
    pub const NEEDED: [Rule; 9] = [
        Rule::DriveFence,
        Rule::FenceThenList,
        Rule::OneEpochQuorum,
        Rule::FillSession,
        Rule::TombstoneHold,
        Rule::SessionFloor,
        Rule::RejoinReconcile,
        Rule::RemapWithinSlack,
        Rule::SleeperIsListed,
    ];

    /// Its name in the documents.
    pub fn name(self) -> &'static str {
        match self {
            Rule::DriveFence => "R1 drive fence",
            Rule::FenceThenList => "R2 fence, then list",
            Rule::OneEpochQuorum => "R3 one-epoch quorum",
            Rule::FillSession => "R4 fill sessions",
            Rule::TombstoneHold => "R5 tombstone hold",
            Rule::SessionFloor => "R6 session floor",
            Rule::RejoinReconcile => "R7 rejoin reconcile",
            Rule::WakeReadsMap => "R2 woken drive reads the map",
            Rule::RemapWithinSlack => "remap within the slack",
            Rule::SleeperIsListed => "sleeping survivor is listed",
        }
    }
}

/// The rules that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules(u16);

impl Rules {
    /// Every rule.
    pub const ALL: Rules = Rules(u16::MAX);

    /// Every rule but one.
    pub fn without(rule: Rule) -> Rules {
        Rules(Rules::ALL.0 & !(1 << rule as u16))
    }

    /// Whether this rule is kept.
    pub fn keep(self, rule: Rule) -> bool {
        self.0 >> rule as u16 & 1 == 1
    }
}
