use std::fmt::{Debug, Display};

use nexusgrid_codec::{
    BlockKey, BucketKey, ClusterId, CodecError, ContentKey, MasterKey, WrappedKey,
};
use serde::Serialize;

use crate::{CLUSTER, content_key};

/// Does not compile if `$type` implements `$trait`: both impls of `Ambiguous` would then apply.
macro_rules! assert_not_impl {
    ($type:ty: $($trait:path),+) => {$(
        const _: fn() = || {
            trait Ambiguous<A> {
                fn item() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct Refused;
            impl<T: ?Sized + $trait> Ambiguous<Refused> for T {}
            let _ = <$type as Ambiguous<_>>::item;
        };
    )+};
}

// I16, S6: checked by the compiler.
assert_not_impl!(MasterKey: Debug, Display, Serialize);
assert_not_impl!(BucketKey: Debug, Display, Serialize);
assert_not_impl!(ContentKey: Debug, Display, Serialize);
assert_not_impl!(BlockKey: Debug, Display, Serialize, Clone);

fn bucket_key(version: u32) -> BucketKey {
    BucketKey::from_bytes(version, [0xb0; 32])
}

fn wrapped() -> WrappedKey {
    bucket_key(3).wrap(&content_key(9), [1; 12], CLUSTER, b"bucket 5, content 77").unwrap()
}

fn refused<T>(result: Result<T, CodecError>) -> bool {
    matches!(result, Err(CodecError::KeyRefused))
}

#[test]
fn a_wrapped_content_key_opens_in_its_place_only() {
    let (context, wrapped) = (b"bucket 5, content 77", wrapped());
    let opened = bucket_key(3).unwrap(&wrapped, CLUSTER, context).ok().unwrap();
    assert!(opened.same(&content_key(9)));
    assert!(!opened.same(&content_key(8)));
    assert_eq!(wrapped.version(), 3);
    assert!(refused(bucket_key(4).unwrap(&wrapped, CLUSTER, context)), "another version");
    let other = BucketKey::from_bytes(3, [0xb1; 32]);
    assert!(refused(other.unwrap(&wrapped, CLUSTER, context)), "another bucket's key");
    assert!(refused(bucket_key(3).unwrap(&wrapped, ClusterId([0; 16]), context)), "cluster");
    assert!(refused(bucket_key(3).unwrap(&wrapped, CLUSTER, b"bucket 5, content 78")), "row");
}

#[test]
fn a_sealed_bucket_key_opens_in_its_place_only() {
    let master = MasterKey::from_bytes([0x33; 32]);
    let sealed = master.seal_bucket_key(&bucket_key(7), [2; 12], CLUSTER, b"bucket 5").unwrap();
    let opened = master.open_bucket_key(&sealed, CLUSTER, b"bucket 5").ok().unwrap();
    assert!(opened.same(&bucket_key(7)) && opened.version() == 7);
    assert!(refused(master.open_bucket_key(&sealed, CLUSTER, b"bucket 6")));
    assert!(refused(master.open_bucket_key(&sealed, ClusterId([0; 16]), b"bucket 5")));
    let other = MasterKey::from_bytes([0x34; 32]);
    assert!(refused(other.open_bucket_key(&sealed, CLUSTER, b"bucket 5")), "a lost key is clear");
    // A sealed bucket key is no wrapped content key, even if the keys were the same.
    let same_bytes = BucketKey::from_bytes(7, [0x33; 32]);
    assert!(refused(same_bytes.unwrap(&sealed, CLUSTER, b"bucket 5")));
}

#[test]
fn every_flipped_bit_and_truncation_of_a_wrapped_key_is_refused() {
    let bytes = wrapped().to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let opened = WrappedKey::from_bytes(&flipped)
            .and_then(|wrapped| bucket_key(3).unwrap(&wrapped, CLUSTER, b"bucket 5, content 77"));
        assert!(opened.is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(WrappedKey::from_bytes(&bytes[..len]).is_err());
    }
    assert!(WrappedKey::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn wrapped_keys_travel_in_rows() {
    let bytes = postcard::to_allocvec(&wrapped()).unwrap();
    assert_eq!(bytes.len(), 1 + WrappedKey::LEN);
    assert_eq!(postcard::from_bytes::<WrappedKey>(&bytes).unwrap(), wrapped());
    assert!(postcard::from_bytes::<WrappedKey>(&[3, 1, 2, 3]).is_err());
}

#[test]
fn a_context_is_bounded() {
    let long = [0; 257];
    assert!(bucket_key(1).wrap(&content_key(1), [0; 12], CLUSTER, &long).is_err());
}
