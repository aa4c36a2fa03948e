//! The agent's configuration: one TOML file per node, `nexusgrid.toml` in its directory.
//!
//! `init` and `join` write it; `serve` reads it. An unknown field is refused with the nearest known
//! name, since a misspelt limit that is silently ignored is found only when it would have mattered.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_env::{Disk, OpenMode, Roles};
use nexusgrid_gateway::{GatewayOptions, OidcOptions};
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::node::{cache, files};

/// Name of the file inside a node's directory.
pub const FILE_NAME: &str = "nexusgrid.toml";

/// Longest configuration file that is read, in bytes.
const CONFIG_LEN_MAX: u64 = 1 << 20;

/// A node's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the agents' own traffic, TCP and UDP. Default `0.0.0.0:7600`.
    pub rpc_listen: SocketAddr,
    /// Address under which the other nodes reach `rpc_listen`. Default: what `rpc_listen` binds.
    pub rpc_advertise: Option<SocketAddr>,
    /// Address of the S3 endpoint. Default `0.0.0.0:9000`.
    pub s3_listen: SocketAddr,
    /// Address of metrics and health. Default `127.0.0.1:7601`; other nodes have no business there.
    pub admin_listen: SocketAddr,
    /// Bearer token for metrics; needed when `admin_listen` is not a loopback address.
    pub admin_token: Option<String>,
    /// The machine this agent runs on: agents that name the same host share its failure. Default:
    /// a host of its own.
    pub host: Option<String>,
    /// Rack, room or site. Default `default`.
    pub zone: String,
    /// Whether the machine is switched off at times.
    pub sleepy: bool,
    /// What the node does.
    pub roles: RolesConfig,
    /// Its drives.
    pub drives: Vec<DriveConfig>,
    /// How shards travel: `plain` (sealed already, and authenticated) or `tls` (sealed twice).
    pub shard_transport: ShardTransport,
    /// Memory for request bodies of this process, in bytes. Range 32 MiB to 64 GiB; default 96 MiB.
    pub body_budget_bytes: u64,
    /// What it keeps of what it read from others.
    pub cache: CacheConfig,
    /// How S3 is served.
    pub s3: S3Config,
    /// How identity providers are asked.
    pub identity: IdentityConfig,
    /// Durations, in milliseconds; tests shorten them.
    pub timers: Timers,
}

/// How S3 is served.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The region that clients are told; requests may be signed for any. Default `us-east-1`.
    pub region: String,
    /// Buckets are also served as `BUCKET.domain` under this domain. Default: none.
    pub domain: Option<String>,
    /// Buckets' web sites are served as `BUCKET.website_domain`. Default: none.
    pub website_domain: Option<String>,
    /// Private networks, addresses and hosts that events may be sent to. Default: none.
    pub events_private: Vec<String>,
    /// How long records for a bucket's access log wait for more of them, in seconds. Default 300.
    pub access_log_seconds: u64,
    /// Whether clients may send keys of their own (SSE-C) although connections are plain here: right
    /// where TLS ends before the gateway. Default no.
    pub sse_c_without_tls: bool,
    /// Whether requests and HTML forms may be signed by Signature Version 2, as old applications do.
    /// Default no.
    pub signature_v2: bool,
    /// Whether buckets may be named with a tenant's name before theirs (`TENANT:bucket`), as Ceph's
    /// clients do: the name of its owner's account, or nothing. Default no.
    pub tenant_names: bool,
}

impl Default for S3Config {
    fn default() -> S3Config {
        S3Config {
            region: "us-east-1".to_owned(),
            domain: None,
            website_domain: None,
            events_private: Vec::new(),
            access_log_seconds: 300,
            sse_c_without_tls: false,
            signature_v2: false,
            tenant_names: false,
        }
    }
}

impl S3Config {
    /// As the gateway takes it.
    pub fn options(&self) -> anyhow::Result<GatewayOptions> {
        let private: Result<_, _> = self.events_private.iter().map(|text| text.parse()).collect();
        Ok(GatewayOptions {
            region: self.region.clone(),
            domain: self.domain.clone(),
            website_domain: self.website_domain.clone(),
            events_private: private.context("s3.events_private")?,
            access_log_every: Duration::from_secs(self.access_log_seconds),
            sse_c_without_tls: self.sse_c_without_tls,
            signature_v2: self.signature_v2,
            tenant_names: self.tenant_names,
            ..GatewayOptions::default()
        })
    }
}

