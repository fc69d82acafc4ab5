//! The local token authority: stands in for the API server, which signs the tokens of ServiceAccounts on a cluster.
//!
//! Tokens have the claims of a projected ServiceAccount token and are checked as such: signature, issuer, audience and
//! times. Whether the pod still exists is for `identity` to ask.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use mesh_policy::well_known::TOKEN_AUDIENCE;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::{files, identity::ca};

/// Who signs them.
pub(crate) const ISSUER: &str = "https://tokens.meshctl.dev/local";
/// Longest token; those of Kubernetes take about 1.2 KiB.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// Seconds by which clocks may differ. Both sides run on one machine, so next to nothing.
const LEEWAY_SECONDS: u64 = 2;
const KEY_FILE: &str = "token-key.pem";

/// Why a token was refused. The fault is the caller's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It was good once.
    #[error("the token has expired; read the token file again, it is written anew well before")]
    Expired,
    /// It is for someone else.
    #[error(
        "the token is not for the audience {TOKEN_AUDIENCE}; use the token file that the controller wrote for this workload"
    )]
    Audience,
    /// It was not signed here, or is no token at all.
    #[error("the token was not issued by this authority ({0}); use the token file that the controller wrote")]
    Invalid(String),
}

/// Why the authority could not start or sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenAuthorityError {
    /// The key cannot be read or written.
    #[error("{}: {error}; give the controller a state folder that it may write", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The key is unusable.
    #[error("{}: {reason}; remove it to begin with a new key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Signing failed; the fault is here.
    #[error("signing a token: {0}")]
    Sign(String),
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    aud: Vec<String>,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

/// What a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    namespace: String,
    pod: Named,
    serviceaccount: Named,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    name: String,
}

impl Claims {
    /// The namespace of pod and service account.
    pub(crate) fn namespace(&self) -> &str {
        &self.kubernetes.namespace
    }

    /// The pod that the token is bound to.
    pub(crate) fn pod(&self) -> &str {
        &self.kubernetes.pod.name
    }

    /// The service account.
    pub(crate) fn service_account(&self) -> &str {
        &self.kubernetes.serviceaccount.name
    }
}

/// Signs and checks tokens.
pub(crate) struct TokenAuthority {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl fmt::Debug for TokenAuthority {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAuthority").finish_non_exhaustive()
    }
}

impl TokenAuthority {
    /// Takes the key from the state folder, or makes it there, so that tokens stay good over restarts.
    pub(crate) fn load_or_create(state: &Path) -> Result<Self, TokenAuthorityError> {
        let path = state.join(KEY_FILE);
        let unusable = |reason: String| TokenAuthorityError::Key { path: path.clone(), reason };
        let file = |error| TokenAuthorityError::File { path: path.clone(), error };
        let key = match std::fs::read_to_string(&path) {
            Ok(pem) => KeyPair::from_pem(&pem).map_err(|e| unusable(e.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                    .map_err(|e| TokenAuthorityError::Sign(e.to_string()))?;
                files::write_atomically(&path, key.serialize_pem().as_bytes(), files::PRIVATE).map_err(file)?;
                key
            }
            Err(error) => return Err(file(error)),
        };
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(unusable("not an ECDSA P-256 key".to_owned()));
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_audience(&[TOKEN_AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        Ok(Self {
            encoding: EncodingKey::from_ec_der(key.serialized_der()),
            decoding: DecodingKey::from_ec_der(key.public_key_raw()),
            validation,
        })
    }

    /// Signs a token for a pod that runs as a service account.
    pub(crate) fn mint(
        &self,
        namespace: &str,
        pod: &str,
        service_account: &str,
        lifetime: Duration,
    ) -> Result<String, TokenAuthorityError> {
        self.sign(TOKEN_AUDIENCE, namespace, pod, service_account, SystemTime::now(), lifetime)
    }

    fn sign(
        &self,
        audience: &str,
        namespace: &str,
        pod: &str,
        service_account: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, TokenAuthorityError> {
        let sign = |e: String| TokenAuthorityError::Sign(e);
        let iat = u64::try_from(ca::unix_seconds(now)).unwrap_or_default();
        let id = ca::random::<16>().map_err(|_| sign("no random numbers".to_owned()))?;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: vec![audience.to_owned()],
            sub: format!("system:serviceaccount:{namespace}:{service_account}"),
            iat,
            nbf: iat,
            exp: iat.saturating_add(lifetime.as_secs()),
            jti: id.iter().map(|b| format!("{b:02x}")).collect(),
            kubernetes: Bound {
                namespace: namespace.to_owned(),
                pod: Named { name: pod.to_owned() },
                serviceaccount: Named { name: service_account.to_owned() },
            },
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encoding).map_err(|e| sign(e.to_string()))
    }

    /// Checks a token: signature, issuer, audience, times, and that its parts agree.
    pub(crate) fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid(format!("longer than {MAX_TOKEN_BYTES} bytes")));
        }
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation);
        let claims = decoded.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => TokenError::Expired,
            ErrorKind::InvalidAudience => TokenError::Audience,
            _ => TokenError::Invalid(error.to_string()),
        })?;
        let claims = claims.claims;
        let bound = &claims.kubernetes;
        if claims.sub != format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name) {
            return Err(TokenError::Invalid("the subject is not the service account it is bound to".to_owned()));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_proves_its_pod_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let token = TokenAuthority::load_or_create(dir.path()).unwrap().mint("shop", "web-0", "web", HOUR).unwrap();
        let claims = TokenAuthority::load_or_create(dir.path()).unwrap().verify(&token).unwrap();
        assert_eq!((claims.namespace(), claims.pod(), claims.service_account()), ("shop", "web-0", "web"));
        assert_eq!(claims.sub, "system:serviceaccount:shop:web");
    }

    #[test]
    fn wrong_tokens_are_refused_with_their_reason() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = TokenAuthority::load_or_create(dir.path()).unwrap();
        let now = SystemTime::now();
        let old = authority.sign(TOKEN_AUDIENCE, "shop", "web-0", "web", now - 2 * HOUR, HOUR).unwrap();
        assert_eq!(authority.verify(&old), Err(TokenError::Expired));
        let early = authority.sign(TOKEN_AUDIENCE, "shop", "web-0", "web", now + HOUR, HOUR).unwrap();
        assert!(matches!(authority.verify(&early), Err(TokenError::Invalid(_))));
        let theirs = authority.sign("https://kubernetes.default.svc", "shop", "web-0", "web", now, HOUR).unwrap();
        assert_eq!(authority.verify(&theirs), Err(TokenError::Audience));
        let stranger = TokenAuthority::load_or_create(other.path()).unwrap();
        let foreign = stranger.mint("shop", "web-0", "web", HOUR).unwrap();
        assert!(matches!(authority.verify(&foreign), Err(TokenError::Invalid(_))));
        // Unsigned ("alg": "none"), empty, not a token, too long.
        let good = authority.mint("shop", "web-0", "web", HOUR).unwrap();
        let body = good.split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
        for bad in [unsigned, String::new(), "a.b.c".to_owned(), "x".repeat(MAX_TOKEN_BYTES + 1)] {
            assert!(matches!(authority.verify(&bad), Err(TokenError::Invalid(_))), "{bad}");
        }
    }
}
