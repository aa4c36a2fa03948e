//! Join tokens as text, and the decision about them.

use std::time::Duration;

use nexusgrid_cluster::JoinToken;
use nexusgrid_cluster::directory::{AdmissionError, next_generation};
use nexusgrid_cluster::token::{TokenError, TokenRefusal, admits};
use nexusgrid_codec::ClusterId;
use nexusgrid_env::UnixMillis;
use nexusgrid_env::sim::SeededRng;
use proptest::prelude::*;

const ALPHABET: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn token() -> JoinToken {
    JoinToken::create(
        &SeededRng::new(1),
        ClusterId([2; 16]),
        [3; 32],
        UnixMillis(1_000_000),
        Duration::from_secs(3600),
        vec!["10.0.0.1:7070".into()],
    )
}

/// The secret inside a printed token, by the documented layout: version, cluster, id, secret.
pub fn secret_of(text: &str) -> [u8; 32] {
    let mut bits = Vec::new();
    for digit in text.strip_prefix("ngt_").unwrap().bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit).unwrap();
        bits.extend((0..5).rev().map(|bit| value >> bit & 1));
    }
    let bytes: Vec<u8> = bits
        .chunks_exact(8)
        .map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | *bit as u8))
        .collect();
    bytes[25..57].try_into().unwrap()
}

#[test]
fn a_token_survives_printing() {
    let token = token();
    let parsed = JoinToken::parse(&format!("  {}\n", token.to_text())).unwrap();
    assert!(parsed == token);
    assert_eq!(parsed.secret_hash(), token.record().secret_hash);
    assert_eq!(
        JoinToken::parse(&token.to_text().to_uppercase().replacen("NGT_", "ngt_", 1)).ok(),
        Some(token)
    );
}

#[test]
fn the_printed_form_is_stable() {
    assert_eq!(token().to_text(), GOLDEN);
}

const GOLDEN: &str = "ngt_041040g2081040g2081040g2081b23d4hkn4r2b7de70xz6r0ta18s860wv06axrk110\
    t233vjkjae75scdxamzjkx4060r30c1g60r30c1g60r30c1g60r30c1g60r30c1g60r30c1g60y0w6c0408d64r2wc1e60q\
    32ehq60vk0j725wrg";

#[test]
fn a_mistyped_or_cut_token_is_told_from_a_refused_one() {
    let text = token().to_text();
    assert_eq!(JoinToken::parse(""), Err(TokenError::NotAToken));
    assert_eq!(JoinToken::parse("hello"), Err(TokenError::NotAToken));
    for len in 4..text.len() {
        assert_eq!(JoinToken::parse(&text[..len]), Err(TokenError::Damaged), "cut to {len}");
    }
    for at in 4..text.len() {
        let mut digits = text.clone().into_bytes();
        digits[at] = if digits[at] == b'7' { b'8' } else { b'7' };
        let mistyped = String::from_utf8(digits).unwrap();
        assert_eq!(JoinToken::parse(&mistyped), Err(TokenError::Damaged), "digit {at}");
    }
    assert_eq!(JoinToken::parse(&format!("{text}{text}")), Err(TokenError::Damaged));
    assert_eq!(JoinToken::parse(&format!("ngt_{}", "0".repeat(5000))), Err(TokenError::Damaged));
}

#[test]
fn tokens_admit_once_and_in_time() {
    let token = token();
    let (secret, key, other) = (token.secret_hash(), [1; 32], [2; 32]);
    let mut record = token.record();
    let (now, late) = (UnixMillis(1_000_000), UnixMillis(1_000_000 + 3_600_001));
    assert_eq!(admits(None, &secret, &key, now), Err(TokenRefusal::Unknown));
    assert_eq!(admits(Some(&record), &[0; 32], &key, now), Err(TokenRefusal::Unknown));
    assert_eq!(admits(Some(&record), &secret, &key, late), Err(TokenRefusal::Expired));
    assert_eq!(admits(Some(&record), &secret, &key, now), Ok(()));
    record.used_by_key = Some(key);
    assert_eq!(admits(Some(&record), &secret, &other, now), Err(TokenRefusal::Used));
    assert_eq!(admits(Some(&record), &secret, &key, late), Ok(()), "its answer was lost");
    assert_eq!(admits(Some(&record), &[0; 32], &key, now), Err(TokenRefusal::Unknown));
}

#[test]
fn generations_go_up_one_by_one() {
    let (key, other) = ([1; 32], [2; 32]);
    assert_eq!(next_generation(3, &key, 3, &other), Ok(4));
    assert_eq!(next_generation(4, &other, 3, &other), Ok(4), "the answer was lost");
    for (newest, current) in [(4, 3), (5, 3), (3, 4), (5, 0)] {
        let refused = next_generation(newest, &key, current, &other);
        assert!(matches!(refused, Err(AdmissionError::Refused(_))), "{newest} {current}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_without_harm(text in "\\PC{0,200}", digits in "[0-9a-z]{0,300}") {
        prop_assert!(JoinToken::parse(&text).is_err());
        let text = format!("ngt_{digits}");
        prop_assert!(JoinToken::parse(&text).is_err());
    }
}
