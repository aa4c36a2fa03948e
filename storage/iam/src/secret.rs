//! The type in which secret keys travel.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text. It cannot be printed or serialized, is wiped when dropped, and compares in
/// constant time (I16). Whoever needs the text says [`Secret::expose`], which is easy to search for.
///
/// ```compile_fail
/// let secret = nexusgrid_iam::Secret::new("hidden".to_owned());
/// println!("{secret:?}");
/// ```
///
/// ```compile_fail
/// let secret = nexusgrid_iam::Secret::new("hidden".to_owned());
/// println!("{secret}");
/// ```
///
/// ```compile_fail
/// fn persist<T: serde::Serialize>(_: T) {}
/// persist(nexusgrid_iam::Secret::new("hidden".to_owned()));
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a secret.
    pub fn new(secret: String) -> Secret {
        Secret(Zeroizing::new(secret))
    }

    /// Makes a secret key of 40 letters and digits from 25 random bytes (200 bits).
    pub fn from_random(random: &Zeroizing<[u8; 25]>) -> Secret {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyzABCDEF";
        let mut text = Zeroizing::new(String::with_capacity(40));
        for group in random.chunks(5) {
            let mut bits = group.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
            for _ in 0..8 {
                let index = (bits & 31) as usize;
                text.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'a')));
                bits >>= 5;
            }
        }
        Secret(text)
    }

    /// The secret itself. Do not log it, do not format it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in a time that depends on the lengths alone.
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }
}
