//! TLS on the listeners: from certificate files, which are read again when they change.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use drover_tls::{Facts, Pin, http_date, utc};
use drover_wire::{Code, Problem};
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::farm::now;

/// A file of certificates, or of a key, is read whole; more than this is none.
const FILE_LIMIT: u64 = 1 << 20;
/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(20);
/// What is read of a request that comes without TLS, so that its sender gets to read the answer.
const PLAIN_LIMIT: u64 = 64 * 1024;
/// How long that may take.
const PLAIN_TIME: Duration = Duration::from_secs(5);
/// The first byte of whatever speaks TLS: a record of the kind “handshake”.
const HANDSHAKE: u8 = 0x16;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}, which the option {option} names: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What named it.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}, which the option {option} names, cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What named it.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// They are not a pair.
    #[error("the key in {} does not belong to the (first) certificate in {}", key.display(), certificate.display())]
    NoPair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// A certificate and its key, and connections with it.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    identity: Arc<Identity>,
}

impl Tls {
    /// Reads these files, in PEM form: certificates, the server's own first, and its private key.
    ///
    /// # Errors
    /// When they cannot be used.
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let stamp = Stamp::of(certificate, key);
        let pair = Arc::new(read(certificate, key, &provider)?);
        let current = Mutex::new(Current { pair, stamp });
        let identity = Arc::new(Identity {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider: Arc::clone(&provider),
            current,
        });
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config
            .map_err(|error| unusable(certificate, CERTIFICATE, error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        identity.warn();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), identity })
    }

    /// The name of the key, for those that pin it.
    pub(super) fn pin(&self) -> Option<Pin> {
        self.identity.certificate().as_deref().and_then(Pin::of_certificate)
    }

    /// Greets a peer. None when it does not speak TLS, or not in time; one that speaks plain HTTP is told so.
    pub(super) async fn accept(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let peer = stream.peer_addr().ok();
        let greeting = async {
            let mut first = [0];
            if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE {
                return Ok(Err(stream));
            }
            self.identity.refresh();
            self.acceptor.accept(stream).await.map(Ok)
        };
        match timeout(HANDSHAKE_TIME, greeting).await {
            Ok(Ok(Ok(stream))) => Some(stream),
            Ok(Ok(Err(stream))) => {
                // Whoever does not listen does not need to know.
                let _ = timeout(PLAIN_TIME, say_that_this_is_tls(stream)).await;
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(?peer, %error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(?peer, "a TLS handshake took too long");
                None
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.identity.certificate).finish_non_exhaustive()
    }
}

const CERTIFICATE: &str = "tls-certificate";
const KEY: &str = "tls-key";

/// What we show, and where it is from.
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Mutex<Current>,
}

struct Current {
    pair: Arc<CertifiedKey>,
    stamp: Stamp,
}

impl Identity {
    fn pair(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).pair)
    }

    fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.pair().cert.first().cloned()
    }

    /// Reads the files again if they are others than those that were read last. What cannot be used is left alone until
    /// it changes again, with what was there before in its place.
    fn refresh(&self) {
        // Before the files are read: a change in the meantime is seen the next time.
        let stamp = Stamp::of(&self.certificate, &self.key);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp == current.stamp {
            return;
        }
        current.stamp = stamp;
        match read(&self.certificate, &self.key, &self.provider) {
            Ok(pair) => {
                current.pair = Arc::new(pair);
                drop(current);
                let pin = self.certificate().as_deref().and_then(Pin::of_certificate);
                let pin = pin.map(|pin| pin.to_string()).unwrap_or_default();
                tracing::info!(file = %self.certificate.display(), key = pin, "the TLS certificate was read again");
                self.warn();
            }
            Err(error) => {
                tracing::error!(%error, "the new TLS certificate cannot be used; the one before stays");
            }
        }
    }

    /// Says what clients will find wrong with the certificate.
    fn warn(&self) {
        let certificate = self.certificate();
        let Some(facts) = certificate.as_deref().and_then(Facts::of) else { return };
        let (now, file) = (now() / 1000, self.certificate.display());
        if facts.not_after < now {
            let until = utc(facts.not_after);
            tracing::warn!(%file, "the TLS certificate was valid until {until}: only who has pinned its key will take it");
        } else if facts.not_before > now {
            let from = utc(facts.not_before);
            tracing::warn!(%file, "the TLS certificate is valid from {from} on, which is still to come: is the clock right?");
        }
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// By which files are known to have changed: when, how long, and which they are. Links are followed, as to the folder of
/// the newest certificate that some programs keep.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([Option<(SystemTime, u64, u64)>; 2]);

impl Stamp {
    fn of(certificate: &Path, key: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let one = |path| {
            let facts = fs::metadata(path).ok()?;
            Some((facts.modified().ok()?, facts.len(), facts.ino()))
        };
        Self([one(certificate), one(key)])
    }
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = pem(certificate, CERTIFICATE)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let chain = chain.map_err(|error| unusable(certificate, CERTIFICATE, error.to_string()))?;
    if chain.is_empty() {
        let reason = "there is no certificate in it (-----BEGIN CERTIFICATE-----)".to_owned();
        return Err(unusable(certificate, CERTIFICATE, reason));
    }
    let secret = PrivateKeyDer::from_pem_slice(&pem(key, KEY)?).map_err(|error| {
        let none = matches!(error, rustls::pki_types::pem::Error::NoItemsFound);
        let reason = if none {
            "there is no private key in it (-----BEGIN PRIVATE KEY-----), or it has a password".to_owned()
        } else {
            error.to_string()
        };
        unusable(key, KEY, reason)
    })?;
    let secret = provider
        .key_provider
        .load_private_key(secret)
        .map_err(|error| unusable(key, KEY, error.to_string()))?;
    let pair = CertifiedKey::new(chain, secret);
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::NoPair { certificate: certificate.to_owned(), key: key.to_owned() })
        }
        Err(error) => Err(unusable(certificate, CERTIFICATE, error.to_string())),
    }
}

fn pem(path: &Path, option: &'static str) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), option, source };
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > FILE_LIMIT {
        return Err(unusable(path, option, format!("it has {size} bytes, which are too many")));
    }
    fs::read(path).map_err(failed)
}

fn unusable(path: &Path, option: &'static str, reason: String) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), option, reason }
}

/// Answers a request that came without TLS.
async fn say_that_this_is_tls(mut stream: TcpStream) -> io::Result<()> {
    let message = "this listener speaks TLS; the address begins with https:// and not with http://";
    let body = serde_json::to_vec(&Problem::new(Code::BadRequest, message))?;
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {}\r\ndate: {}\r\nconnection: close\r\n\r\n",
        body.len(),
        // By it those whose clock is wrong find out.
        http_date(now() / 1000)
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    // Unread bytes would make the system drop the answer.
    tokio::io::copy(&mut stream.take(PLAIN_LIMIT), &mut tokio::io::sink()).await?;
    Ok(())
}
