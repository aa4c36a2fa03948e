//! Known answers: public ones for the primitives, golden bytes for our own formats. The latter were
//! computed by an independent program (Python, `cryptography`) from the formats' descriptions; a
//! change here is a change of what is on every disk.

use bytes::Bytes;
use hkdf::Hkdf;
use nexusgrid_codec::aead::{Provider, cipher_of};
use nexusgrid_codec::erasure::encode;
use nexusgrid_codec::seal::seal_one;
use nexusgrid_codec::{BucketKey, EncodedBlock, MasterKey, SealingBlock, ShardHeader, WrappedKey};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::{CLUSTER, block, bytes_of, content_key, copies, hex, rs, to_hex};

fn plain(len: usize) -> Bytes {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// Test cases 13 to 16 of McGrew and Viega's submission of GCM to NIST.
#[test]
fn aes_256_gcm_known_answers() {
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let text = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let cipher = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                  8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
    let zero = "0".repeat(64);
    let cases = [
        (zero.as_str(), "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            &zero,
            "000000000000000000000000",
            "",
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (key, "cafebabefacedbaddecaf888", "", text, cipher, "b094dac5d93471bdec1a502270e3cc6c"),
        (
            key,
            "cafebabefacedbaddecaf888",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            &text[..120],
            &cipher[..120],
            "76fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ];
    for provider in [Provider::AesGcm, Provider::Ring] {
        for (key, nonce, aad, text, cipher, tag) in cases {
            let aead = cipher_of(provider, &hex(key).try_into().unwrap());
            let (nonce, aad) = (hex(nonce).try_into().unwrap(), hex(aad));
            let mut buffer = [hex(text), vec![0; 16]].concat();
            aead.seal_in_place(nonce, &aad, &mut buffer).unwrap();
            assert_eq!(buffer, [hex(cipher), hex(tag)].concat(), "{provider:?}");
            aead.open_in_place(nonce, &aad, &mut buffer).unwrap();
            assert_eq!(buffer[..buffer.len() - 16], hex(text));
            assert!(aead.seal_in_place(nonce, &aad, &mut [0; 15]).is_err());
            assert!(aead.open_in_place(nonce, &aad, &mut [0; 15]).is_err());
        }
    }
}

/// RFC 5869, test cases 1 and 3.
#[test]
fn hkdf_sha256_known_answers() {
    let mut okm = [0; 42];
    let salt = hex("000102030405060708090a0b0c");
    let hkdf = Hkdf::<Sha256>::new(Some(&salt), &[0x0b; 22]);
    hkdf.expand(&hex("f0f1f2f3f4f5f6f7f8f9"), &mut okm).unwrap();
    let expected =
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(to_hex(&okm), expected);
    Hkdf::<Sha256>::new(None, &[0x0b; 22]).expand(&[], &mut okm).unwrap();
    let expected =
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(to_hex(&okm), expected);
}

#[test]
fn crc32c_known_answer() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn golden_block_key() {
    // The key itself cannot be looked at from here: seal with it and with the expected one.
    for (offset, expected) in [
        (0, "64efaee1ab8737bc79ce2fa84fe4acf478017f534b7635e8b879e2d3e00221fc"),
        (512, "285b19a3f317e7dc8af9e26d83241312b8fcd6e910443ff4627b42d7f3ff6bca"),
    ] {
        let (mut derived, mut known) = ([0; 48], [0; 48]);
        let key = content_key(1).block_key(block(1), offset);
        key.cipher().seal_in_place([0; 12], b"", &mut derived).unwrap();
        let known_cipher = cipher_of(Provider::AesGcm, &hex(expected).try_into().unwrap());
        known_cipher.seal_in_place([0; 12], b"", &mut known).unwrap();
        assert_eq!(derived, known);
    }
}

fn golden_block() -> EncodedBlock {
    let (sealed, region) =
        seal_one(CLUSTER, block(1), rs(4, 2), &content_key(1), &[plain(1800)]).unwrap();
    assert_eq!((region.frame_len(), sealed.bytes.len()), (512, 1864));
    assert_eq!(
        to_hex(&sealed.bytes[..32]),
        "6325a71ebb240aed808ca5ffc45906cdadd634916ec45a3077c3ce98e2fc341c"
    );
    assert_eq!(
        to_hex(&Sha256::digest(&sealed.bytes)),
        "3a725f18f895825c3e934208a703172eef97a9deb5a34f452d51dc75089cda30"
    );
    encode(&sealed).unwrap()
}

#[test]
fn golden_shards() {
    let golden = [
        (
            528,
            "4e8856763437b4d3",
            "77b2d0a361de006e1e84ed7b154d87a1780dbc462b97e4a96a1b015111e338dd",
        ),
        (
            528,
            "7d59dfd1c0ccaec4",
            "8a5c3193ed61e7e138e71bb627617c1a35cab9d2f6ba8c01d852ade5f9feb9cc",
        ),
        (
            528,
            "8eff3567b216b984",
            "60eca4e2a84b2ad884968c4e3e77db7fee92176cb23e16786861d798787a3fa9",
        ),
        (
            280,
            "838ba36c781afefe",
            "39ea74735a6f062e5bfdb206b16e5f0987317b337dbcd7b020c127d56f750df4",
        ),
        (
            528,
            "8eb3a07d21328e92",
            "a5478062d4afe53fccd28abcdd18427dc3b7d0f5389956a63e0027daaba07ed6",
        ),
        (
            528,
            "bee3ee6992d14742",
            "2a51db69ea538ceb66da06f11bf12bad4c96fc0e4408713f75b6ee04f5839ae7",
        ),
    ];
    let block = golden_block();
    for ((body, digest), (len, sha256, golden)) in
        block.shards.iter().zip(&*block.digests).zip(golden)
    {
        assert_eq!(body.len(), len);
        assert_eq!(to_hex(&Sha256::digest(body))[..16], *sha256);
        assert_eq!(to_hex(&digest.0), golden);
    }
}

#[test]
fn golden_shard_header() {
    let golden = "01020402050000000000000301020304050607080000000100020000480700001002000001000000c5006cca\
        77b2d0a361de006e1e84ed7b154d87a1780dbc462b97e4a96a1b015111e338dd\
        8a5c3193ed61e7e138e71bb627617c1a35cab9d2f6ba8c01d852ade5f9feb9cc\
        60eca4e2a84b2ad884968c4e3e77db7fee92176cb23e16786861d798787a3fa9\
        39ea74735a6f062e5bfdb206b16e5f0987317b337dbcd7b020c127d56f750df4\
        a5478062d4afe53fccd28abcdd18427dc3b7d0f5389956a63e0027daaba07ed6\
        2a51db69ea538ceb66da06f11bf12bad4c96fc0e4408713f75b6ee04f5839ae7f155b8c9";
    let header = golden_block().header(5).unwrap();
    assert_eq!(to_hex(&header.encode()), golden);
    assert_eq!(ShardHeader::decode(&hex(golden)).unwrap().0, header);
}

#[test]
fn golden_pack() {
    let mut pack = SealingBlock::new(CLUSTER, block(1), copies(3));
    pack.append(&content_key(1), &[plain(100)]).unwrap();
    let second = pack.append(&content_key(2), &[plain(600)]).unwrap();
    assert_eq!((second.offset(), second.frame_len()), (116, 1024));
    assert_eq!(
        to_hex(&Sha256::digest(&pack.finish().unwrap().bytes)),
        "4913fe5b51476713d2aeed2b2914c9c2509f512c1e76377c4686a80c427ccaf6"
    );
}

#[test]
fn golden_wrapped_keys() {
    let golden = "010000000301010101010101010101010112cac22f488b18735a897f70464f7d62\
                  aa1ae1a13f270ff9770e967dc6d75219ebc00896f5334c6daa81fcf9bf35531f";
    let bucket_key = BucketKey::from_bytes(3, [0xb0; 32]);
    let context = b"bucket 5, content 77";
    let wrapped = bucket_key.wrap(&content_key(9), [1; 12], CLUSTER, context).unwrap();
    assert_eq!(to_hex(&wrapped.to_bytes()), golden);
    assert_eq!(WrappedKey::from_bytes(&hex(golden)).unwrap(), wrapped);

    let golden = "010000000702020202020202020202020234c9c22ca62f907e8dc62a12ebe34093\
                  44d9efd7e30667125d9cc395e091409549850ec1a09ff879d9357718d48e128f";
    let bucket_key = BucketKey::from_bytes(7, [0xb0; 32]);
    let master = MasterKey::from_bytes([0x33; 32]);
    let sealed = master.seal_bucket_key(&bucket_key, [2; 12], CLUSTER, b"bucket 5").unwrap();
    assert_eq!(to_hex(&sealed.to_bytes()), golden);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn both_packages_agree(
        key in any::<[u8; 32]>(), nonce in any::<[u8; 12]>(),
        aad in prop::collection::vec(any::<u8>(), 0..60), len in 0usize..70_000,
    ) {
        let plain = bytes_of(1, len);
        let [mut a, mut b] = [(); 2].map(|()| [&plain[..], &[0; 16]].concat());
        let (rust, ring) = (cipher_of(Provider::AesGcm, &key), cipher_of(Provider::Ring, &key));
        rust.seal_in_place(nonce, &aad, &mut a).unwrap();
        ring.seal_in_place(nonce, &aad, &mut b).unwrap();
        prop_assert_eq!(&a, &b);
        rust.open_in_place(nonce, &aad, &mut b).unwrap();
        ring.open_in_place(nonce, &aad, &mut a).unwrap();
        prop_assert_eq!(&a[..len], &plain[..]);
        prop_assert_eq!(&b[..len], &plain[..]);
    }
}