/// How OpenID Connect providers, which accounts name, are asked for their keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Addresses, networks (`10.0.0.0/8`) and host names of private networks that may be asked, also
    /// without TLS. Default: none; what is on the public internet may be asked over TLS.
    pub oidc_private: Vec<String>,
    /// A file of certificates (PEM) to trust beside the system's. Default: none.
    pub oidc_roots: Option<PathBuf>,
    /// Audiences (client ids) of providers that accounts name without any. Default: none, and tokens
    /// of such providers are for nobody.
    pub oidc_audiences: Vec<String>,
    /// Whether a role's trust in a user or role of another account, by name, is enough to take it
    /// on, as Ceph has it. Default no: it takes that account's policies, too, as at AWS.
    pub trust_suffices: bool,
}

impl IdentityConfig {
    /// As the gateway takes it.
    pub fn options(&self, disk: &dyn Disk) -> anyhow::Result<OidcOptions> {
        let private = self.oidc_private.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let roots = match &self.oidc_roots {
            Some(path) => Some(text_of(disk, path)?),
            None => None,
        };
        let private = private.context("identity.oidc_private")?;
        Ok(OidcOptions { private, roots, audiences: self.oidc_audiences.clone() })
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolesConfig {
    /// Holds shards.
    pub storage: bool,
    /// May vote on metadata: only machines that stay on.
    pub meta: bool,
    /// Serves S3 and holds keys.
    pub gateway: bool,
}

/// One drive.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriveConfig {
    /// Its directory, the root of a file system of its own if it can be.
    pub path: PathBuf,
    /// Space left to the machine's owner, in bytes. Default: the larger of 20 GiB and a tenth.
    pub reserve_bytes: Option<u64>,
    /// Size of a segment file, in bytes. Default 1 GiB.
    pub segment_bytes: Option<u64>,
    /// How long what nobody knows any more, or what is rotten, stays in the drive's trash; default
    /// 604 800 000 (7 days).
    pub trash_age_ms: Option<u64>,
    /// Pause between two steps that give space back; default 30 000.
    pub maintain_every_ms: Option<u64>,
}

/// What a node keeps, on a disk of its own, of what it read from others.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheConfig {
    /// A directory for nothing else. Default `cache` in the node's directory.
    pub path: Option<PathBuf>,
    /// Its size, in bytes: 32 MiB to 512 GiB. Default 0: none.
    pub bytes: u64,
}

/// How shards travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardTransport {
    /// Plain HTTP/1.1 on connections keyed from the TLS session; every write carries a MAC.
    #[default]
    Plain,
    /// Over mutual TLS.
    Tls,
}

/// Durations, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timers {
    /// Raft heartbeat. Default 500.
    pub raft_heartbeat_ms: u64,
    /// Shortest Raft election timeout; the longest is twice it. Default 1 500.
    pub raft_election_ms: u64,
    /// How long a write waits for a drive that membership holds alive. Default 2 000.
    pub shard_wait_alive_ms: u64,
    /// How long a write waits for a suspected drive. Default 250.
    pub shard_wait_suspect_ms: u64,
    /// How long a dead voter keeps its seat. Default 1 800 000 (30 min).
    pub voter_grace_ms: u64,
    /// How long a server may be down before what it held is rebuilt. Default 900 000 (15 min).
    pub repair_grace_ms: u64,
    /// Likewise for a machine that is switched off at times. Default 86 400 000 (24 h).
    pub repair_grace_sleepy_ms: u64,
    /// Likewise for data that would not survive one more loss. Default 30 000.
    pub repair_grace_urgent_ms: u64,
    /// What was deleted is freed after this long, so that running reads end well. The cluster's:
    /// `init` reads it from the first node's file. Default 600 000 (10 min).
    pub reader_horizon_ms: u64,
    /// Pause between two looks of a node at its own drives for what nothing needs any more. Default
    /// 3 600 000 (1 h).
    pub sweep_every_ms: u64,
    /// Pause between two stretches of scrub. Default 60 000.
    pub scrub_every_ms: u64,
    /// Pause between two looks for packs half dead and for data in the code of fewer hosts; what is
    /// found is rewritten. Default 600 000 (10 min).
    pub rewrite_every_ms: u64,
    /// How long a day is in lifecycle rules that are laid down from now on; shorter than real ones to try
    /// rules out. Default 86 400 000 (24 h), and then days end at midnight UTC.
    pub lifecycle_day_ms: u64,
    /// A block unknown to metadata goes to the trash when it was so twice, this far apart. Default
    /// 86 400 000 (24 h).
    pub orphan_age_ms: u64,
    /// A copy of each metadata group is put into the grid so often. Default 900 000 (15 min).
    pub checkpoint_every_ms: u64,
    /// Likewise of the root group. Default 300 000 (5 min).
    pub checkpoint_root_every_ms: u64,
    /// What a group decided since its copy goes to a few nodes so often: so much can be lost with all
    /// its voters. Default 10 000 (10 s).
    pub log_tail_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            rpc_listen: SocketAddr::from(([0, 0, 0, 0], 7600)),
            rpc_advertise: None,
            s3_listen: SocketAddr::from(([0, 0, 0, 0], 9000)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7601)),
            admin_token: None,
            host: None,
            zone: "default".to_owned(),
            sleepy: false,
            roles: RolesConfig::default(),
            drives: Vec::new(),
            shard_transport: ShardTransport::default(),
            body_budget_bytes: 96 << 20,
            cache: CacheConfig::default(),
            s3: S3Config::default(),
            identity: IdentityConfig::default(),
            timers: Timers::default(),
        }
    }
}

