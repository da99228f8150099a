//! TLS with a certificate authority made for this run.
//!
//! Every port speaks TLS and plain HTTP: the first byte of a connection says which. The certificate names the buckets, the CDN domain and
//! this host. A client has to be told to trust the authority; programs on rustls or OpenSSL take its file from `SSL_CERT_FILE`.
//! Two more certificates are wrong on purpose, for the faults.
//!
//! Owns: keys and certificates, made when the first connection needs them. Owns not: which handshake fails (`fault`).

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::fault::Handshake;
use super::{BUCKETS, CDN_DOMAIN};

/// First byte of a TLS connection: a record of the handshake kind.
pub const HANDSHAKE_RECORD: u8 = 0x16;
/// Longer than any rehearsal, shorter than what clients call unreasonable.
const LIFE: Duration = Duration::days(365);

/// Why there is no TLS.
#[derive(Clone, Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub struct TlsError(String);

impl TlsError {
    fn of(error: impl std::fmt::Display) -> TlsError {
        TlsError(error.to_string())
    }
}

#[derive(Clone)]
struct Made {
    authority: String,
    good: TlsAcceptor,
    expired: TlsAcceptor,
    wrong_name: TlsAcceptor,
}

/// The authority and its certificates.
#[derive(Default)]
pub struct Tls {
    made: OnceLock<Result<Made, TlsError>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("made", &self.made.get().is_some()).finish()
    }
}

impl Tls {
    fn made(&self) -> Result<&Made, TlsError> {
        self.made.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// The authority's certificate in PEM.
    pub fn authority(&self) -> Result<String, TlsError> {
        self.made().map(|made| made.authority.clone())
    }

    pub fn acceptor(&self, fault: Option<Handshake>) -> Result<TlsAcceptor, TlsError> {
        let made = self.made()?;
        let acceptor = match fault {
            Some(Handshake::Expired) => &made.expired,
            Some(Handshake::WrongName) => &made.wrong_name,
            _ => &made.good,
        };
        Ok(acceptor.clone())
    }
}

/// What a certificate of the emulator is good for.
fn names() -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1", CDN_DOMAIN].map(String::from).into();
    for (bucket, region) in BUCKETS {
        for domain in ["myqcloud.com", "tencentcos.cn"] {
            names.push(format!("{bucket}.cos.{region}.{domain}"));
            names.push(format!("cos.{region}.{domain}"));
        }
    }
    names
}

fn make() -> Result<Made, TlsError> {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::new(Vec::new()).map_err(TlsError::of)?;
    params.distinguished_name = named("cosfs-ha emulator, not for real use");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    (params.not_before, params.not_after) = (now - Duration::days(30), now + LIFE);
    let key = KeyPair::generate().map_err(TlsError::of)?;
    let certificate = params.self_signed(&key).map_err(TlsError::of)?;
    let authority = certificate.pem();
    let issuer = Issuer::new(params, key);
    let acceptor = |names: Vec<String>, end: OffsetDateTime| -> Result<TlsAcceptor, TlsError> {
        let mut params = CertificateParams::new(names).map_err(TlsError::of)?;
        params.distinguished_name = named("cosfs-ha emulator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (now - Duration::days(30), end);
        let key = KeyPair::generate().map_err(TlsError::of)?;
        let leaf = params.signed_by(&key, &issuer).map_err(TlsError::of)?;
        let secret = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::of)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], secret)
            .map_err(TlsError::of)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    };
    Ok(Made {
        good: acceptor(names(), now + LIFE)?,
        expired: acceptor(names(), now - Duration::days(1))?,
        wrong_name: acceptor(vec!["somewhere.else.invalid".into()], now + LIFE)?,
        authority,
    })
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
