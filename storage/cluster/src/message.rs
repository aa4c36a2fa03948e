//! Encoding of this crate's messages: a version byte, then postcard.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use nexusgrid_env::RpcError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is written.
const VERSION: u8 = 1;

pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, RpcError> {
    postcard::to_extend(message, vec![VERSION])
        .map(Bytes::from)
        .map_err(|error| RpcError::Failed(format!("encoding: {error}")))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    let malformed = || RpcError::Refused("malformed message".into());
    let (version, body) = bytes.split_first().ok_or_else(malformed)?;
    if *version != VERSION {
        return Err(RpcError::Refused(format!("message version {version} is not known here")));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|_| malformed())?;
    if !rest.is_empty() {
        return Err(malformed());
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use nexusgrid_env::NodeId;
    use zeroize::Zeroizing;

    use super::*;
    use crate::directory::{DriveFacts, NodeClass, NodeFacts};
    use crate::join::{JoinReply, JoinRequest};
    use crate::renew::{RenewReply, RenewRequest};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn messages_golden() {
        let facts = NodeFacts {
            host: "h".into(),
            zone: "z".into(),
            class: NodeClass::Sleepy,
            roles: nexusgrid_env::Roles { storage: true, meta: false, gateway: true },
            rpc_addr: "10.0.0.1:7070".parse().unwrap(),
            gossip_addr: "[::1]:7071".parse().unwrap(),
            drives: vec![DriveFacts { path: "/d".into(), size_bytes: 300 }],
        };
        let request = JoinRequest {
            cluster: [1; 16],
            token_id: [2; 8],
            secret: Zeroizing::new([3; 32]),
            csr: vec![4, 5],
            facts,
        };
        let expected = [
            "01",
            &"01".repeat(16),
            &"02".repeat(8),
            &"03".repeat(32),
            "020405",
            "0168017a01",
            "010001",
            "000a0000019e37",
            "01000000000000000000000000000000019f37",
            "01022f64ac02",
        ];
        assert_eq!(hex(&encode(&request).unwrap()), expected.concat());
        let admitted = JoinReply::Admitted {
            node: NodeId(7),
            certificate: vec![8],
            ca_certificate: vec![9],
            gossip_key: Zeroizing::new([10; 32]),
        };
        let expected = ["01000701080109", &"0a".repeat(32)].concat();
        assert_eq!(hex(&encode(&admitted).unwrap()), expected);
        let elsewhere = JoinReply::Elsewhere(vec!["a:1".into()]);
        assert_eq!(hex(&encode(&elsewhere).unwrap()), "01010103613a31");
        let renew = RenewRequest { generation: 3, csr: vec![4] };
        assert_eq!(hex(&encode(&renew).unwrap()), "01030104");
        let reply = RenewReply { certificate: vec![5] };
        assert_eq!(hex(&encode(&reply).unwrap()), "010105");
    }

    #[test]
    fn other_versions_and_left_overs_are_refused() {
        assert!(decode::<u32>(&[]).is_err());
        assert!(decode::<u32>(&[2, 5]).is_err());
        assert!(decode::<u32>(&[1, 5, 0]).is_err());
        assert_eq!(decode::<u32>(&[1, 5]), Ok(5));
    }
}