impl Default for RolesConfig {
    fn default() -> RolesConfig {
        RolesConfig { storage: true, meta: true, gateway: true }
    }
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            raft_heartbeat_ms: 500,
            raft_election_ms: 1_500,
            shard_wait_alive_ms: 2_000,
            shard_wait_suspect_ms: 250,
            voter_grace_ms: 30 * 60 * 1_000,
            repair_grace_ms: 15 * 60 * 1_000,
            repair_grace_sleepy_ms: 24 * 3_600 * 1_000,
            repair_grace_urgent_ms: 30 * 1_000,
            reader_horizon_ms: 600 * 1_000,
            sweep_every_ms: 3_600 * 1_000,
            scrub_every_ms: 60 * 1_000,
            rewrite_every_ms: 600 * 1_000,
            lifecycle_day_ms: 24 * 3_600 * 1_000,
            orphan_age_ms: 24 * 3_600 * 1_000,
            checkpoint_every_ms: 900 * 1_000,
            checkpoint_root_every_ms: 300 * 1_000,
            log_tail_ms: 10 * 1_000,
        }
    }
}

impl From<RolesConfig> for Roles {
    fn from(roles: RolesConfig) -> Roles {
        Roles { storage: roles.storage, meta: roles.meta, gateway: roles.gateway }
    }
}

impl Config {
    /// Reads `nexusgrid.toml` of a node's directory.
    pub fn load(disk: &dyn Disk, node_dir: &Path) -> anyhow::Result<Config> {
        let (path, text) = read(disk, node_dir)?;
        Config::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Adds a drive at the end of `nexusgrid.toml`, and leaves what people wrote there as it is.
    pub fn append_drive(disk: &dyn Disk, node_dir: &Path, drive: &Path) -> anyhow::Result<()> {
        let (path, text) = read(disk, node_dir)?;
        let drive = drive.to_str().context("the path is not text")?;
        let line = toml::Value::String(drive.to_owned());
        let text = format!("{}\n\n[[drives]]\npath = {line}\n", text.trim_end());
        Config::parse(&text)
            .with_context(|| format!("add it to {} by hand: [[drives]]", path.display()))?;
        files::replace(disk, &path, text.as_bytes())?;
        Ok(())
    }

    /// Parses and checks a configuration.
    pub fn parse(text: &str) -> anyhow::Result<Config> {
        let table: toml::Table = text.parse().context("not valid TOML")?;
        refuse_unknown::<Config>(&table, "")?;
        for (section, known) in [
            ("roles", known_fields::<RolesConfig>()),
            ("timers", known_fields::<Timers>()),
            ("s3", known_fields::<S3Config>()),
            ("identity", known_fields::<IdentityConfig>()),
        ] {
            if let Some(toml::Value::Table(inner)) = table.get(section) {
                refuse_names(inner, known, &format!("{section}."))?;
            }
        }
        if let Some(toml::Value::Array(drives)) = table.get("drives") {
            for drive in drives.iter().filter_map(toml::Value::as_table) {
                refuse_unknown::<DriveConfig>(drive, "drives.")?;
            }
        }
        let config: Config = table.try_into().context("a value has the wrong type")?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.body_budget_bytes < 32 << 20 || self.body_budget_bytes > 64 << 30 {
            bail!(
                "body_budget_bytes must be between 32 MiB and 64 GiB, not {}",
                self.body_budget_bytes
            );
        }
        let sizes = cache::BYTES_MIN..=cache::BYTES_MAX;
        if self.cache.bytes != 0 && !sizes.contains(&self.cache.bytes) {
            bail!("cache.bytes must be 0, for none, or {} to {}", sizes.start(), sizes.end());
        }
        if self.roles.storage && self.drives.is_empty() {
            bail!(
                "a storage node needs at least one [[drives]] with a path, or `roles.storage = false`"
            );
        }
        if !self.admin_listen.ip().is_loopback() && self.admin_token.is_none() {
            bail!("admin_listen {} is reachable from outside: set admin_token", self.admin_listen);
        }
        if self.sleepy && self.roles.meta {
            bail!("a machine that sleeps cannot vote: set roles.meta = false, or sleepy = false");
        }
        let timers = &self.timers;
        if timers.raft_election_ms < 2 * timers.raft_heartbeat_ms || timers.raft_heartbeat_ms == 0 {
            bail!("timers.raft_election_ms must be at least twice timers.raft_heartbeat_ms");
        }
        if timers.lifecycle_day_ms == 0 {
            bail!("timers.lifecycle_day_ms must not be 0");
        }
        Ok(())
    }

    /// The configuration as the text of its file.
    pub fn to_text(&self) -> anyhow::Result<String> {
        Ok(toml::to_string_pretty(self)?)
    }

    /// The address other nodes use.
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc_advertise.unwrap_or(self.rpc_listen)
    }
}

