//! Tokens of identity providers: read strictly, and their signatures.
//!
//! A signature is one of three kinds by a provider's public key. Anything else, such as no
//! signature or one by a shared secret, is no token here, whatever its header says.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TokenError;
use crate::limits;

/// How a token is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// ECDSA on P-256 with SHA-256.
    ES256,
}

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: Option<String>,
    /// What must be understood: nothing of it is.
    crit: Option<Value>,
}

/// What a token says, before anybody has looked at its signature.
pub struct Token {
    /// How it is signed.
    pub algorithm: Algorithm,
    /// By which key.
    pub key: Option<String>,
    /// What it claims.
    pub claims: Map<String, Value>,
    signed: String,
    signature: Vec<u8>,
}

fn part(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Invalid("it is no JSON Web Token"))
}

impl Token {
    /// Takes a token apart.
    pub fn parse(text: &str) -> Result<Token, TokenError> {
        if text.len() > limits::WEB_TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid("it is too long"));
        }
        let invalid = |_| TokenError::Invalid("it is no JSON Web Token of RS256, PS256 or ES256");
        let (signed, signature) =
            text.rsplit_once('.').ok_or(TokenError::Invalid("it is no JSON Web Token"))?;
        let (header, claims) =
            signed.split_once('.').ok_or(TokenError::Invalid("it is no JSON Web Token"))?;
        let header: Header = serde_json::from_slice(&part(header)?).map_err(invalid)?;
        if header.crit.is_some() {
            return Err(TokenError::Invalid("it asks for an extension"));
        }
        Ok(Token {
            algorithm: header.alg,
            key: header.kid,
            claims: serde_json::from_slice(&part(claims)?).map_err(invalid)?,
            signed: signed.to_owned(),
            signature: part(signature)?,
        })
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str)
    }

    /// Texts of a claim: one, or a list.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.claims.get(name) {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// A claim that is a moment: seconds since 1970.
    pub fn moment(&self, name: &str) -> Result<Option<u64>, TokenError> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => match (number.as_u64(), number.as_f64()) {
                (Some(seconds), _) => Ok(Some(seconds)),
                (None, Some(seconds)) if (0.0..1e12).contains(&seconds) => Ok(Some(seconds as u64)),
                _ => Err(TokenError::Invalid("a moment is none")),
            },
            Some(_) => Err(TokenError::Invalid("a moment is none")),
        }
    }
}

/// A public key as providers publish it.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    for_what: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
}

/// A public key that tokens may be signed by.
pub struct Key {
    /// Its name.
    pub id: Option<String>,
    /// The one algorithm that it is for; `None`: all of its kind.
    algorithm: Option<Algorithm>,
    material: Material,
}

/// The keys of a published set that tokens here may be signed by; others are passed over.
pub fn keys(published: &[u8]) -> Result<Vec<Key>, TokenError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let unreadable = |_| TokenError::Provider("its keys cannot be read".to_owned());
    let set: Set = serde_json::from_slice(published).map_err(unreadable)?;
    let usable = set.keys.into_iter().filter_map(|key| usable(serde_json::from_value(key).ok()?));
    Ok(usable.take(limits::PROVIDER_KEYS_MAX).collect())
}

fn usable(key: Published) -> Option<Key> {
    if key.for_what.as_deref().is_some_and(|what| what != "sig") {
        return None;
    }
    let algorithm = match key.alg.as_deref() {
        None => None,
        Some("RS256") => Some(Algorithm::RS256),
        Some("PS256") => Some(Algorithm::PS256),
        Some("ES256") => Some(Algorithm::ES256),
        Some(_) => return None,
    };
    let number = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
    let material = match (key.kty.as_str(), key.crv.as_deref()) {
        ("RSA", _) => Material::Rsa { n: number(key.n)?, e: number(key.e)? },
        ("EC", Some("P-256")) => {
            let (x, y) = (number(key.x)?, number(key.y)?);
            if x.len() != 32 || y.len() != 32 {
                return None;
            }
            Material::P256([&[4][..], &x, &y].concat())
        }
        _ => return None,
    };
    Some(Key { id: key.kid, algorithm, material })
}

