//! Whom a connection trusts.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, KeyProvider, ring};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, ClientConnection};

use crate::Pin;
use crate::roots::Roots;
use crate::verify::{Check, Verifier};

/// Whom a connection trusts.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The system's authorities, as they are at the first connection.
    #[default]
    System,
    /// Those of a file, and no others.
    Authorities(Authorities),
    /// Whoever has one of these keys, and nobody else: authorities, names and dates do not count.
    Keys(Vec<Pin>),
    /// Whoever answers. Only for what is held, byte by byte, against a hash or a signature that came another way, over
    /// connections that carry no credentials: then it does not matter who sends it, and neither a wrong clock nor a
    /// certificate that has ended keeps it away. Somebody in between sees what is asked for, and can refuse it, as with
    /// http://. It is wrong wherever the answer itself is believed, and is not asked for again of who is trusted.
    AnybodyForCheckedContents,
    /// As another one, with certificates held against this time, in seconds since 1970, and not against this machine's clock:
    /// for who asks what time it is. An old certificate, whose key somebody has found since, is as good as it was then, so
    /// that nothing else is to be believed and no credentials are to be sent.
    At(Box<Trust>, u64),
}

/// The authorities of a file.
#[derive(Debug, Clone)]
pub struct Authorities(Arc<Roots>);

/// Clients prove who they are by other means than certificates of their own. That none can be given to them leaves out of
/// the program what would sign with its key.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("clients have no certificate of their own here".to_owned()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { key_provider: &NoKeys, ..ring::default_provider() })
}

impl Trust {
    /// Trusts the authorities in a file in PEM form; every one must be usable.
    ///
    /// # Errors
    /// One sentence with the file's name.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        Ok(Self::Authorities(Authorities(Arc::new(Roots::of_file(path)?))))
    }

    /// How a client of this trust speaks TLS. Reads the system's authorities if they count.
    ///
    /// # Errors
    /// One sentence, when the system's authorities cannot be read.
    pub fn client(&self) -> Result<Arc<ClientConfig>, String> {
        self.client_at(None)
    }

    fn client_at(&self, at: Option<u64>) -> Result<Arc<ClientConfig>, String> {
        let provider = provider();
        let check = match self {
            Self::At(trust, at) => return trust.client_at(Some(*at)),
            Self::System => Self::by(Arc::new(Roots::of_system()?))?,
            Self::Authorities(Authorities(roots)) => Self::by(Arc::clone(roots))?,
            Self::Keys(pins) => Check::Keys(pins.clone()),
            Self::AnybodyForCheckedContents => Check::Nothing,
        };
        let verifier = Verifier { check, at, algorithms: provider.signature_verification_algorithms };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// Whom this trusts, in words; and begins a connection to nobody, which takes authorities, a key and random numbers.
    ///
    /// # Errors
    /// One sentence about what there is none of.
    pub fn examine(&self) -> Result<String, String> {
        let words = |roots: &Roots| format!("{} authorities: {}", roots.store.len(), roots.source);
        let whom = match self {
            Self::System => words(&Roots::of_system()?),
            Self::Authorities(Authorities(roots)) => words(roots),
            Self::Keys(pins) => format!("{} pinned keys", pins.len()),
            Self::At(trust, _) => return trust.examine(),
            Self::AnybodyForCheckedContents => "anybody, for what is checked when it is there".into(),
        };
        let failed = |error: rustls::Error| format!("begin a connection: {error}");
        let nobody = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let mut connection = ClientConnection::new(self.client()?, nobody).map_err(failed)?;
        let begun =
            connection.write_tls(&mut Vec::new()).map_err(|error| format!("begin a connection: {error}"))?;
        if begun == 0 {
            return Err("a connection begins with nothing".into());
        }
        Ok(whom)
    }

    fn by(roots: Arc<Roots>) -> Result<Check, String> {
        let source = roots.source.clone();
        let store = Arc::new(roots.store.clone());
        let verifier = WebPkiServerVerifier::builder_with_provider(store, provider())
            .build()
            .map_err(|error| format!("{source}: {error}"))?;
        Ok(Check::Authorities { verifier, source })
    }
}