impl Timers {
    /// Raft heartbeat.
    pub fn raft_heartbeat(&self) -> Duration {
        Duration::from_millis(self.raft_heartbeat_ms)
    }
}

/// The configuration's file and its text.
fn read(disk: &dyn Disk, node_dir: &Path) -> anyhow::Result<(PathBuf, String)> {
    let path = node_dir.join(FILE_NAME);
    if !disk.exists(&path)? {
        bail!(
            "{} is not a node's directory: run `nexusgrid init` or `nexusgrid join` first",
            node_dir.display()
        );
    }
    let text = text_of(disk, &path)?;
    Ok((path, text))
}

/// The text of a small file.
pub fn text_of(disk: &dyn Disk, path: &Path) -> anyhow::Result<String> {
    let file = disk
        .open(path, OpenMode::Read)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let len = file.len()?;
    if len > CONFIG_LEN_MAX {
        bail!("{} is larger than {CONFIG_LEN_MAX} bytes", path.display());
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))
}

fn refuse_unknown<T: DeserializeOwned>(table: &toml::Table, prefix: &str) -> anyhow::Result<()> {
    refuse_names(table, known_fields::<T>(), prefix)
}

fn refuse_names(table: &toml::Table, known: &[&str], prefix: &str) -> anyhow::Result<()> {
    for name in table.keys() {
        if known.contains(&name.as_str()) {
            continue;
        }
        let nearest = known.iter().max_by(|left, right| {
            strsim::jaro_winkler(left, name).total_cmp(&strsim::jaro_winkler(right, name))
        });
        match nearest {
            Some(nearest) => {
                bail!("unknown field `{prefix}{name}`; did you mean `{prefix}{nearest}`?")
            }
            None => bail!("unknown field `{prefix}{name}`"),
        }
    }
    Ok(())
}

/// The field names of a struct, as its `Deserialize` announces them.
fn known_fields<T: DeserializeOwned>() -> &'static [&'static str] {
    match T::deserialize(FieldProbe) {
        Err(ProbeResult(fields)) => fields,
        Ok(_) => &[],
    }
}

struct FieldProbe;

/// What the probe found, carried out as the "error" of a deserialization that never happens.
#[derive(Debug)]
struct ProbeResult(&'static [&'static str]);

impl std::fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fields {:?}", self.0)
    }
}

impl std::error::Error for ProbeResult {}

impl de::Error for ProbeResult {
    fn custom<T: std::fmt::Display>(_: T) -> ProbeResult {
        ProbeResult(&[])
    }
}

impl<'de> Deserializer<'de> for FieldProbe {
    type Error = ProbeResult;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ProbeResult> {
        Err(ProbeResult(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ProbeResult> {
        Err(ProbeResult(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVE: &str = "[[drives]]\npath = \"/d\"\n";

    #[test]
    fn a_written_configuration_reads_back() {
        let mut config = Config::default();
        config.drives.push(DriveConfig { path: "/d".into(), ..DriveConfig::default() });
        let text = config.to_text().unwrap();
        let read = Config::parse(&text).unwrap();
        assert_eq!(read.to_text().unwrap(), text);
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_name() {
        let error =
            Config::parse(&format!("body_buget_bytes = 1\n{DRIVE}")).unwrap_err().to_string();
        assert_eq!(error, "unknown field `body_buget_bytes`; did you mean `body_budget_bytes`?");
        let error = Config::parse("[timers]\nraft_hearbeat_ms = 1\n").unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown field `timers.raft_hearbeat_ms`; did you mean `timers.raft_heartbeat_ms`?"
        );
        let error = Config::parse("[[drives]]\npth = \"/d\"\n").unwrap_err().to_string();
        assert_eq!(error, "unknown field `drives.pth`; did you mean `drives.path`?");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (text, part) in [
            ("body_budget_bytes = 1\n", "between 32 MiB"),
            ("admin_listen = \"0.0.0.0:1\"\n", "set admin_token"),
            ("sleepy = true\n", "cannot vote"),
            ("s3_listen = \"nonsense\"\n", "wrong type"),
        ] {
            let error = format!("{:#}", Config::parse(&format!("{text}{DRIVE}")).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
        assert!(Config::parse("").unwrap_err().to_string().contains("[[drives]]"));
        assert!(Config::parse("= =").unwrap_err().to_string().contains("TOML"));
    }
}