impl Key {
    /// Whether the token is signed by this key.
    pub fn signed(&self, token: &Token) -> bool {
        if self.algorithm.is_some_and(|only| only != token.algorithm) {
            return false;
        }
        let (message, signature) = (token.signed.as_bytes(), &token.signature);
        let verified =
            match (token.algorithm, &self.material) {
                (Algorithm::RS256, Material::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                    .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
                (Algorithm::PS256, Material::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                    .verify(&RSA_PSS_2048_8192_SHA256, message, signature),
                (Algorithm::ES256, Material::P256(point)) => {
                    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                        .verify(message, signature)
                }
                (Algorithm::RS256 | Algorithm::PS256, Material::P256(_))
                | (Algorithm::ES256, Material::Rsa { .. }) => return false,
            };
        verified.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key's public half, and tokens that OpenSSL signed with the other.
    const KEYS: &str = r#"{"keys":[{"kty":"RSA","kid":"r","e":"AQAB","n":"zIkgRvYqVkRECj6zADlEMlyNFhzSLZU51v3c-H5CDHMWMyBapnDhCxhBzPI9Qs8CxYqcjqECTfjG-S1JhUJuFgBIjsfgOWaHqmZqjfCeyLs1XH2hx7kVbysXJ4lkbf6I4OrrAW3bhsYIa0EsK_roUFOu7T3v66yMMAozqCZApoxb34uqa9gtskzfYZNZn7ey0pobK1iQAxTMU97rMGdjdgQ9D1G2Ui-GExL3RGskK-kAY9Yw4ZEiOk2rwHDTVN-KV2JvHIoej-4VIieB-lWajb73Ih8QBcTEvMb3kex_CyDGdOQE_GoqgRcsVb5DzXy3p77z-iPWTquDtKULm2TnWQ"}]}"#;
    const RS256: &str = "eyJhbGciOiAiUlMyNTYiLCAia2lkIjogInIifQ.eyJzdWIiOiAiYW5uIn0.PIU1EXJbchQO6bpoBTnghv-PF4WwVgVkgAzwvMr58A3jySsVJDBZA9f2VM7Y7hDH6TEkQ7o1xFCI2uw0ch6azFZaeqbh6jN3BnhOeAxsi9VUJJVu6WWtkqLGsMyylCbNn4w2JuS0vLhyYfBOMD0QSy-YMOvVVrOhiiBT00I4itdBZ4XRsRev0ydKGQReyhmAwrVaDTZVP2b6MFP3u9FacW1jqSKqv3z_MZ6476pKCdDTPGGnOMqp7k3OiJSOlowlmFA4Wi5HxZAjxcFzwL5oeENeI5IW_ZXUPHQgYCIKsx6ZtO9hVvUWJ0nlAgTRjFwHgr3GlQY_ljSkv2f33-zH2Q";
    const PS256: &str = "eyJhbGciOiAiUFMyNTYiLCAia2lkIjogInIifQ.eyJzdWIiOiAiYW5uIn0.mF0wWtPeGZMiCkU7cnqN0zKqBk8dfHH1LXp5xSd-hhz8vMFPQzKXpN4uG6ognI8giWnzMEGHWAIZyDuBBaWEn1WUSstmHlKgTnLJ14x_06G8Rry_qtc1XtH9p-cWKTPOpn-du5TNTsMlM-RbrayEcHKYMEkbNAfUaG8fKOofi4GAm5BS-plx4uK4FC91tVKatte48G5iEkMLIO-EaEj-CRUWdxgrKdjCuJoX9pItUuYDnJL00XTjI_kkeeCFhC3q-PBMhUdd_KnbNX1zd8bYuvsb5q1xLZWyTSXFXl2ayYAWeUmPaLYixXYRnJ6NM8y0M0TGj7fJb70om_DGff2IFA";
    /// Key and token of RFC 7515, A.3.
    const ES256_KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

    fn signed(published: &str, token: &str) -> bool {
        let keys = keys(published.as_bytes()).unwrap();
        assert_eq!(keys.len(), 1);
        keys[0].signed(&Token::parse(token).unwrap())
    }

    #[test]
    fn known_answers() {
        for (published, token) in [(KEYS, RS256), (KEYS, PS256), (ES256_KEYS, ES256)] {
            assert!(signed(published, token), "{token}");
            // One bit of the signature, or of what is signed.
            let (head, signature) = token.rsplit_once('.').unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
            bytes[7] ^= 1;
            assert!(!signed(published, &format!("{head}.{}", URL_SAFE_NO_PAD.encode(bytes))));
            let other = r#"{"sub":"bob"}"#;
            let header = head.split('.').next().unwrap();
            let other = format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(other));
            assert!(!signed(published, &other));
        }
        // A key is for one kind of signature, and for no other algorithm than it says.
        assert!(!signed(ES256_KEYS, RS256) && !signed(KEYS, ES256));
        let only = KEYS.replace("\"kid\"", "\"alg\":\"PS256\",\"kid\"");
        assert!(signed(&only, PS256) && !signed(&only, RS256));
    }

    #[test]
    fn keys_of_no_use_are_passed_over() {
        for one in [
            r#"{"kty":"oct","k":"c2VjcmV0"}"#,
            r#"{"kty":"RSA","use":"enc","e":"AQAB","n":"AQAB"}"#,
            r#"{"kty":"RSA","alg":"RS512","e":"AQAB","n":"AQAB"}"#,
            r#"{"kty":"RSA","e":"AQAB"}"#,
            r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#,
            r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#,
            r#"{"kty":7}"#,
            "null",
        ] {
            assert!(keys(format!("{{\"keys\":[{one}]}}").as_bytes()).unwrap().is_empty(), "{one}");
        }
        assert!(keys(b"{}").is_err() && keys(b"").is_err());
        let many = vec![r#"{"kty":"RSA","e":"AQAB","n":"AQAB"}"#; 1_000].join(",");
        let many = keys(format!("{{\"keys\":[{many}]}}").as_bytes()).unwrap();
        assert_eq!(many.len(), limits::PROVIDER_KEYS_MAX);
    }
}
