//! The least processor the product runs on.
//!
//! The erasure code is compiled for AVX2 without a run-time check: on an older processor it would
//! die of an illegal instruction in the middle of a write. So the agent checks first.

/// The processor lacks what the product needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this processor lacks {}; nexusgrid needs x86-64-v3 with AES (Intel Haswell, AMD Excavator or \
     newer) or a 64-bit ARM processor with AES. In a virtual machine, set the CPU model to `host`",
    missing.join(", ")
)]
pub struct UnsupportedCpu {
    /// Features that are missing.
    pub missing: Vec<&'static str>,
}

/// Checks that this processor can run the product.
pub fn check() -> Result<(), UnsupportedCpu> {
    let missing: Vec<&'static str> =
        features().iter().filter(|(_, present)| !present).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(UnsupportedCpu { missing }) }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<(&'static str, bool)> {
    use std::arch::is_x86_feature_detected as has;
    vec![
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
        ("bmi1", has!("bmi1")),
        ("bmi2", has!("bmi2")),
        ("f16c", has!("f16c")),
        ("fma", has!("fma")),
        ("lzcnt", has!("lzcnt")),
        ("movbe", has!("movbe")),
        ("popcnt", has!("popcnt")),
        ("sse4.2", has!("sse4.2")),
        ("ssse3", has!("ssse3")),
        ("xsave", has!("xsave")),
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<(&'static str, bool)> {
    use std::arch::is_aarch64_feature_detected as has;
    vec![("neon", has!("neon")), ("aes", has!("aes")), ("pmull", has!("pmull"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<(&'static str, bool)> {
    vec![("x86-64-v3 or aarch64", false)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_will_do() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn the_message_names_what_is_missing_and_what_to_do() {
        let message = UnsupportedCpu { missing: vec!["avx2", "bmi2"] }.to_string();
        assert!(message.contains("avx2, bmi2") && message.contains("`host`"), "{message}");
    }
}
