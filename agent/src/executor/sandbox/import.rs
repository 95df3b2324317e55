//! The coordinator's items into the store: straight from the stream onto the disk, checked on the way.

pub(super) mod arrivals;
pub(super) mod nar;
#[cfg(test)]
mod tests;

use drover_store::export::export_hash;
use drover_store::key::{Acl, PublicKey, Signature};
use drover_wire::ItemInfo;

use super::Stopping;
use crate::executor::{Error, Nars};
use crate::store::{Hold, Item, Received, Store};
use arrivals::{Miss, Wanted, bring_in};

/// Brings the coordinator's items into the store, several at a time. One that refers to something that is neither among
/// them nor in the store is left out, which the log says.
///
/// # Errors
/// [`Error::Untrusted`] when a key is not among `keys` or a signature does not hold, [`Error::Refused`] when a nar is
/// another one than announced, [`Error::Stream`], and [`Error::Away`] after a stop. What was placed before stays.
pub(super) fn import(
    store: &Store,
    hold: &mut Hold,
    keys: &Acl,
    items: &[&ItemInfo],
    from: &dyn Nars,
    stop: &Stopping,
) -> Result<(), Error> {
    let signatures = items.iter().map(|info| signature(info, keys)).collect::<Result<Vec<_>, _>>()?;
    let wanted: Vec<Item> = items.iter().map(|info| item(info)).collect();
    let obtain = |number: usize, still: Wanted<'_>| {
        let (Some(info), Some(item), Some(signature)) =
            (items.get(number), wanted.get(number), signatures.get(number))
        else {
            return Err(Miss::LeftOut("nobody knows of it".to_owned()));
        };
        receive(store, info, item, signature, from, still).map_err(Miss::Fatal)
    };
    bring_in(store, hold, &wanted, &obtain, stop)
}

fn item(info: &ItemInfo) -> Item {
    Item {
        path: info.path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.clone(),
        deriver: info.deriver.clone(),
    }
}

/// The signature of an item, by a key that is trusted. Whether it holds shows at the end of the nar.
fn signature(info: &ItemInfo, keys: &Acl) -> Result<Signature, Error> {
    let text = info.import_signature.as_ref().ok_or_else(|| {
        Error::Refused(format!(
            "the coordinator sent no signature for {}, without which it is not taken",
            info.path
        ))
    })?;
    let signature =
        Signature::parse(text).map_err(|error| Error::Untrusted(format!("import {}: {error}", info.path)))?;
    if !keys.authorizes(signature.public()) {
        return Err(Error::Untrusted(unknown_key(info, signature.public())));
    }
    Ok(signature)
}

fn unknown_key(info: &ItemInfo, key: &PublicKey) -> String {
    format!(
        "import {}: it is signed by the key {key}, which is not among those whose items this agent takes; if it is the \
         coordinator's, which `drover key show` prints, put that into a file here and name it with --authorized-keys",
        info.path
    )
}

fn receive(
    store: &Store,
    info: &ItemInfo,
    item: &Item,
    signature: &Signature,
    from: &dyn Nars,
    wanted: Wanted<'_>,
) -> Result<Received, Error> {
    let stream = from
        .open(info)
        .map_err(|source| Error::Stream { attempted: format!("fetch the nar of {}", info.path), source })?;
    let received = nar::receive(store, item, stream, wanted)?;
    let hash = export_hash(received.after_nar().clone(), &info.path, &info.references, info.deriver.as_ref());
    signature.verify(&hash).map_err(|error| {
        let path = &info.path;
        Error::Untrusted(format!(
            "import {path}: its signature does not hold: {error}; the coordinator may be broken"
        ))
    })?;
    Ok(received)
}
